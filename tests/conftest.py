"""What the tests share: `need` for what may be missing, and the listing of covered faults."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet
from hypothesis import HealthCheck, settings

# A machine under load is slow now and then, which is no fault of the code under test. In CI the
# same examples are drawn every time, so that a failure there is one that others can repeat.
settings.register_profile(
    "project",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")

# The catalogue of faults counts its cases from 1 to this number.
LAST_FAULT = 104

# Ignored, as behind nohup or in the background, they would be so by every process of the tests.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

_covered = pytest.StashKey[dict[int, list[str]]]()


def need(condition: object, reason: str) -> None:
    """Skip the test at home, and fail it in CI, where something it needs is not there.

    Args:
        condition: whether it is there.
        reason: what is missing, and the command that brings it.
    """
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {reason}", pytrace=False)
    pytest.skip(reason)


def battery(values: Iterable[object], share: int = 1) -> list[ParameterSet]:
    """The parameters of a long battery: the first few run with the slow tests, the rest in a soak.

    Args:
        values: one parameter each.
        share: how many of them the slow tests take.
    """
    marks = pytest.mark.slow, pytest.mark.soak
    return [pytest.param(value, marks=marks[at >= share]) for at, value in enumerate(values)]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--faults``."""
    parser.addoption(
        "--faults",
        action="store_true",
        help="list which cases of the catalogue of faults are covered by which tests; run nothing",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check every fault number; with ``--faults`` keep the listing and run nothing."""
    covered: dict[int, list[str]] = defaultdict(list)
    for item in items:
        for number in _fault_numbers(item):
            covered[number].append(item.nodeid.partition("[")[0])
    if config.getoption("faults"):
        config.stash[_covered] = covered
        items.clear()


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """The listing that ``--faults`` asks for: one line a number, its tests below each other."""
    covered = config.stash.get(_covered, None)
    if covered is None:
        return []
    # A parametrised test stands in the listing once.
    lines = [f"{n:4} {test}" for n in sorted(covered) for test in dict.fromkeys(covered[n])]
    rest = sorted(set(range(1, LAST_FAULT + 1)) - covered.keys())
    return [*lines, f"{len(covered)} covered; not covered: {', '.join(map(str, rest)) or 'none'}"]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A listing runs no test, and that is no failure."""
    if session.config.getoption("faults"):
        session.exitstatus = pytest.ExitCode.OK


def _fault_numbers(item: pytest.Item) -> list[int]:
    numbers = [number for mark in item.iter_markers("fault") for number in mark.args]
    for number in numbers:
        if not isinstance(number, int) or not 1 <= number <= LAST_FAULT:
            raise pytest.UsageError(f"{item.nodeid}: fault({number!r}): not in 1 to {LAST_FAULT}")
    return numbers
