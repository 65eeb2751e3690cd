"""The agents on the hosts of a run: how they are started, watched, restarted and ended."""

from __future__ import annotations

from cluster.hosts.connect.fleet import Change, Fleet, HostEvent
from cluster.hosts.connect.host import (
    Channel,
    ClockOffset,
    Dial,
    Host,
    HostState,
    Patience,
    Reach,
    start_agent,
)
from cluster.hosts.connect.ssh import agent_command, is_here

__all__ = [
    "Change",
    "Channel",
    "ClockOffset",
    "Dial",
    "Fleet",
    "Host",
    "HostEvent",
    "HostState",
    "Patience",
    "Reach",
    "agent_command",
    "is_here",
    "start_agent",
]
