"""`cacherl` as processes that start in milliseconds and can be killed for good.

One process imports everything and forks a child for each command: the same code in a real process of
its own, which `kill -9` really ends, without a second of imports each time.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.record.lasting_desk import FOLDER

ROOT = Path(__file__).parents[2]


class Preloaded:
    """Commands run one at a time, each until it ends or is killed."""

    def __init__(self, folder: Path, *modules: str) -> None:
        """`folder` takes what the commands print (`log`) and what the lasting desk keeps.

        `modules` are imported beside those of recording.
        """
        self.folder, self.log = folder, folder / "log.txt"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.record.preloaded", str(self.log), *modules],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
                "OPENAI_API_KEY": "none",
                FOLDER: str(folder),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        until: Callable[[], bool] = lambda: False,
        end: signal.Signals = signal.SIGKILL,
    ) -> int:
        """Run one command; once `until` says so it is sent `end`. Returns the exit code, or -signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(each) for each in arguments]).encode() + b"\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        os.set_blocking(self._process.stdout.fileno(), False)
        try:
            sent = False
            while not (code := self._process.stdout.readline()):
                if not sent and until():
                    os.kill(pid, end)
                    sent = True
                time.sleep(0.001)
        finally:
            os.set_blocking(self._process.stdout.fileno(), True)
        return int(code)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __enter__(self) -> Preloaded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(log: str, *modules: str) -> None:
    import any_llm.providers.openai  # noqa: F401 - each child would load it anew

    import cacherl.adapters.any_llm_completions
    import cacherl.augment.rehearsal
    import cacherl.cache.safety.redact
    import cacherl.record.folder
    import cacherl.toolbox.functions
    import cacherl.toolbox.written_tasks
    import cacherl.worlds.desk  # noqa: F401
    from cacherl.cli import main
    from cacherl.core.languages import detector

    detector()
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            # A shell that runs the tests in the background lets them ignore Ctrl-C, and children inherit that.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            kept = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for descriptor in (1, 2):
                os.dup2(kept, descriptor)
            code = 70
            try:
                main(json.loads(line))
            except SystemExit as exit:
                code = int(exit.code or 0)
            except Exception:  # noqa: BLE001 - the parent goes on; the log tells
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)  # noqa: T201 - the protocol
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve(*sys.argv[1:])
