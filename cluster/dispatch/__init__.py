"""The dispatcher: every decision while a run is being computed, independent of the engine.

Task sizes, retries, deadlines, speculative copies and stopping are implemented once, for all
engines. :class:`Loop` reads one item at a time from the engine: an outcome, an event of a node, or
a tick. :class:`MultiScheduler` decides which run gets a free slot, and a :class:`RunScheduler`
decides everything about one run. They write only through the ledger's writer, and read only the
clock that they are given, so that tests can simulate both.
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
