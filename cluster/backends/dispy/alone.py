"""What the one job does that a stock dispynode is given: it starts an agent there, and waits."""

from __future__ import annotations

import json

from cluster.backends.dispy.pipe import serve_agent
from cluster.backends.kit.door import connect
from cluster.hosts.process_tree import die_with_parent


def answer(text: str) -> str:
    """Have the dispatcher that sent this speak to an agent of this host, until one of them ends.

    Args:
        text: as JSON, ``slots`` and where to connect to, see :func:`connect`.

    Returns:
        An empty object, as JSON.

    Raises:
        OSError: the dispatcher cannot be reached from here.
    """
    die_with_parent()
    asked = json.loads(text)
    with connect(asked) as connection:
        serve_agent(connection, asked["slots"])
    return "{}"
