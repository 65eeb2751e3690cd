"""The host's side of a process that an engine has there, started by the host's agent.

The dispatcher's side is :class:`cluster.backends.kit.remote.RemoteProcess`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from cluster.backends.kit.remote import BEAT
from cluster.hosts.process_tree import die_with_parent
from cluster.hosts.worker import PipeLines, take_descriptors

Say = Callable[[Mapping[str, Any]], object]


def run(serve: Callable[[Mapping[str, Any], Say], object]) -> None:
    """Be such a process, with all that comes of it, until the agent ends.

    Args:
        serve: is given the first message, and what says something to the dispatcher.
    """
    die_with_parent()
    os.register_at_fork(after_in_child=die_with_parent)
    lines = PipeLines(*take_descriptors())
    try:
        serve(lines.read(), lines.write)
    except Exception as error:
        end(f"{type(error).__name__}: {error}")


def beat(say: Say, words: Callable[[], Mapping[str, Any] | None] | None = None) -> None:
    """Give a sign of life each second, in a thread.

    Args:
        say: says it.
        words: what to say; None ends the beats, and with them, after a while, this process.
    """

    def turn() -> None:
        while (said := words() if words else {"beat": time.monotonic()}) is not None:
            say(said)
            time.sleep(BEAT)

    threading.Thread(target=turn, daemon=True).start()


def end(reason: str) -> NoReturn:
    """End this process at once, whatever its threads and exit handlers would do, and say why."""
    sys.stderr.write(f"{reason}\n")
    sys.stderr.flush()
    os._exit(1)
