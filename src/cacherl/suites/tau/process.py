"""Our side of the bridge: a process of the benchmark's own interpreter, asked over its pipes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any

import msgspec

from cacherl.core.errors import ModelError, ToolError
from cacherl.core.records import JsonObject

BRIDGE = Path(__file__).with_name("bridge.py")
START_S = 180.0
"""How long the benchmark may take to import; tau2-bench pulls in pandas and litellm."""
ANSWER_S = 900.0
"""How long one request may take; a reward may ask a model."""

_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
_LAST_WORDS = 12


class Process:
    """A benchmark in a process of its own. Any number of requests may be under way; any thread may ask.

    Args:
        python: the interpreter that has the benchmark's packages.
        benchmark: `tau-bench` or `tau2-bench`.
        checkout: the folder that it is imported from.

    Raises:
        ToolError: the interpreter or the benchmark cannot be started; says what was seen.
    """

    def __init__(self, python: Path, benchmark: str, checkout: Path) -> None:
        self._called = f"{benchmark} ({checkout})"
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        try:
            process = subprocess.Popen(  # noqa: S603 - the interpreter that the user named
                [python, BRIDGE, benchmark, checkout.resolve()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=checkout,
            )
        except OSError as error:
            raise ToolError(
                f"{python}: cannot be run ({error.strerror}). Name the interpreter that has {benchmark}'s "
                "packages with `--python`."
            ) from error
        assert process.stdin is not None  # noqa: S101 - they are pipes
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        self._stdin = process.stdin
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {0: Future()}
        self._lock = threading.Lock()
        self._gone: str | None = None
        started = self._waiting[0]
        words: deque[str] = deque(maxlen=_LAST_WORDS)
        errors = threading.Thread(target=_drain, args=(process.stderr, words.append), daemon=True)
        answers = threading.Thread(
            target=self._listen, args=(process, process.stdout, errors, words), daemon=True
        )
        errors.start()
        answers.start()
        self._stop = weakref.finalize(self, _stop, process, answers)
        try:
            self.about: JsonObject = started.result(START_S)
        except TimeoutError as error:
            self.close()
            raise ToolError(
                f"{self._called} did not start within {START_S:.0f} s. Try `{python} -c 'import "
                f"{'tau2' if benchmark == 'tau2-bench' else 'tau_bench'}'` in {checkout}."
            ) from error
        except ToolError:
            self.close()
            raise

    def ask(self, op: str, **given: Any) -> Any:
        """Return the answer to a request.

        Raises:
            ModelError: whoever plays the user cannot be reached.
            ToolError: the benchmark failed, or its process is gone.
        """
        try:
            return self._asked(op, given).result(ANSWER_S)
        except TimeoutError as error:
            raise ToolError(
                f"{self._called}: no answer to `{op}` within {ANSWER_S:.0f} s. Run again; what is stored "
                "is kept."
            ) from error

    async def asked(self, op: str, **given: Any) -> Any:
        """Return the answer to a request. See `ask`."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.wrap_future(self._asked(op, given))
        except TimeoutError as error:
            raise ToolError(
                f"{self._called}: no answer to `{op}` within {ANSWER_S:.0f} s. Run again; what is stored "
                "is kept."
            ) from error

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._stop()

    def _asked(self, op: str, given: JsonObject) -> Future[Any]:
        answer: Future[Any] = Future()
        with self._lock:
            if self._gone is not None:
                raise ToolError(self._gone)
            number = next(self._numbers)
            self._waiting[number] = answer
            line = msgspec.json.encode({"id": number, "op": op, **given})
            try:
                self._stdin.write(line + b"\n")
                self._stdin.flush()
            except (OSError, ValueError):  # the listener says why
                pass
        return answer

    def _listen(
        self,
        process: subprocess.Popen[bytes],
        lines: IO[bytes],
        errors: threading.Thread,
        words: deque[str],
    ) -> None:
        with lines:
            for line in lines:
                told = msgspec.json.decode(line)
                with self._lock:
                    answer = self._waiting.pop(told["id"], None)
                if answer is None or answer.cancelled():
                    continue
                if "error" in told:
                    answer.set_exception(self._trouble(**told["error"]))
                else:
                    answer.set_result(told["ok"])
        code = process.wait()
        errors.join()
        said = " | ".join(word for word in words if word) or "it said nothing"
        self._end(f"{self._called} has ended (exit {code}): {said[-600:]}. Run again.")

    def _trouble(self, kind: str, message: str) -> Exception:
        said = " ".join(message.split())
        if kind == "user":
            return ModelError(
                f"{self._called}: its user model failed: {said}. Check its key and name."
            )
        if kind == "start":
            return ToolError(f"{self._called} cannot be used: {said}.")
        return ToolError(f"{self._called}: {said}.")

    def _end(self, why: str) -> None:
        with self._lock:
            self._gone = why
            left, self._waiting = self._waiting, {}
        for answer in left.values():
            if not answer.done():
                answer.set_exception(ToolError(why))


def _drain(lines: IO[bytes], keep: Callable[[str], None]) -> None:
    with lines:
        for line in lines:
            keep(line.decode(errors="replace").strip())


def _stop(process: subprocess.Popen[bytes], listener: threading.Thread) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if threading.current_thread() is not listener:
        listener.join()
