"""The one loop: plan x backend -> outcomes. Whatever must be decided while a run runs is here.

Leases, retries, deadlines, second copies, stopping: once, for all engines. The loop reads one
item at a time from the engine (an outcome, a node's event, or a tick). :class:`MultiScheduler`
decides whose turn it is, and a :class:`RunScheduler` all that concerns one run; they touch neither
disk (but through the ledger's writer) nor clock (but the one they are given).
"""

from __future__ import annotations

from cluster.dispatch.clock import Clock, SystemClock, Unstepped
from cluster.dispatch.ending import Ending
from cluster.dispatch.loop import Loop, Stop
from cluster.dispatch.many import Manner, MultiScheduler
from cluster.dispatch.membership import Membership
from cluster.dispatch.recount import added_up, recount
from cluster.dispatch.scheduler import Policy, RunScheduler

__all__ = [
    "Clock",
    "Ending",
    "Loop",
    "Manner",
    "Membership",
    "MultiScheduler",
    "Policy",
    "RunScheduler",
    "Stop",
    "SystemClock",
    "Unstepped",
    "added_up",
    "recount",
]
