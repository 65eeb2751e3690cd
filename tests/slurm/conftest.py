"""A lab whose hosts are nodes of Slurm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from scripts.lab_slurm import missing
from tests.conftest import need
from tests.lab.harness import Lab, need_lab, own_lab, take_down_what_died
from tests.slurm.harness import HOSTS, Desk, await_no_agents

_NUMBERS = count(1)


@pytest.fixture(scope="session")
def slurm_lab() -> Iterator[Lab]:
    """h1, h2 and h3 with two CPUs each, for all tests of the session."""
    need_lab()
    need(not missing(), f"{', '.join(missing())}: scripts/lab install")
    take_down_what_died()
    lab = own_lab("u")
    try:
        lab.up(len(HOSTS))
        lab.do("slurm", "up")
        yield lab
    finally:
        lab.down()


@pytest.fixture
def desk(slurm_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., Desk]]:
    """Makes a folder of the test's; after it no job is left, and no process of one."""
    words = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[-40:]
    yield lambda *args, **keys: Desk(
        slurm_lab, f"d{next(_NUMBERS)}-{words.strip('-')}", *args, **keys
    )
    slurm_lab.exec("h1", "scancel", "--user=root")
    await_no_agents(slurm_lab)
