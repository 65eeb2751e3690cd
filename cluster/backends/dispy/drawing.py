"""What a dispy job does on its host: it passes the task to the workers there, and waits.

So no kernel runs in a process of dispy. There, a crash would cost the slot permanently, and a kill
at the wrong moment, which leaves the queue of answers locked, all answers of the node.
"""

from __future__ import annotations

import gc
import json
import os
import socket
from contextlib import suppress

from cluster.hosts.agent_client import ask, slots_address
from cluster.hosts.process_tree import die_with_parent


def prepare() -> None:
    """Prepare the process that jobs are forked from."""
    die_with_parent()
    os.register_at_fork(after_in_child=die_with_parent)
    # The collector writes to the objects' headers; every job would then copy those pages.
    gc.collect()
    gc.freeze()
    gc.disable()
    for entry in os.listdir("/proc/self/fd"):
        _let_go(int(entry))


def draw(text: str) -> str:
    """Have a task drawn by this host's workers.

    Args:
        text: the task's fields as JSON.

    Returns:
        The outcome's fields as JSON.

    Raises:
        ConnectionError: the host's agent has ended.
    """
    return json.dumps(ask(slots_address(), json.loads(text)), separators=(",", ":"))


def _let_go(descriptor: int) -> None:
    """Close an inherited network socket: it would keep a port or connection of dispynode open."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as copy:
        if copy.family in (socket.AF_INET, socket.AF_INET6):
            os.close(descriptor)
