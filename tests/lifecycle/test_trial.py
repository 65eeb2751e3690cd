"""A short trial of a kernel on the slots of its nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.common.errors import EngineError
from cluster.hosts.nodes import Node
from cluster.lifecycle.trial import Trial, calibrate
from cluster.testing import FakeClock, Simulated, Weather, work_of

CALM = Weather(dies=0, vanishes=0, hangs=0, late=0, twice=0, forged=0, slow=1)
NODES = (Node("h1", slots=3), Node("h2", slots=1))


def trial(weather: Weather) -> Trial:
    """Ten seconds on two simulated nodes, where a block may take a minute."""
    clock = FakeClock()
    return calibrate(Simulated(NODES, clock, 1, weather), work_of(), clock, 60.0, 10.0)


def test_a_trial_draws_on_the_slots_of_all_nodes() -> None:
    """Not only on those of the node that came last; each block counts once."""
    found = trial(replace(CALM, twice=1.0))
    assert found.slots == 4
    # A simulated slot takes about a hundredth of a second for a block.
    assert found.blocks > 2.5 * found.seconds / 0.01


def test_a_kernel_that_hangs_ends_a_trial() -> None:
    """Named by its block, once that has had its time."""
    with pytest.raises(EngineError, match=r"the kernel hangs: block 0 had no answer within") as it:
        trial(replace(CALM, hangs=1.0))
    assert "60 s a block" in it.value.message
    assert "retry.timeout" in (it.value.fix or "")
