"""Sweeps by night: one window, one log, one first word for all of their points."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from cluster import api
from cluster.dispatch.events import Closed, Event, Started
from cluster.lifecycle import life
from cluster.lifecycle.job import Caller
from cluster.report.result import Result
from tests.cli.shell import ask, cluster, ended, only_document, spec, started
from tests.unattended.test_starts import Passing

SHARES = {"matrix": {"params.share": [0.1, 0.2, 0.3]}}
SLOW = {"matrix": {"params.pause": [0.1, 0.11, 0.12]}}
NIGHT = {"window": "22:00-06:00", "timezone": "Europe/Berlin"}


def start(folder: Path, now: str, step: float, samples: float = 1e6) -> Result:
    """One start of a sweep at a time, on a clock that passes."""
    path = spec(folder, backend="serial", sweep=SHARES, schedule=NIGHT, samples=samples)
    caller = Caller(clock=Passing(now, step))
    return life.submit(api.load(path), caller, store=folder / "runs")


def test_a_sweep_drains_at_the_end_of_its_window(tmp_path: Path) -> None:
    """It is partial, and the next night goes on with the same points."""
    first = start(tmp_path, "2026-07-02T05:59:30+02:00", 1.0)
    assert (first.state, first.stopped_by, first.exit_code) == ("partial", "window", 3)
    assert first.done < 3
    second = start(tmp_path, "2026-07-02T22:00:00+02:00", 0.00001)
    assert (second.state, second.exit_code, second.run) == ("done", 0, first.run)


def again(folder: Path, now: str, step: float, sweep: object = SHARES, **keys: object) -> Result:
    """One scheduled start of a sweep without end, on a clock that passes."""
    path = spec(folder, "quarter", backend="serial", sweep=sweep, samples=10**7, **keys)
    caller = Caller(clock=Passing(now, step))
    return life.start(api.load(path), caller, store=folder / "runs")


def drawn(result: Result) -> list[int]:
    """The samples of each point."""
    return [point.result.samples for point in result.members]


@pytest.mark.fault(34)
def test_a_doubled_firing_of_one_date_gives_a_sweep_no_second_time(tmp_path: Path) -> None:
    """Nor a catch-up in the morning; the next night goes on with the same points."""
    night = {"window": "02:30-12:00", "timezone": "Europe/Berlin"}
    sweep = {**SHARES, "max_time": 20, "order": "depth"}
    keys: dict[str, object] = {"sweep": sweep, "schedule": night}
    first = again(tmp_path, "2026-10-25T02:30:00+02:00", 0.3, **keys)
    twice = again(tmp_path, "2026-10-25T02:30:00+01:00", 0.3, **keys)
    late = again(tmp_path, "2026-10-25T11:00:00+01:00", 0.3, **keys)
    endings = [(each.state, each.stopped_by, each.exit_code) for each in (first, twice, late)]
    assert endings == [("partial", "max_time", 3)] * 3
    assert drawn(first) == drawn(twice) == drawn(late)
    assert drawn(first)[0] > 0
    assert drawn(first)[-1] == 0, "its turn never came, and a second firing gives it none"
    next_night = again(tmp_path, "2026-10-26T02:30:00+01:00", 0.3, **keys)
    assert next_night.run == first.run
    assert sum(drawn(next_night)) > sum(drawn(first))


@pytest.mark.fault(34)
def test_a_doubled_firing_gives_a_point_no_second_time_of_its_own(tmp_path: Path) -> None:
    """Where max_time is each point's; a point that was not cut short by it goes on."""
    keys: dict[str, object] = {"until": {"max_time": 20}}
    first = again(tmp_path, "2026-07-01T22:00:00+02:00", 0.3, **keys)
    twice = again(tmp_path, "2026-07-01T22:10:00+02:00", 0.3, **keys)
    assert [point.result.stopped_by for point in first.members] == ["max_time"] * 3
    assert drawn(first) == drawn(twice)
    assert min(drawn(first)) > 0
    by_hand = life.resume(
        first.run, tmp_path / "runs", Caller(clock=Passing("2026-07-01T22:20+02:00"))
    )
    assert sum(drawn(by_hand)) > sum(drawn(first))
    after = again(tmp_path, "2026-07-01T22:30:00+02:00", 0.3, **keys)
    assert sum(drawn(after)) > sum(drawn(by_hand))


@pytest.mark.fault(35)
def test_a_sweep_that_was_killed_is_taken_up_by_a_second_firing(tmp_path: Path) -> None:
    """The same date: the first did not have its time."""
    path = spec(tmp_path, backend="serial", sweep={**SHARES, "max_time": 20}, samples=10**7)

    def dies(event: Event) -> None:
        if getattr(event, "blocks_done", 0) > 3:
            raise KeyboardInterrupt

    caller = Caller(dies, clock=Passing("2026-07-01T22:00:00+02:00"))
    with pytest.raises(KeyboardInterrupt):
        life.start(api.load(path), caller, store=tmp_path / "runs")
    taken_up = again(tmp_path, "2026-07-01T23:00:00+02:00", 0.3, sweep={**SHARES, "max_time": 20})
    assert (taken_up.state, taken_up.stopped_by) == ("partial", "max_time")
    assert [standing.points for standing in api.runs(tmp_path / "runs")] == [3]


def test_max_time_is_that_of_the_whole_also_with_several_backends(tmp_path: Path) -> None:
    """The second backend gets what the first one left of it: here, nothing."""
    matrix = {"backend": ["serial", "threads"], "params.share": [0.1, 0.2]}
    path = spec(tmp_path, sweep={"matrix": matrix, "max_time": 20}, backend="serial")
    clock = Passing("2026-07-02T12:00:00+02:00", 0.0)

    def dawdle(event: Event) -> None:
        if isinstance(event, Started) and event.backend == "threads":
            clock.advance(30)

    result = life.submit(api.load(path), Caller(dawdle, clock=clock), store=tmp_path / "runs")
    assert (result.state, result.stopped_by, result.done) == ("partial", "max_time", 2)
    assert drawn(result) == [40_000, 40_000, 0, 0]


def test_outside_of_its_window_a_sweep_begins_nothing(tmp_path: Path) -> None:
    """And says when it opens."""
    told: list[Event] = []
    path = spec(tmp_path, backend="serial", sweep=SHARES, schedule=NIGHT)
    clock = Passing("2026-07-02T12:00:00+02:00")
    caller = Caller(told.append, clock=clock)
    result = life.submit(api.load(path), caller, store=tmp_path / "runs")
    assert (result.state, result.stopped_by, result.exit_code) == ("partial", "window", 3)
    (closed,) = (event for event in told if isinstance(event, Closed))
    assert closed.opens == "2026-07-02 22:00 CEST"
    assert sum(point.result.samples for point in result.members) == 0


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
    path = spec(tmp_path, "slow", sweep=SLOW, samples=400_000)
    run = json.loads(cluster("submit", path, "--detach", "--json", cwd=tmp_path).stdout)["run"]
    watch = started("watch", run, cwd=tmp_path)
    assert watch.stderr
    assert run in watch.stderr.readline()
    assert cluster("wait", run, "--timeout", "0.1", cwd=tmp_path).returncode == 75
    for _ in range(2):
        assert cluster("stop", run, cwd=tmp_path).returncode == 0
    assert ended(watch)[0] == 143
    result = api.show(run, tmp_path / "runs")
    assert (result.state, result.stopped_by) == ("interrupted", "SIGTERM")
    assert all(point.result.drained is not False for point in result.members)


@pytest.mark.slow
def test_attach_passes_ctrl_c_on_to_a_sweep(tmp_path: Path) -> None:
    """All its points drain, and their table is shown in the end."""
    path = spec(tmp_path, "slow", sweep=SLOW, samples=400_000)
    run = json.loads(cluster("submit", path, "--detach", "--json", cwd=tmp_path).stdout)["run"]
    attached = started("attach", run, cwd=tmp_path)
    assert attached.stderr
    attached.stderr.readline()
    code, out, err = ended(attached, signal.SIGINT)
    assert code == 143, err
    assert "0 of 3 points done" in out
    assert "interrupted, stopped by SIGTERM" in out


@pytest.mark.slow
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
    result = api.show(run, tmp_path / "runs")
    assert [point.result.state for point in result.members] == ["interrupted"] * 4
    asked = [e["text"] for e in result.members[0].result.events if "asked to drain" in e["text"]]
    assert len(asked) == len(set(asked)) == 2


@pytest.mark.slow
def test_wishes_for_the_hosts_of_a_sweep_are_answered(tmp_path: Path) -> None:
    """By each part for its own points, of other backends too; none of one machine grants them."""
    values = {"matrix": {"backend": ["serial", "threads"], "params.pause": [0.1, 0.11]}}
    path = spec(tmp_path, "slow", sweep=values, samples=400_000)
    words = ["submit", path, "--detach", "--json", "--points"]
    run = json.loads(cluster(*words, "1/2", cwd=tmp_path).stdout)["run"]
    for name in (run, f"{run}/2"):
        error = ask("nodes", name, "--add", "h4", cwd=tmp_path, code=2)["error"]
        assert error["message"] == "this backend works on the hosts that it began with"
    error = ask("nodes", f"{run}/1", "--add", "h4", cwd=tmp_path, code=2)["error"]
    assert "is not being computed" in error["message"]
    cluster(*words, "2/2", cwd=tmp_path)
    error = ask("nodes", run, "--add", "h4", cwd=tmp_path, code=2)["error"]
    assert error["message"] == f"2 processes compute parts of {run}, each on hosts of its own"
    assert cluster("stop", run, cwd=tmp_path).returncode == 0
    error = ask("nodes", run, "--add", "h4", cwd=tmp_path, code=2)["error"]
    assert error["message"] == f"{run} is not being computed"


def test_a_scheduled_start_of_a_sweep_computes_what_is_missing(tmp_path: Path) -> None:
    """A second one finds it done."""
    path, log = spec(tmp_path, sweep=SHARES), tmp_path / "log"
    words = ["schedule", path, "--start", "--folder", tmp_path, "--log", log]
    assert [cluster(*words, cwd=Path("/")).returncode for _ in range(2)] == [0, 0]
    rows = json.loads(cluster("ls", "--json", cwd=tmp_path).stdout)
    assert {row["state"] for row in rows} == {"done"}
    assert len(list((tmp_path / "runs" / "logs").iterdir())) == 1


def told_of(folder: Path, function: str = "quarter", **keys: object) -> tuple[Path, Path]:
    """A sweep's spec, and the file to which every message is added as a line."""
    script, messages = folder / "tell.sh", folder / "messages"
    script.write_text(f'#!/bin/sh\ncat >> "{messages}"\necho >> "{messages}"\n')
    script.chmod(0o755)
    path = spec(folder, function, backend="serial", notify={"command": [str(script)]}, **keys)
    return path, messages


def test_how_a_sweep_ended_is_told_once_for_all_points(tmp_path: Path) -> None:
    """And what became of the message is recorded; a start with nothing to do is no news."""
    path, messages = told_of(tmp_path, sweep=SHARES)
    result = ask("submit", path, "--store", tmp_path / "runs", cwd=tmp_path)
    ask("submit", path, "--store", tmp_path / "runs", cwd=tmp_path)
    (message,) = map(json.loads, messages.read_text().splitlines())
    assert (message["event"], message["run"]) == ("done", result["sweep"])
    assert (message["points_done"], message["points_total"], message["failed"]) == (3, 3, [])
    assert message["text"] == f"quarter: done, 3 of 3 points done, sweep {result['sweep']}"
    notes = [event["text"] for event in result["events"] if "notified" in event["text"]]
    assert notes == [f"notified of done: {tmp_path / 'tell.sh'}"]


def test_which_points_failed_is_told(tmp_path: Path) -> None:
    """With the command that goes on."""
    values = {"include": [{"samples": 2000}, {"samples": 40_000}]}
    path, messages = told_of(tmp_path, "breaks", sweep=values)
    assert cluster("submit", path, cwd=tmp_path).returncode == 1
    (message,) = map(json.loads, messages.read_text().splitlines())
    assert (message["event"], message["failed"], message["points_done"]) == ("failed", [1], 1)
    assert "resume" in message["resume"]


def test_of_a_part_of_a_sweep_its_own_points_are_told(tmp_path: Path) -> None:
    """Points that other processes owe make it no failure."""
    path, messages = told_of(tmp_path, sweep=SHARES)
    for part in ("1/2", "2/2"):
        assert cluster("submit", path, "--points", part, cwd=tmp_path).returncode == 0
    told = [json.loads(line) for line in messages.read_text().splitlines()]
    assert [(each["event"], each["points_done"]) for each in told] == [("done", 2), ("done", 3)]


def test_a_sweep_that_cannot_start_is_told_of(tmp_path: Path) -> None:
    """By the error."""
    nodes = [{"host": "localhost", "slots": 1, "python": "/no/python"}]
    path, messages = told_of(tmp_path, sweep=SHARES, nodes=nodes)
    code = cluster("submit", path, "--set", "backend=processes", cwd=tmp_path).returncode
    assert code == 69
    (message,) = map(json.loads, messages.read_text().splitlines())
    assert (message["event"], message["error"]["code"]) == ("failed", 69)
