"""ShareGPT as LLaMA-Factory reads it: `conversations` of `{"from", "value"}`, `tools`, `system`.

Tags are `human`, `gpt`, `function_call`, `observation` and `system`, and can be named otherwise in a
`dataset_info.json`, which is read where it stands beside the file. Roles alternate: a person or an
observation, then the model; a row that breaks this is skipped, as LLaMA-Factory skips it.

A `function_call` is one call or a JSON list of them; an observation after several is shared out where it is
a JSON list of as many answers, else it answers the first call and the note `unshared` counts it.

Source: hiyouga/LLaMA-Factory, data/README.md and src/llamafactory/data/converter.py (read for the rules).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from cacherl.core.messages import Call
from cacherl.core.records import JsonObject
from cacherl.formats.conversation import Builder, Conversation
from cacherl.formats.declarations import specs_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.rows import Row, Unreadable, rows_of
from cacherl.formats.turns import Entry, answer, entries_of
from cacherl.formats.written_calls import call_in, thought_apart
from cacherl.formats.written_values import a_text, an_object, as_text, decoded, literal

NAME = "sharegpt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """Under which names a file keeps what, in the words of `dataset_info.json`."""

    messages: str = "conversations"
    system: str = "system"
    tools: str = "tools"
    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    observation_tag: str = "observation"
    function_tag: str = "function_call"
    system_tag: str = "system"


USUAL = Tags()


def read_file(path: Path, reading: Reading) -> Iterator[Conversation]:
    """Yield the file's conversations, under the tags that a `dataset_info.json` beside it names."""
    tags = tags_for(path)
    for row in rows_of(path, on_skip=reading.on_skip):
        try:
            yield read_row(row, reading, tags)
        except Unreadable as error:
            reading.skip(row.where, error.field, error.problem)


def tags_for(path: Path) -> Tags:
    """Return the tags that `dataset_info.json` beside a file names for it, or the usual ones."""
    try:
        listed = msgspec.json.decode((path.parent / "dataset_info.json").read_bytes())
    except (OSError, msgspec.DecodeError, RecursionError):
        return USUAL
    for about in listed.values() if isinstance(listed, dict) else ():
        if isinstance(about, dict) and about.get("file_name") in (path.name, str(path)):
            named: JsonObject = {}
            for part in ("columns", "tags"):
                said = about.get(part)
                named |= said if isinstance(said, dict) else {}
            known = Tags.__dataclass_fields__.keys() & named.keys()
            return replace(USUAL, **{k: named[k] for k in known if isinstance(named[k], str)})
    return USUAL


def read_row(row: Row, reading: Reading, tags: Tags = USUAL) -> Conversation:
    """Return the row's conversation.

    Raises:
        Unreadable: it is none, or its roles do not alternate.
    """
    value = an_object(row.value(), "")
    entries = entries_of(
        value.get(tags.messages), tags.messages, tag=tags.role_tag, text=tags.content_tag
    )
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    system = a_text(value.get(tags.system), tags.system)
    if entries and entries[0].tag == tags.system_tag:
        system = entries.pop(0).text
    builder.system(system)
    waiting = unshared = 0
    for place, entry in enumerate(entries):
        _check_order(place, entry, tags)
        if entry.tag == tags.user_tag:
            builder.user(entry.text)
        elif entry.tag == tags.observation_tag:
            answers = _shared(entry.text, waiting)
            unshared += len(answers) != waiting
            for each in answers:
                answer(builder, each)
        else:
            thinking, text = thought_apart(entry.text)
            calls = _calls(text) if entry.tag == tags.function_tag else []
            waiting = len(calls)
            builder.assistant("" if calls else text, thinking=thinking, calls=calls)
    return builder.build(
        task_id=reading.task_id(row, value.get("id")),
        tools=specs_of(value.get(tags.tools), tags.tools),
        language=reading.language,
        split=reading.split,
        policy=reading.policy,
        notes={"unshared": unshared} if unshared else {},
    )


def _check_order(place: int, entry: Entry, tags: Tags) -> None:
    asks = (tags.user_tag, tags.observation_tag)
    answers = (tags.assistant_tag, tags.function_tag)
    if entry.tag not in (*asks, *answers):
        raise Unreadable(f"{entry.field}.{tags.role_tag}", f"unknown tag {entry.tag!r}")
    awaited = answers if place % 2 else asks
    if entry.tag not in awaited:
        raise Unreadable(
            f"{entry.field}.{tags.role_tag}",
            f"{entry.tag!r} where {' or '.join(awaited)} belongs: roles alternate in this format",
        )


def _calls(text: str) -> list[Call]:
    try:
        value = literal(text)
    except ValueError:
        return [call_in(None, text)]
    listed = value if isinstance(value, list) and value else [value]
    return [call_in(each, as_text(each)) for each in listed]


def _shared(text: str, calls: int) -> list[str]:
    """Return an observation's answers, one a call, where it holds as many; else itself."""
    if calls < 2:
        return [text]
    try:
        value = decoded(text)
    except ValueError:
        return [text]
    if isinstance(value, list) and len(value) == calls:
        return [as_text(each) for each in value]
    return [text]


def _sniff(value: Any) -> bool:
    first = value["conversations"][0]
    return isinstance(first["from"], str) and "value" in first


SHAREGPT = Format(
    name=NAME,
    title="ShareGPT with tools, as LLaMA-Factory reads it",
    read_file=read_file,
    sniff=_sniff,
)
