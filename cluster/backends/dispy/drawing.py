"""What a dispy job does on its host: it hands the task to the workers there, and waits.

So no kernel ever runs in a process of dispy's, where one that crashes would cost a slot for good,
and one that is killed at the wrong moment all answers of the node.
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
    """Make the process that jobs are forked from fit for it."""
    die_with_parent()
    os.register_at_fork(after_in_child=die_with_parent)
    # Pages that a collection writes to are copied for every job.
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
        ConnectionError: the workers have gone.
    """
    return json.dumps(ask(slots_address(), json.loads(text)), separators=(",", ":"))


def _let_go(descriptor: int) -> None:
    """Close a network connection of dispynode's: only itself may hold those, and its port."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as copy:
        if copy.family in (socket.AF_INET, socket.AF_INET6):
            os.close(descriptor)
