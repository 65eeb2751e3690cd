"""The Python interface: what the command line does, as functions."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cluster
from cluster import api
from cluster.common.errors import (
    ClusterError,
    EngineError,
    Locked,
    SpecError,
    StoreError,
    UsageError,
)
from cluster.dispatch import Stop
from cluster.dispatch.events import AttemptFailed, Draining, Event, NodeChanged, Progress, Started
from cluster.spec import Spec
from tests.cli.shell import ROOT, environment, spec

TYPED = """
from pathlib import Path

import cluster
from cluster import Estimate, Histogram, Hits, Moments, Result, Stream, kernel


@kernel(scale=4, reference=3.14, block=1000)
def pi(stream: Stream, samples: int, radius: float = 1.0) -> Hits:
    return Hits(int((stream.generator().random(samples) < radius).sum()), samples)


@kernel
def mean(stream: Stream, samples: int) -> Moments:
    return Moments.of(stream.generator().random(samples))


def use(path: Path) -> str | None:
    result: Result = cluster.submit(cluster.load(path, ["samples=10"]), store=path.parent)
    again: Result = cluster.resume(result.run, path.parent, overrides=["backend=serial"])
    more: Result = cluster.extend(again.run, path.parent, overrides=["samples=20"])
    estimate: Estimate = Hits(1, 2).estimate(0.95)
    count: int = more.samples
    reveal_type(pi)
    return f"{count} {estimate.half_width} {Histogram}"
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(folder: Path, *overrides: str, function: str = "quarter") -> Spec:
    """A spec of a test kernel, for this process's own threads."""
    return cluster.load(spec(folder, function, backend="threads"), overrides)


def test_submit_resume_extend_and_show_agree(tmp_path: Path) -> None:
    """One run, grown: each answer is what a look at the store says."""
    done = cluster.submit(loaded(tmp_path))
    assert cluster.resume(done.run).digest == done.digest
    more = cluster.extend(done.run, overrides=["samples=50_000"])
    assert (more.samples, more.state, more.exit_code) == (50_000, "done", 0)
    assert api.show(done.run) == more
    assert [standing.run for standing in api.runs()] == [done.run]
    assert api.status(done.run).samples == 50_000


def test_utilisation_is_of_the_slots_that_each_start_had(tmp_path: Path) -> None:
    """One slot in the first start, four in the next."""
    one = cluster.submit(loaded(tmp_path, "samples=10_000", "nodes=localhost:1", function="slow"))
    wider = loaded(tmp_path, "samples=20_000", "nodes=localhost:4", function="slow")
    both = cluster.submit(wider, resume=True)
    (row,) = both.nodes
    assert (both.run, row.slots) == (one.run, 4)
    had = one.wall_s + 4 * (both.wall_s - one.wall_s)
    assert row.utilisation == pytest.approx(row.busy_s / had)
    assert row.utilisation is not None
    assert row.utilisation <= 1


def test_a_store_may_be_anywhere(tmp_path: Path) -> None:
    """The argument wins over the spec's."""
    done = cluster.submit(loaded(tmp_path), store=tmp_path / "a" / "b")
    assert api.show(done.run, tmp_path / "a" / "b").digest == done.digest
    assert not (tmp_path / "runs").exists()


def test_an_observer_sees_the_run_from_start_to_end(tmp_path: Path) -> None:
    """First that it starts, then the slots, and at last where it stands in the end."""
    seen: list[Event] = []
    result = cluster.submit(loaded(tmp_path), observe=seen.append)
    assert seen[0] == Started(result.run, 0, 40, 1000, "threads")
    assert any(isinstance(event, NodeChanged) and event.slots == 2 for event in seen)
    last = seen[-1]
    assert isinstance(last, Progress)
    assert (last.blocks_done, last.samples) == (40, 40_000)
    assert last.estimate
    assert last.estimate.value == result.estimate


def test_an_observer_sees_what_fails(tmp_path: Path) -> None:
    """The attempt, its fault, and that the run drains for it."""
    seen: list[Event] = []
    result = cluster.submit(loaded(tmp_path, function="breaks"), observe=seen.append)
    (failure,) = [event for event in seen if isinstance(event, AttemptFailed)]
    assert (failure.fault.block, failure.final, result.state) == (3, True, "failed")
    assert Draining("failure") in seen


def test_a_reason_to_stop_drains(tmp_path: Path) -> None:
    """Set from an observer, a thread or a signal handler: what was begun is counted."""
    stop = Stop()

    def once_it_draws(event: Event) -> None:
        if isinstance(event, Progress) and event.blocks_done:
            stop.reason = "SIGTERM"

    result = cluster.submit(
        loaded(tmp_path, "samples=1e6", function="slow"), observe=once_it_draws, stop=stop
    )
    assert (result.state, result.stopped_by, result.drained) == ("interrupted", "SIGTERM", True)
    assert result.exit_code == 143
    assert 0 < result.blocks < 1000


def test_an_observer_s_own_error_is_not_swallowed(tmp_path: Path) -> None:
    """What it raises comes out of submit, and what was counted is safe."""

    def fails(event: Event) -> None:
        if isinstance(event, Progress):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cluster.submit(loaded(tmp_path), observe=fails)
    run = api.runs()[0]
    assert run.state == "interrupted"
    assert cluster.resume(run.run).state == "done"


def test_it_works_from_a_thread(tmp_path: Path) -> None:
    """No signal handler is touched, so a program may call it from where it likes."""
    results: list[cluster.Result] = []
    prepared = loaded(tmp_path)
    thread = threading.Thread(target=lambda: results.append(cluster.submit(prepared)))
    thread.start()
    thread.join(60)
    assert [result.state for result in results] == ["done"]


def test_every_mistake_is_a_cluster_error(tmp_path: Path) -> None:
    """One family of exceptions, each with its exit code and its cure."""
    path = spec(tmp_path)
    with pytest.raises(SpecError, match="sampels"):
        cluster.load(path, ["sampels=3"])
    with pytest.raises(SpecError, match="no parameter"):
        cluster.submit(cluster.load(path, ["params.x=1"]))
    with pytest.raises(StoreError, match="no store"):
        cluster.resume("quarter")
    done = cluster.submit(loaded(tmp_path))
    with pytest.raises(UsageError, match="no run 'other'"):
        cluster.resume("other")
    with pytest.raises(UsageError, match="nothing to extend"):
        cluster.extend(done.run, overrides=["samples=10"])
    with pytest.raises(UsageError, match="at least 0"):
        api.repro(done.run, -1)
    nodes = "nodes=[{host: localhost, python: /nowhere/python}]"
    with pytest.raises(EngineError, match="/nowhere/python"):
        cluster.submit(cluster.load(path, [nodes, "backend=processes"]))
    codes = [error.code for error in (SpecError, StoreError, UsageError, EngineError, Locked)]
    assert codes == [2, 74, 2, 69, 75]
    assert all(issubclass(error, ClusterError) for error in (SpecError, EngineError, Locked))


def test_a_plan_is_an_object_too(tmp_path: Path) -> None:
    """With a trial, and without."""
    trial = api.plan(loaded(tmp_path), 0.1)
    assert trial.trial
    assert trial.expected_s
    assert trial.blocks == 40
    assert api.plan(loaded(tmp_path), 0).trial is None


@pytest.mark.slow
def test_the_public_names_are_typed(tmp_path: Path) -> None:
    """Code that uses them passes mypy --strict, and a decorated kernel keeps its own type."""
    (tmp_path / "typed.py").write_text(TYPED)
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file",
            "",
            "typed.py",
            "--cache-dir",
            str(ROOT / ".mypy_cache" / "api"),
        ],
        env=environment(MYPYPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 0, process.stdout
    assert (
        "def (stream: cluster.sampling.streams.Stream, samples: int, radius: float ="
        in process.stdout
    )
