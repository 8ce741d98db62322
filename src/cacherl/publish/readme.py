"""The README of a repository: front matter that a hub reads, and Markdown that people read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from cacherl import __version__
from cacherl.core.records import JsonObject
from cacherl.publish.contents import PARQUET
from cacherl.select.card import Card, SourceRow

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_LICENCES = frozenset(
    {
        "afl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0",
        "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0",
        "cc-by-sa-4.0", "cc0-1.0", "gpl-3.0", "lgpl-3.0", "mit", "mpl-2.0", "odbl", "odc-by", "openrail",
        "pddl", "unlicense",
    }
)  # fmt: skip
"""Ids that the Hub knows; others are `other`, with their name."""
_SHOWN = 30


def dataset_readme(
    card: Card, repo: str, *, licence: str | None, has_table: bool, files: Sequence[str]
) -> str:
    """Return the README of a data set.

    Args:
        card: what the set holds.
        repo: where it goes, for the commands.
        licence: SPDX id of the whole; None takes what its sources say.
        has_table: whether the Parquet file goes along; without it nothing can be loaded by `datasets`.
        files: the names of the files beside it.
    """
    return f"---\n{_yaml(front_matter(card, licence=licence, has_table=has_table))}---\n\n" + (
        "\n\n".join(_sections(card, repo, has_table=has_table, files=files)) + "\n"
    )


def cache_readme(
    name: str, repo: str, calls: int, tools: Iterable[str], licence: str | None
) -> str:
    """Return the README of a repository that holds a cache alone."""
    matter = {
        **_licence(licence, ()),
        "tags": ["cacherl", "cacherl-cache", "tool-use"],
        "viewer": False,
    }
    return (
        f"---\n{_yaml(matter)}---\n\n# {_plain(name)}\n\nRecorded results of {calls:,} tool calls, for "
        "training and testing agents without their tools.\n\n"
        f"    cacherl hub pull {repo}\n    cacherl cache stats {name}\n\nTools: {_names(tools)}.\n"
    )


def model_readme(name: str, licence: str | None) -> str:
    """Return the README of a model that has none of its own."""
    matter = {
        **_licence(licence, ()),
        "library_name": "transformers",
        "tags": ["cacherl", "tool-use"],
    }
    return f"---\n{_yaml(matter)}---\n\n# {_plain(name)}\n\nA model that calls tools, made with cacherl {__version__}.\n"


def front_matter(card: Card, *, licence: str | None, has_table: bool) -> JsonObject:
    """Return what the Hub and `datasets` read of a README."""
    matter: JsonObject = {
        **_licence(licence, card.sources),
        "language": [
            tag for tag in card.languages if re.fullmatch(r"[a-z]{2,3}", tag) and tag != "und"
        ],
        "size_categories": [_size(card.trajectories)],
        "task_categories": ["text-generation"],
        "tags": ["cacherl", "tool-use", "function-calling", "agent"],
    }
    if not matter["language"]:
        del matter["language"]
    if has_table:
        files = [{"split": "train", "path": PARQUET}]
        matter["configs"] = [{"config_name": "default", "data_files": files}]
    else:
        matter["viewer"] = False
    return matter


def _size(count: int) -> str:
    return next((name for most, name in _SIZES if count < most), "n>10M")


def _licence(licence: str | None, sources: Iterable[SourceRow]) -> JsonObject:
    said = {licence} if licence else {row.licence for row in sources}
    if len(said) != 1:
        return {"license": "other" if said else "unknown"}
    one = said.pop()
    if not one:
        return {"license": "unknown"}
    if one.lower() in _LICENCES:
        return {"license": one.lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]+", "-", one.lower())}


def _yaml(value: JsonObject) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _sections(card: Card, repo: str, *, has_table: bool, files: Sequence[str]) -> Iterable[str]:
    yield f"# {_plain(card.name)}"
    yield (
        f"{card.trajectories:,} conversations of agents with tools: {card.tasks:,} tasks, "
        f"{len(card.tools):,} tools that are called, {sum(t.calls for t in card.tools):,} calls, "
        f"{sum(card.tokens.by_part.values()):,} tokens ({_plain(card.tokens.counted_by)})."
    )
    load = [f"cacherl hub pull {repo}    # all of it, checked"]
    if has_table:
        load.insert(0, f'datasets.load_dataset("{repo}")    # Python: the conversations, for TRL')
    yield "\n".join(f"    {line}" for line in load)
    if card.warnings:
        yield "## To be looked at\n\n" + "\n".join(f"- {_plain(w.text)}" for w in card.warnings)
    yield "## What it holds\n\n" + _table(
        ("", ""),
        [
            ("languages", _counts(card.languages)),
            ("families", _counts(card.families)),
            ("splits", _counts(card.splits)),
            ("who acted", _counts(card.policies)),
            ("calls each", f"{card.calls.mean:.1f} on average, {card.calls.largest:,} at most"),
            (
                "thinking tokens each",
                f"{card.tokens.thinking_per_trajectory:.0f}, in {card.tokens.thinking_trajectories:,} "
                "conversations",
            ),
        ],
    )
    yield (
        "## Tools\n\n"
        + _table(
            ("tool", "calls", "conversations", "errors"),
            [
                (_code(t.name), f"{t.calls:,}", f"{t.trajectories:,}", f"{t.errors:,}")
                for t in card.tools[:_SHOWN]
            ],
        )
        + (f"\n\nand {len(card.tools) - _SHOWN:,} more." if len(card.tools) > _SHOWN else "")
    )
    yield "## Where it comes from\n\n" + _table(
        ("source", "file", "licence", "conversations"),
        [
            (row.format, row.file, _said(row.licence), f"{row.trajectories:,}")
            for row in card.sources
        ],
    )
    if card.selection is not None:
        yield (
            f"## How it was chosen\n\nOf {card.selection.considered:,} conversations: "
            f"{_plain(_counts(card.selection.by_verdict))}."
        )
    if card.verifiers:
        yield "## How right it is\n\n" + _table(
            ("check", "known of", "right", "mean"),
            [(v.name, f"{v.known:,}", f"{v.right:,}", f"{v.mean:.2f}") for v in card.verifiers],
        )
    yield "## Files\n\n" + "\n".join(f"- `{name}`: {_FILES.get(name, '')}" for name in files)
    yield f"Made {card.made_at} with cacherl {card.version}."


_FILES: Mapping[str, str] = {
    "tasks.jsonl": "what was asked, with which tools, and what is right where that is known",
    "trajectories.jsonl": "conversations as they were recorded or imported",
    "augmented.jsonl": "the same with the reasoning before each turn",
    "selected.jsonl": "those worth learning from",
    "cache.sqlite": "every recorded tool result, to replay them without the tools",
    "card.json": "this page as figures",
    "card.html": "this page with pictures and examples",
    PARQUET: "the conversations as TRL and `datasets` read them",
}


def _said(licence: str | None) -> str:
    return "nobody said" if licence is None else licence or "the publisher's own"


def _counts(counts: Mapping[str, int], shown: int = 12) -> str:
    said = [f"{name} {count:,}" for name, count in list(counts.items())[:shown]]
    rest = len(counts) - shown
    return ", ".join([*said, *([f"and {rest} more"] if rest > 0 else [])]) or "none"


def _names(names: Iterable[str]) -> str:
    every = sorted(names)
    more = f" and {len(every) - _SHOWN:,} more" if len(every) > _SHOWN else ""
    return (", ".join(_code(name) for name in every[:_SHOWN]) or "none") + more


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text if text == "---" or text.startswith("`") else _plain(text)


def _plain(text: str) -> str:
    """Return names and words of others as text: neither Markdown, nor HTML, nor a second line."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*\[\]<>|#&])", r"\\\1", flat)


def _code(text: str) -> str:
    flat = "".join(c if c.isprintable() and c not in "`|" else "?" for c in text)
    return f"`{flat}`"
