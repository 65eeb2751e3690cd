"""Every spec in configs/ for this machine, run to its end as it is shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cluster
from cluster.api import start
from cluster.dispatch import SystemClock
from cluster.report.result import Result
from cluster.spec import Spec
from cluster.spec.points import expand
from cluster.spec.window import Window
from tests.backends.engines import HOSTED

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
# Those for several hosts are run over the lab's: tests/lab/test_configs.py.
HERE = [path for path in CONFIGS if cluster.load(path).backend not in HOSTED]
# What takes over five seconds.
LONG = {"pi"}


class Evening(SystemClock):
    """The machine's clock, set to an hour after the window of a spec opens."""

    def __init__(self, window: Window) -> None:
        self._ahead = window.next_opening(super().now()) + 3600 - super().now()

    def now(self) -> float:
        """Seconds since the epoch."""
        return super().now() + self._ahead


def computed(spec: Spec) -> Result:
    """The result of a spec; of one with a window, as a scheduler starts it in the evening."""
    window = spec.schedule and spec.schedule.hours()
    return start(spec, clock=Evening(window)) if window else cluster.submit(spec)


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] if p.stem in LONG else [], id=p.stem) for p in HERE],
)
def test_a_shipped_spec_ends_near_its_reference(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is done, and no estimate is further off than 4 of its standard errors."""
    monkeypatch.chdir(tmp_path)
    spec = cluster.load(path)
    for result in results(spec):
        check(result, spec)
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]


def results(spec: Spec) -> list[cluster.Result]:
    """That of a run, or those of a sweep's points."""
    if spec.sweep is None:
        return [computed(spec)]
    together = cluster.submit(spec)
    assert (together.state, together.exit_code) == ("done", 0)
    assert len(together.members) == len(expand(spec))
    return [point.result for point in together.members]


def check(result: cluster.Result, spec: Spec) -> None:
    """All of it is there, and it is near the truth."""
    assert (result.state, result.drained, result.failures) == ("done", True, [])
    assert result.samples >= (spec.samples or 0)
    off = np.subtract(result.estimate, result.reference)
    assert (np.abs(off) < 4 * np.asarray(result.std_error)).all()
    assert sum(node.samples for node in result.nodes) == result.samples
