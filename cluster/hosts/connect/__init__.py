"""Agents on the hosts of a run: started over the system's ssh, watched, and taken down again."""

from __future__ import annotations

from cluster.hosts.connect.fleet import Change, Fleet, Happening
from cluster.hosts.connect.host import Clock, Host, Patience, Reach, Standing
from cluster.hosts.connect.judge import Judge
from cluster.hosts.connect.jury import Jury
from cluster.hosts.connect.lacking import installing
from cluster.hosts.connect.ssh import agent_command, is_here

__all__ = [
    "Change",
    "Clock",
    "Fleet",
    "Happening",
    "Host",
    "Judge",
    "Jury",
    "Patience",
    "Reach",
    "Standing",
    "agent_command",
    "installing",
    "is_here",
]
