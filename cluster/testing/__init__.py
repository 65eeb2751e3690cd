"""For those who write a backend or a kernel: the conformance suite, a zoo, a clock, a cluster.

* :func:`engine_suite`: all that an engine must do, must survive and must recover from, as cases to
  parametrize a test over; ``python -m cluster.testing MODULE:Engine`` runs them without pytest.
* :data:`CHECKS`: what every engine must do, each a function of a :class:`Subject` that raises
  AssertionError.
* :data:`HOSTILE`: kernels that misbehave, and what must become of each.
* :data:`KILLS`: processes of an engine, any of which may be killed while a run goes on.
* :class:`FakeClock`, :class:`Simulated`: a cluster with faults, in no time, from a seed.
* :func:`drive`: a whole run on any engine, with a real ledger, down to its digest.
"""

from __future__ import annotations

from cluster.testing.checks import (
    BAD_BLOCK,
    CHECKS,
    HOSTILE,
    PLAIN,
    SLEEPS,
    Driven,
    Hostile,
    Make,
    OneRun,
    Script,
    Subject,
    check_hostile,
    drive,
    entered,
    work_of,
)
from cluster.testing.kills import KILLS, check_killed
from cluster.testing.simulated import FakeClock, Simulated, Weather
from cluster.testing.suite import Case, engine_suite

__all__ = [
    "BAD_BLOCK",
    "CHECKS",
    "HOSTILE",
    "KILLS",
    "PLAIN",
    "SLEEPS",
    "Case",
    "Driven",
    "FakeClock",
    "Hostile",
    "Make",
    "OneRun",
    "Script",
    "Simulated",
    "Subject",
    "Weather",
    "check_hostile",
    "check_killed",
    "drive",
    "engine_suite",
    "entered",
    "work_of",
]
