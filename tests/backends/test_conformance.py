"""Every engine of the table keeps the contract, and survives what it says that it survives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from cluster.backends.base import Options
from cluster.nodes import Node
from cluster.testing import (
    CHECKS,
    HOSTILE,
    FakeClock,
    Simulated,
    Subject,
    Weather,
    check_hostile,
)
from tests.backends.engines import NAMES, engine

CALM = Weather(dies=0, vanishes=0, twice=0, forged=0)


def subject(name: str) -> Subject:
    """The engine of that name with two slots, and a tick short enough for tests."""
    return Subject(partial(engine, name, options=Options(tick=0.1)))


def survives(name: str, hostile: str) -> bool:
    """Whether an engine must survive a kernel: in one process, none that ends or hangs that."""
    return not (HOSTILE[hostile].kills and subject(name).in_process)


@pytest.mark.fault(17)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_an_engine_keeps_the_contract(name: str, check: Callable[[Subject], None]) -> None:
    """Each check of the conformance suite, on each engine."""
    check(subject(name))


@pytest.mark.fault(13, 14, 15, 16, 17, 21, 56, 57)
@pytest.mark.parametrize(
    ("name", "hostile"), [(n, h) for n in NAMES for h in HOSTILE if survives(n, h)]
)
def test_an_engine_survives_a_hostile_kernel(name: str, hostile: str) -> None:
    """The run ends as it must, told at the right block, and every other block is right."""
    check_hostile(subject(name), hostile)


@pytest.mark.parametrize("check", CHECKS[:5], ids=lambda check: check.__name__)
def test_the_simulated_cluster_keeps_the_contract_too(check: Callable[[Subject], None]) -> None:
    """What the core is tested on in no time is an engine like the others."""
    hosts = (Node("a", slots=1), Node("b", slots=2))
    check(Subject(lambda: Simulated(hosts, FakeClock(), 1, CALM)))


def test_only_kernels_that_end_or_hang_their_process_are_left_out() -> None:
    """Serial and threads run all of the zoo but three; everything else runs all of it."""
    left_out = {name: {h for h in HOSTILE if not survives(name, h)} for name in NAMES}
    three = {"os_exit", "segfault", "hangs"}
    assert {name for name, out in left_out.items() if out} == {"serial", "threads"}
    assert left_out["serial"] == left_out["threads"] == three
