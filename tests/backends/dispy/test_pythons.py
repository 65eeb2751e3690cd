"""dispy itself was written for older Pythons; here it is held to the contract on each of ours."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from cluster.backends.base import TABLE, Options
from cluster.sampling.plan import Goal
from cluster.testing import CHECKS, Subject, check_hostile, drive, work_of
from tests.backends.engines import engine, serial
from tests.conftest import need

ENTRY = next(entry for entry in TABLE if entry.name == "dispy")
pytestmark = [pytest.mark.pythons, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _usable() -> None:
    need(ENTRY.usable, f"dispy: {ENTRY.install}")


def subject() -> Subject:
    """Two slots, and a tick short enough for tests."""
    return Subject(partial(engine, "dispy", options=Options(tick=0.1)))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract_holds(check: Callable[[Subject], None]) -> None:
    """As in tests/backends/test_conformance.py, which needs every engine to be installed."""
    check(subject())


@pytest.mark.parametrize("hostile", ["os_exit", "segfault", "hangs", "prints", "raises"])
def test_a_hostile_kernel_is_survived(hostile: str) -> None:
    """The ends that cost stock dispy a slot, or all answers of a node."""
    check_hostile(subject(), hostile)


def test_a_thousand_short_tasks_are_all_answered() -> None:
    """Stock dispy wedges on jobs of no length, sooner on newer Pythons; a clean run shows it."""
    expected = drive(serial, work_of(), Goal(1000)).digest
    driven = drive(partial(engine, "dispy"), work_of(), Goal(1000))
    assert (driven.digest, driven.failures) == (expected, [])
