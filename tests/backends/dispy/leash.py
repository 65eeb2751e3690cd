"""A command that ends with whoever started it, with all that came of it, however that one ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.hosts.process_tree import adopt, descendants

_LOOK = 0.5


@contextmanager
def led(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on a leash: what is yielded is the process that holds it."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, *command],
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            cwd=Path(__file__).parents[3],
        )
    assert process.stdin is not None
    with process:
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(10)


def main() -> None:
    """Start it, wait until the input ends or the parent is gone, and kill all that descends."""
    parent = os.getppid()
    adopt()
    subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    while os.getppid() == parent and not select.select([0], [], [], _LOOK)[0]:
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
    while left := descendants(os.getpid()):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


if __name__ == "__main__":
    main()
