"""From the reliability of a run's chains to one HTML page that needs nothing beside itself."""

from __future__ import annotations

from pathlib import Path

from cacherl.core.jsonl import atomic_writer
from cacherl.evaluate.reliability import Reliability
from cacherl.evaluate.summary import bound_text
from cacherl.report.page import templates


def render_reliability(found: Reliability) -> str:
    """Return the page. Same figures, same page; names of models and folders are never markup."""
    view = {"found": found, "ceiling": bound_text(found.ceiling)}
    return str(templates().get_template("reliability.html.j2").render(view))


def write_reliability(found: Reliability, path: Path) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    with atomic_writer(path) as handle:
        handle.write(render_reliability(found).encode("utf-8", "replace"))
