"""The only job that a stock dispynode is given: it starts an agent there, and waits for its end."""

from __future__ import annotations

import json

from cluster.backends.dispy.pipe import serve_agent
from cluster.backends.kit.door import connect
from cluster.hosts.process_tree import die_with_parent


def answer(text: str) -> str:
    """Start an agent on this host, and connect it to the dispatcher until either ends.

    Args:
        text: as JSON, ``slots`` and the arguments of :func:`connect`.

    Returns:
        An empty object, as JSON.

    Raises:
        OSError: the dispatcher's machine cannot be reached from this host.
    """
    die_with_parent()
    asked = json.loads(text)
    with connect(asked) as connection:
        serve_agent(connection, asked["slots"])
    return "{}"
