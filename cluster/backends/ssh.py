"""The engine ``ssh``: workers on several hosts, over the agents' ssh channels, without a port."""

from __future__ import annotations

from cluster.backends.hosted import Hosted
from cluster.common.engines import Entry
from cluster.hosts.connect import Host
from cluster.sampling.task import Task

ENTRY = Entry(
    "ssh",
    "worker processes on several hosts, over plain ssh; no port is opened",
    kind="hosted",
)


class Engine(Hosted):
    """Sends tasks over the same connections as all other messages to the agents."""

    def _give(self, task: Task, host: Host | None) -> None:
        if host is not None:
            host.say({"tasks": [task]})
