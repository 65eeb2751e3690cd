"""Every engine of the table keeps the contract, and survives what it says that it survives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
from _pytest.mark import ParameterSet

from cluster.backends.base import TABLE, Entry, Options, create
from cluster.hosts.nodes import Node
from cluster.testing import (
    CHECKS,
    KILLS,
    Case,
    FakeClock,
    Script,
    Simulated,
    Subject,
    Weather,
    engine_suite,
    work_of,
)
from tests.backends.engines import engine, serial
from tests.conftest import need

CALM = Weather(dies=0, vanishes=0, twice=0, forged=0)


# What engines of several hosts are asked by default, and the kit's; the rest of it takes minutes.
FIRST = {"every_task_is_answered_once"}
QUICK = FIRST | {"nothing_is_left_behind", "survives_raises", "survives_os_exit"}
# Of these processes an engine may have none, and they take seconds to be replaced.
LONG = {"agent_killed", "driver_killed", "server_killed"}


def suite(entry: Entry) -> list[Case]:
    """The cases of an engine, less those that do not apply where kernels run in the dispatcher."""
    cases = engine_suite(partial(engine, entry.name, options=Options(tick=0.1)))
    return [case for case in cases if not (case.outside and entry.kind == "in_process")]


def cases(wanted: Callable[[Case], bool]) -> list[ParameterSet]:
    """Those of all engines; slow where the engine is somebody else's, and they are not quick."""
    return [
        pytest.param(
            entry,
            case,
            id=f"{entry.name}-{case.name}",
            marks=pytest.mark.slow if _is_slow(entry, case) else (),
        )
        for entry in TABLE
        for case in suite(entry)
        if wanted(case)
    ]


def _is_slow(entry: Entry, case: Case) -> bool:
    if case.name in LONG:
        return True
    if entry.kind != "hosted" or entry.name == "ssh":
        return False
    return case.name not in (QUICK if entry.name == "tcp" else FIRST)


def _is_hostile(case: Case) -> bool:
    return case.name.startswith("survives_")


def _is_kill(case: Case) -> bool:
    return case.name.endswith("_killed")


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("entry", "case"), cases(lambda case: not _is_hostile(case) and not _is_kill(case))
)
def test_an_engine_keeps_the_contract(entry: Entry, case: Case) -> None:
    """Each check of the conformance suite, on each engine."""
    need(entry.usable, f"{entry.name}: {entry.install}")
    case()


@pytest.mark.fault(13, 14, 15, 16, 17, 21, 56, 57)
@pytest.mark.parametrize(("entry", "case"), cases(_is_hostile))
def test_an_engine_survives_a_hostile_kernel(entry: Entry, case: Case) -> None:
    """The run ends as it must, told at the right block, and every other block is right."""
    need(entry.usable, f"{entry.name}: {entry.install}")
    case()


@pytest.mark.parametrize(("entry", "case"), cases(_is_kill))
def test_a_run_goes_on_when_a_process_of_its_engine_is_killed(entry: Entry, case: Case) -> None:
    """It ends with the digest of serial, and nothing is left behind."""
    need(entry.usable, f"{entry.name}: {entry.install}")
    assert case() or case.name != "worker_killed"


def test_what_is_asked_by_default_is_there() -> None:
    """A case that was renamed is not left to the slow run unseen."""
    assert {case.name for case in suite(TABLE[-1])} >= QUICK | LONG


@pytest.mark.parametrize("check", CHECKS[:5], ids=lambda check: check.__name__)
def test_the_simulated_cluster_keeps_the_contract_too(check: Callable[[Subject], None]) -> None:
    """What the core is tested on in no time is an engine like the others."""
    hosts = (Node("a", slots=1), Node("b", slots=2))
    check(Subject(lambda: Simulated(hosts, FakeClock(), 1, CALM)))


def test_only_what_ends_or_hangs_its_process_is_left_out() -> None:
    """Serial and threads run all of the zoo but three; everything else runs all of it."""
    run = {entry.name: {case.name for case in suite(entry)} for entry in TABLE}
    ends = {"survives_os_exit", "survives_segfault", "survives_hangs"}
    ends |= {f"{role}_killed" for role in KILLS}
    everything = {case.name for case in engine_suite(serial)}
    left_out = {name: everything - names for name, names in run.items() if everything - names}
    assert left_out == {"serial": ends, "threads": ends}


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
