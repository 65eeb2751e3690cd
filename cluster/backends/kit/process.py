"""The host's side of an engine's process, which the host's agent has started.

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
    """Run an engine's process on a host; it ends with the agent, and so do its children.

    Args:
        serve: called with the first message, and with a function that sends one to the dispatcher.
    """
    die_with_parent()
    # A parent-death signal is not inherited: every forked child has to ask for its own.
    os.register_at_fork(after_in_child=die_with_parent)
    lines = PipeLines(*take_descriptors())
    try:
        serve(lines.read(), lines.write)
    except Exception as error:
        end(f"{type(error).__name__}: {error}")


def beat(say: Say, words: Callable[[], Mapping[str, Any] | None] | None = None) -> None:
    """Send a heartbeat each second, from a thread.

    Args:
        say: sends a message to the dispatcher.
        words: returns the message; if it returns None, the heartbeats end, and the dispatcher
            kills this process for its silence. None: plain heartbeats.
    """

    def turn() -> None:
        while (said := words() if words else {"beat": time.monotonic()}) is not None:
            say(said)
            time.sleep(BEAT)

    threading.Thread(target=turn, daemon=True).start()


def end(reason: str) -> NoReturn:
    """Write the reason to standard error, and end this process without its exit handlers."""
    sys.stderr.write(f"{reason}\n")
    sys.stderr.flush()
    os._exit(1)
