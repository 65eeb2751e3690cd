"""Three hosts for the tests that need several machines."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cluster.backends.base import TABLE
from cluster.hosts.process_tree import descendants
from tests.backends.engines import HOSTED, parameters
from tests.conftest import need
from tests.lab.harness import Lab, need_lab, own_lab, take_down_what_died


@pytest.fixture(scope="session")
def standing_lab() -> Iterator[Lab]:
    """h1, h2 and h3, for all tests of the session; named so that sessions do not meet."""
    need_lab()
    take_down_what_died()
    lab = own_lab("t")
    try:
        lab.up(3)
        yield lab
    finally:
        lab.down()


@pytest.fixture
def lab(standing_lab: Lab) -> Iterator[Lab]:
    """h1, h2 and h3 in good order; what a test did to them is undone after it."""
    standing_lab.before_us = set(descendants(os.getpid()))
    yield standing_lab
    standing_lab.reset()


def _installed(name: str) -> str:
    entry = next(entry for entry in TABLE if entry.name == name)
    need(entry.usable, f"{entry.name}: {entry.install}")
    return name


# The fleet is one for all of them, and the kit for those that are not ssh.
@pytest.fixture(params=parameters(HOSTED, default={"ssh"}, slow={"tcp"}))
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend of several hosts, where what is tried is code that they share."""
    return _installed(request.param)


@pytest.fixture(params=parameters(HOSTED, default={"ssh"}))
def every_backend(request: pytest.FixtureRequest) -> str:
    """Each backend of several hosts, all of them in the slow run."""
    return _installed(request.param)
