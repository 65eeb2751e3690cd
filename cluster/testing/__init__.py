"""Test tools for authors of backends and kernels.

* :func:`engine_suite`: everything that an engine must do, survive and recover from, as cases for
  ``pytest.mark.parametrize``; ``python -m cluster.testing MODULE:Engine`` runs them without pytest.
* :data:`CHECKS`: the contract of an engine, as functions of a :class:`Subject` that raise
  AssertionError.
* :data:`HOSTILE`: kernels that misbehave, and the required outcome of each.
* :data:`KILLS`: the processes of an engine that may be killed during a run.
* :class:`FakeClock`, :class:`Simulated`: a seeded cluster with faults, on simulated time.
* :func:`drive`: a complete run on any engine, with a real ledger, down to its digest.
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
