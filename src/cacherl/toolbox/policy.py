"""May this call be made again, and when? Decisions about live calls, without making any."""

from __future__ import annotations

import json
from typing import Annotated

import msgspec

from cacherl.core.records import Record
from cacherl.core.schema import error_text
from cacherl.core.sources import Answer
from cacherl.core.tools import Effects, ErrorClass

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Many = Annotated[int, msgspec.Meta(ge=1)]
Some = Annotated[int, msgspec.Meta(ge=0)]


class CallPolicy(Record, frozen=True, kw_only=True):
    """How live calls are made. The table `[policy]` of a tools file."""

    timeout_s: Seconds = 60.0
    """Of one attempt, from when its turn has come."""
    concurrency: Many = 8
    """Calls under way at once, per source, over all episodes of a world."""
    retries: Some = 2
    """Attempts after the first. Transient errors only, and never of a writer that may have run."""
    first_wait_s: Seconds = 0.5
    """Before the second attempt, at most; doubled before each further one."""
    longest_wait_s: Seconds = 30.0
    deadline_s: Seconds | None = None
    """Of one call with all its attempts and waits; None bounds each attempt alone."""
    restarts: Some = 3
    """Of a source, in a row, with no answered call between them. Then it stays down."""


class ToolRule(Record, frozen=True, kw_only=True):
    """What a person says of one tool; it wins over what its source says. The tables `[tools.NAME]`."""

    reads: tuple[str, ...] | None = None
    writes: tuple[str, ...] | None = None
    idempotent: bool | None = None
    open_world: bool | None = None
    timeout_s: Seconds | None = None
    concurrency: Many | None = None
    """Calls of this tool under way at once, within those of its source."""
    retries: Some | None = None
    hide: bool = False
    """Do not offer the tool. It keeps its name all the same: hiding one of two renames none."""

    def effects(self, declared: Effects) -> Effects:
        """Return the effects of the tool: what is said here, and else what is declared."""
        said = {
            name: value
            for name in ("reads", "writes", "idempotent", "open_world")
            if (value := getattr(self, name)) is not None
        }
        return msgspec.structs.replace(declared, **said)

    def policy(self, general: CallPolicy) -> CallPolicy:
        """Return how this tool is called. Its source's concurrency stays the source's."""
        return msgspec.structs.replace(
            general,
            timeout_s=self.timeout_s or general.timeout_s,
            retries=general.retries if self.retries is None else self.retries,
        )


def may_repeat(answer: Answer, effects: Effects) -> bool:
    """Say whether making the call once more could do no harm and some good.

    Good: only after a transient error, the others would be the same again. Harm: a writer that may
    have run would write twice. One that is idempotent is no exception: the second DELETE is answered
    404, and that would be recorded as what the first one said.
    """
    if answer.error_class is not ErrorClass.TRANSIENT:
        return False
    return not answer.may_have_run or not effects.writes


def wait_s(policy: CallPolicy, *, attempt: int, spent_s: float, draw: float) -> float | None:
    """Return how long to wait before the next attempt, or None where there is none.

    Args:
        policy: the bounds.
        attempt: attempts made so far, at least 1.
        spent_s: since the call was asked for, waits and queues included.
        draw: in [0, 1). Half of each wait is drawn, so that callers who failed together do not come
            back together.

    Source: exponential back-off with equal jitter, as in "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015.
    """
    if attempt > policy.retries:
        return None
    longest = min(policy.longest_wait_s, policy.first_wait_s * 2.0 ** min(attempt - 1, 60))
    wait = longest * (0.5 + 0.5 * draw)
    if policy.deadline_s is not None and spent_s + wait >= policy.deadline_s:
        return None
    return wait


def attempt_s(policy: CallPolicy, *, spent_s: float) -> float:
    """Return the time limit of the next attempt: its own, or what the deadline has left. Never negative."""
    if policy.deadline_s is None:
        return policy.timeout_s
    return max(0.0, min(policy.timeout_s, policy.deadline_s - spent_s))


def timed_out(limit_s: float, effects: Effects) -> Answer:
    """Return the answer to a call that was given up at its time limit."""
    return Answer(
        text=error_text("timeout", f"no answer within {limit_s:g} s. {_outcome(True, effects)}"),
        error_class=ErrorClass.TRANSIENT,
    )


def interrupted(source: str, tool: str, answer: Answer, effects: Effects) -> Answer:
    """Return the answer to a call that met its source going down, as a model is told of it.

    The source's own words (exit codes, last lines of a log) differ from run to run and may hold
    what no model should learn, so they are left to the person: see `message_of`.
    """
    what = (
        f"{source} stopped while {tool} was under way."
        if answer.may_have_run
        else f"{source} could not be reached."
    )
    return Answer(
        text=error_text("unavailable", f"{what} {_outcome(answer.may_have_run, effects)}"),
        error_class=ErrorClass.TRANSIENT,
        may_have_run=answer.may_have_run,
        down=True,
    )


def _outcome(may_have_run: bool, effects: Effects) -> str:
    if not may_have_run:
        return "The call did not run."
    if not effects.writes:
        return "The tool only reads: nothing was changed."
    return "The call may or may not have taken effect."


def message_of(text: str) -> str:
    """Return the words of an error text that `error_text` wrote, and any other text as it is."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text
    message = said.get("message") if isinstance(said, dict) else None
    return message if isinstance(message, str) else text
