"""A limit of memory: one kernel cannot take the machine."""

from __future__ import annotations

import pytest

from cluster.backends.base import TABLE, NodeEvent, Options
from cluster.common.errors import EngineError
from cluster.dispatch import Policy
from cluster.sampling.plan import Goal
from cluster.testing import Driven, drive, work_of
from tests.backends.engines import engine
from tests.conftest import need

MIB = 2**20
LIMIT = 256 * MIB
# Block 5 of eight takes what it does not get; the others draw.
KERNEL = """
import os, time
import numpy as np
from cluster import Hits

def act():
    {act}

def f(stream, samples):
    if stream.block == 5:
        act()
    return Hits((stream.generator().random(samples) < .25).sum(), samples)
"""
GREEDY = {
    "an array": "np.ones(2**30)",
    "lists": "\n    a = []\n    while True: a.append([0] * 10**6)",
    "children together": "\n    for _ in range(4):\n        if not os.fork():\n"
    "            a = np.ones(20 * 2**20); time.sleep(60); os._exit(0)\n    time.sleep(60)",
}
QUIET = Options(tick=0.05, memory=LIMIT)


def run(name: str, text: str, options: Options = QUIET) -> Driven:
    """Eight blocks of a kernel on two slots of an engine."""
    entry = next(entry for entry in TABLE if entry.name == name)
    need(entry.usable, f"{name}: {entry.install}")
    policy = Policy(pinned=1, timeout=30)
    return drive(lambda: engine(name, options=options), work_of(text), Goal(8), policy=policy)


@pytest.mark.parametrize(
    ("name", "act"),
    [("processes", act) for act in GREEDY]
    + [
        ("ssh", "lists"),
        pytest.param("mpi", "lists", marks=pytest.mark.slow),
        pytest.param("dispy", "lists", marks=pytest.mark.soak),
        pytest.param("scoop", "lists", marks=pytest.mark.soak),
    ],
)
def test_a_block_that_wants_more_memory_than_a_slot_may_have_fails(name: str, act: str) -> None:
    """It is told with the limit and its key, and is not tried again."""
    driven = run(name, KERNEL.format(act=GREEDY[act]))
    assert driven.ending.state.value == "failed"
    assert [(row["block"], row["attempt"]) for row in driven.failures] == [(5, 1)]
    (told,) = driven.failures
    assert told["type"].endswith("MemoryError")
    assert "retry.memory allows a slot 256 MiB" in told["message"]
    assert driven.ending.drained


def test_pages_that_children_share_count_once() -> None:
    """A forked child has its parent's memory, and no more."""
    shares = "\n    a = np.ones(12 * 2**20)\n    for _ in range(6):\n        if not os.fork():\n"
    shares += "            time.sleep(1); os._exit(0)\n    time.sleep(1)"
    assert run("processes", KERNEL.format(act=shares)).ending.state.value == "done"


def test_a_kernel_that_finds_no_memory_where_it_is_imported_is_told_so() -> None:
    """Before any block."""
    with pytest.raises(EngineError, match=r"MemoryError.*retry.memory allows a slot 256 MiB"):
        run("processes", "import numpy\nTABLE = numpy.ones(2**30)\ndef f(rng, samples): return 0")


@pytest.mark.parametrize("name", ["serial", "threads"])
def test_who_draws_in_the_dispatcher_says_that_it_keeps_no_limit(name: str) -> None:
    """For the limit would be the dispatcher's, too."""
    with engine(name, options=QUIET) as backend:
        first = next(backend.run(work_of(), None))  # type: ignore[arg-type]
    assert isinstance(first, NodeEvent)
    assert "retry.memory is not kept" in first.reason
