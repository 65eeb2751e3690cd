"""Three hosts for the tests that need several machines."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cluster.backends.base import TABLE
from cluster.hosts.process_tree import descendants
from tests.conftest import need
from tests.lab.harness import Lab, need_lab, own_lab, take_down_what_died
from tests.lab.site import HOSTED, IN_FULL


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


@pytest.fixture(
    params=[pytest.param(n, marks=() if n == "ssh" else pytest.mark.slow) for n in IN_FULL]
)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend of several hosts that is tested in full; the slow run asks all but ssh."""
    return _installed(request.param)


@pytest.fixture(params=HOSTED)
def every_backend(request: pytest.FixtureRequest) -> str:
    """Each backend of several hosts that is installed here, by default too."""
    return _installed(request.param)
