"""Turns of formats that write one conversation as `{"from": ..., "value": ...}` entries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cacherl.core.messages import Call
from cacherl.formats.conversation import Builder, looks_like_error
from cacherl.formats.rows import Unreadable
from cacherl.formats.written_values import a_list, a_text
from cacherl.toolbox.mcp_results import error_class_of


@dataclass(frozen=True, slots=True)
class Entry:
    """Who spoke, what, and where in the row it stands."""

    tag: str
    text: str
    field: str


def entries_of(value: Any, field: str, *, tag: str = "from", text: str = "value") -> list[Entry]:
    """Return the entries of a conversation, which may stand as JSON inside a string.

    Raises:
        Unreadable: it is no list of entries with a tag and a text.
    """
    found = []
    for place, each in enumerate(a_list(value, field)):
        here = f"{field}[{place}]"
        if not isinstance(each, dict):
            raise Unreadable(here, "no object")
        said = each.get(tag)
        if not isinstance(said, str):
            raise Unreadable(f"{here}.{tag}", "missing" if said is None else "no text")
        found.append(Entry(said, a_text(each.get(text), f"{here}.{text}"), here))
    return found


def answer(builder: Builder, text: str, *, call_id: str = "", name: str = "") -> None:
    """Add what a tool answered, where the format has no field that says whether it failed.

    Raises:
        Unreadable: no call waits for a result.
    """
    failed = looks_like_error(text)
    builder.result(
        text,
        call_id=call_id,
        name=name,
        is_error=failed,
        error_class=error_class_of(text) if failed else None,
    )


class AssistantTurn:
    """Collects what the model said before anyone answered, however many entries it took.

    Thinking, words and each parallel call may stand in entries of their own; together they are one turn.
    """

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._content: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[Call] = []
        self._open = False

    def add(
        self, content: str = "", *, thinking: str | None = None, calls: Iterable[Call] = ()
    ) -> None:
        """Add to the turn; an empty entry still is one."""
        self._open = True
        self._calls += calls
        if content:
            self._content.append(content)
        if thinking:
            self._thinking.append(thinking)

    def end(self) -> None:
        """Hand the turn to the builder, if the model said anything since the last end."""
        if not self._open:
            return
        self._builder.assistant(
            "\n\n".join(self._content), thinking="\n\n".join(self._thinking), calls=self._calls
        )
        self._content, self._thinking, self._calls, self._open = [], [], [], False
