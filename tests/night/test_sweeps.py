"""Sweeps by night: one window, one log, one first word for all of their points."""

from __future__ import annotations

import json
from pathlib import Path

from cluster import api, sweeping
from cluster.events import Closed, Event
from cluster.report.swept import SweepResult
from tests.cli.shell import ask, cluster, ended, only_document, spec, started
from tests.night.test_starts import Passing

SHARES = {"matrix": {"params.share": [0.1, 0.2, 0.3]}}
NIGHT = {"window": "22:00-06:00", "timezone": "Europe/Berlin"}


def start(folder: Path, now: str, step: float, samples: float = 1e6) -> SweepResult:
    """One start of a sweep at a time, on a clock that passes."""
    path = spec(folder, backend="serial", sweep=SHARES, schedule=NIGHT, samples=samples)
    caller = sweeping.Caller(clock=Passing(now, step))
    return sweeping.submit(api.load(path), caller, store=folder / "runs")


def test_a_sweep_drains_at_the_end_of_its_window(tmp_path: Path) -> None:
    """It is partial, and the next night goes on with the same points."""
    first = start(tmp_path, "2026-07-02T05:59:30+02:00", 1.0)
    assert (first.state, first.stopped_by, first.exit_code) == ("partial", "window", 3)
    assert first.done < 3
    second = start(tmp_path, "2026-07-02T22:00:00+02:00", 0.00001)
    assert (second.state, second.exit_code, second.sweep) == ("done", 0, first.sweep)


def test_outside_of_its_window_a_sweep_begins_nothing(tmp_path: Path) -> None:
    """And says when it opens."""
    told: list[Event] = []
    path = spec(tmp_path, backend="serial", sweep=SHARES, schedule=NIGHT)
    clock = Passing("2026-07-02T12:00:00+02:00")
    caller = sweeping.Caller(told.append, clock=clock)
    result = sweeping.submit(api.load(path), caller, store=tmp_path / "runs")
    assert (result.state, result.stopped_by, result.exit_code) == ("partial", "window", 3)
    (closed,) = (event for event in told if isinstance(event, Closed))
    assert closed.opens == "2026-07-02 22:00 CEST"
    assert sum(point.result.samples for point in result.points) == 0


def test_a_sweep_detaches(tmp_path: Path) -> None:
    """Its id is told, what it says is in one log, and its table is there in the end."""
    path = spec(tmp_path, sweep=SHARES)
    process = cluster("submit", path, "--detach", "--json", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    told = only_document(process.stdout, "detached")
    assert told["run"].startswith("quarter-")
    assert ask("wait", told["run"], cwd=tmp_path)["state"] == "done"
    log = cluster("logs", told["run"], cwd=tmp_path).stdout
    assert f"cluster submit {path}" in log.partition("\n")[0]
    assert len(list((tmp_path / "runs" / "logs").iterdir())) == 1


def test_a_sweep_is_watched_and_stopped_as_one(tmp_path: Path) -> None:
    """By its id; all its points drain together."""
    values = {"matrix": {"params.pause": [0.1, 0.11, 0.12]}}
    path = spec(tmp_path, "slow", sweep=values, samples=400_000)
    run = json.loads(cluster("submit", path, "--detach", "--json", cwd=tmp_path).stdout)["run"]
    watch = started("watch", run, cwd=tmp_path)
    assert watch.stderr
    assert run in watch.stderr.readline()
    assert cluster("wait", run, "--timeout", "0.1", cwd=tmp_path).returncode == 75
    for _ in range(2):
        assert cluster("stop", run, cwd=tmp_path).returncode == 0
    assert ended(watch)[0] == 143
    result = sweeping.show(run, tmp_path / "runs")
    assert (result.state, result.stopped_by) == ("interrupted", "SIGTERM")
    assert all(point.result.drained is not False for point in result.points)


def test_a_sweep_that_is_computed_in_parts_stops_as_one(tmp_path: Path) -> None:
    """Each of the processes is asked, once."""
    values = {"matrix": {"params.pause": [0.1, 0.11, 0.12, 0.13]}}
    path = spec(tmp_path, "slow", sweep=values, samples=400_000)
    parts = [
        json.loads(
            cluster("submit", path, "--detach", "--points", part, "--json", cwd=tmp_path).stdout
        )
        for part in ("1/2", "2/2")
    ]
    (run,) = {part["run"] for part in parts}
    assert cluster("stop", run, cwd=tmp_path).returncode == 0
    result = sweeping.show(run, tmp_path / "runs")
    assert [point.result.state for point in result.points] == ["interrupted"] * 4
    asked = [e["text"] for e in result.points[0].result.events if "asked to drain" in e["text"]]
    assert len(asked) == len(set(asked)) == 2


def test_a_scheduled_start_of_a_sweep_computes_what_is_missing(tmp_path: Path) -> None:
    """A second one finds it done."""
    path, log = spec(tmp_path, sweep=SHARES), tmp_path / "log"
    words = ["schedule", path, "--start", "--folder", tmp_path, "--log", log]
    assert [cluster(*words, cwd=Path("/")).returncode for _ in range(2)] == [0, 0]
    rows = json.loads(cluster("ls", "--json", cwd=tmp_path).stdout)
    assert {row["state"] for row in rows} == {"done"}
    assert len(list((tmp_path / "runs" / "logs").iterdir())) == 1
