"""Agents on the hosts of a run: started over the system's ssh, watched, and taken down again."""

from __future__ import annotations

from cluster.hosts.connect.fleet import Change, Fleet, HostEvent
from cluster.hosts.connect.host import ClockOffset, Host, HostState, Patience, Reach
from cluster.hosts.connect.judge import Judge
from cluster.hosts.connect.jury import Jury
from cluster.hosts.connect.lacking import installing
from cluster.hosts.connect.ssh import agent_command, is_here

__all__ = [
    "Change",
    "ClockOffset",
    "Fleet",
    "Host",
    "HostEvent",
    "HostState",
    "Judge",
    "Jury",
    "Patience",
    "Reach",
    "agent_command",
    "installing",
    "is_here",
]
