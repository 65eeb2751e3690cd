"""Every engine of the table keeps the contract, and survives what it says that it survives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
from _pytest.mark import ParameterSet

from cluster.backends.base import TABLE, Options, create
from cluster.hosts.nodes import Node
from cluster.testing import (
    CHECKS,
    HOSTILE,
    FakeClock,
    Script,
    Simulated,
    Subject,
    Weather,
    check_hostile,
    work_of,
)
from tests.backends.engines import NAMES, engine
from tests.conftest import need

CALM = Weather(dies=0, vanishes=0, twice=0, forged=0)


# Those that run kernels in the dispatcher's own process, which a kernel can therefore end or hang.
IN_PROCESS = {"serial", "threads"}
# What the engines of somebody else are asked by default; the rest of it takes minutes.
QUICK = {
    "check_every_task_is_answered_once",
    "check_nothing_is_left_behind",
    "raises",
    "os_exit",
}


def subject(name: str) -> Subject:
    """The engine of that name with two slots, and a tick short enough for tests."""
    entry = next(entry for entry in TABLE if entry.name == name)
    need(entry.usable, f"{name}: {entry.install}")
    return Subject(partial(engine, name, options=Options(tick=0.1)))


def survives(name: str, hostile: str) -> bool:
    """Whether an engine must survive a kernel: in one process, none that ends or hangs that."""
    return not (HOSTILE[hostile].kills and name in IN_PROCESS)


def case(name: str, what: str, *values: object) -> ParameterSet:
    """A case of an engine; slow where its engine is somebody else's, and it is not a quick one."""
    others = any(entry.name == name and entry.needs for entry in TABLE)
    slow = others and what not in QUICK
    return pytest.param(*values, marks=pytest.mark.slow if slow else (), id=f"{name}-{what}")


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("name", "check"), [case(n, c.__name__, n, c) for n in NAMES for c in CHECKS]
)
def test_an_engine_keeps_the_contract(name: str, check: Callable[[Subject], None]) -> None:
    """Each check of the conformance suite, on each engine."""
    check(subject(name))


@pytest.mark.fault(13, 14, 15, 16, 17, 21, 56, 57)
@pytest.mark.parametrize(
    ("name", "hostile"), [case(n, h, n, h) for n in NAMES for h in HOSTILE if survives(n, h)]
)
def test_an_engine_survives_a_hostile_kernel(name: str, hostile: str) -> None:
    """The run ends as it must, told at the right block, and every other block is right."""
    check_hostile(subject(name), hostile)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_known_which_engines_share_the_dispatchers_process(name: str) -> None:
    """These run all of the zoo but three; everything else runs all of it."""
    assert subject(name).in_process == (name in IN_PROCESS)


def test_what_is_asked_by_default_is_there() -> None:
    """A check that was renamed is not left to the slow run unseen."""
    assert {check.__name__ for check in CHECKS} | set(HOSTILE) >= QUICK


@pytest.mark.parametrize("check", CHECKS[:5], ids=lambda check: check.__name__)
def test_the_simulated_cluster_keeps_the_contract_too(check: Callable[[Subject], None]) -> None:
    """What the core is tested on in no time is an engine like the others."""
    hosts = (Node("a", slots=1), Node("b", slots=2))
    check(Subject(lambda: Simulated(hosts, FakeClock(), 1, CALM)))


def test_only_kernels_that_end_or_hang_their_process_are_left_out() -> None:
    """Serial and threads run all of the zoo but three; everything else runs all of it."""
    left_out = {name: {h for h in HOSTILE if not survives(name, h)} for name in NAMES}
    three = {"os_exit", "segfault", "hangs"}
    assert {name for name, out in left_out.items() if out} == IN_PROCESS
    assert left_out["serial"] == left_out["threads"] == three


def test_threads_that_were_given_nothing_end_when_the_run_is_closed() -> None:
    """Also at its first word, that they are there."""
    before = set(threading.enumerate())
    with create("threads", [Node("localhost", slots=3)]) as backend:
        items = backend.run(work_of(), Script(1))
        next(items)
        ours = set(threading.enumerate()) - before
        assert len(ours) == 3
        items.close()
    assert not any(thread.is_alive() for thread in ours)
