"""Workers over plain ssh channels: several hosts without an engine, and without an open port."""

from __future__ import annotations

from cluster.backends.hosted import Hosted
from cluster.hosts.connect import Host
from cluster.sampling.task import Task


class Engine(Hosted):
    """The agents themselves carry the tasks."""

    def _give(self, task: Task, host: Host | None) -> None:
        if host is not None:
            host.say({"tasks": [task]})
