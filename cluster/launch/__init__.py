"""Agents on the hosts of a run: started over the system's ssh, watched, and taken down again."""

from __future__ import annotations

from cluster.launch.fleet import Change, Fleet, Happening
from cluster.launch.host import Clock, Host, Patience, Reach, Standing
from cluster.launch.judge import Judge
from cluster.launch.jury import Jury
from cluster.launch.lacking import installing
from cluster.launch.ssh import agent_command, is_here

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
