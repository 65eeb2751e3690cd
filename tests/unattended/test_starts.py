"""Scheduled starts on a fake clock: windows, both changes of daylight saving, doubles, misses."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from cluster import api
from cluster.common.errors import Locked, SpecError
from cluster.dispatch.events import Closed, Draining, Event
from cluster.ledger import Ledger
from cluster.ledger.sessions import sessions_of
from cluster.report.result import Result
from cluster.spec import Spec
from cluster.testing import FakeClock

KERNEL = """
from cluster import Hits
def f(rng, samples): return Hits((rng.random(samples) < .25).sum(), samples)
"""


class Passing(FakeClock):
    """A clock on which a little time passes each time that somebody looks at it."""

    def __init__(self, now: str, step: float = 0.3) -> None:
        super().__init__(datetime.fromisoformat(now).timestamp())
        self._step = step

    def steady(self) -> float:
        """Seconds on a clock that never steps."""
        self.advance(self._step)
        return super().steady()


def spec(folder: Path, *keys: str, samples: int = 100_000) -> Spec:
    """A night's spec: blocks of ten samples, computed in this process."""
    (folder / "kernel.py").write_text(KERNEL)
    head = f"name: night\nkernel: kernel.py:f\nblock: 10\nsamples: {samples}\nbackend: serial\n"
    window = 'schedule: {window: "22:00-06:00", timezone: Europe/Berlin}\n'
    path = folder / "night.yaml"
    path.write_text(head + window + "seed: 7\n")
    return api.load(path, keys)


def start(
    job: Spec, folder: Path, now: str, step: float = 0.3, events: list[Event] | None = None
) -> Result:
    """One scheduled start of a spec at a time."""
    told: list[Event] = [] if events is None else events
    clock = Passing(now, step)
    return api.start(job, store=folder / "runs", clock=clock, observe=told.append)


def ended(results: Sequence[Result]) -> list[tuple[str, str | None, int]]:
    """State, cause and exit code of each."""
    return [(result.state, result.stopped_by, result.exit_code) for result in results]


WINDOW = ("partial", "window", 3)
DONE = ("done", "samples", 0)


def test_the_end_of_the_window_drains_and_the_next_night_goes_on(tmp_path: Path) -> None:
    """Until the goal holds, with the digest of an unbroken run; after it, nothing is done."""
    job = spec(tmp_path)
    first = start(job, tmp_path, "2026-07-02T05:59:00+02:00")
    second = start(job, tmp_path, "2026-07-02T22:00:00+02:00", step=0.0001)
    third = start(job, tmp_path, "2026-07-03T22:00:00+02:00")
    assert ended([first, second, third]) == [WINDOW, DONE, DONE]
    assert 0 < first.samples < second.samples
    assert first.drained
    assert first.run == second.run == third.run
    with Ledger(tmp_path / "runs") as ledger:
        assert len(sessions_of(ledger, ledger.run(first.run))) == 2
    unbroken = api.submit(job.revised(["schedule=null"]), store=tmp_path / "other")
    assert unbroken.digest == third.digest


@pytest.mark.fault(35)
def test_a_start_outside_of_the_window_ends_at_once(tmp_path: Path) -> None:
    """As a catch-up of a machine that was off: nothing is computed, and it is told until when."""
    events: list[Event] = []
    result = start(spec(tmp_path), tmp_path, "2026-07-02T10:00:00+02:00", events=events)
    assert ended([result]) == [WINDOW]
    assert (result.samples, result.resume is None) == (0, False)
    (closed,) = (event for event in events if isinstance(event, Closed))
    assert closed.window == "22:00-06:00 (Europe/Berlin)"
    assert closed.opens == "2026-07-02 22:00 CEST"
    with Ledger(tmp_path / "runs") as ledger:
        assert sessions_of(ledger, ledger.run(result.run)) == []


@pytest.mark.parametrize(
    ("now", "hours"),
    [
        # The nights of both changes: seven hours in spring, nine in autumn.
        ("2026-03-28T22:00:00+01:00", 7),
        ("2026-10-24T22:00:00+02:00", 9),
        ("2026-07-01T22:00:00+02:00", 8),
    ],
)
def test_a_night_is_as_long_as_the_clock_on_the_wall_says(
    now: str, hours: int, tmp_path: Path
) -> None:
    """The run drains at 06:00, whatever the clocks did in between."""
    clock = Passing(now, step=120.0)
    begun = clock.now()
    over: list[float] = []

    def observe(event: Event) -> None:
        if isinstance(event, Draining):
            over.append(clock.now() - begun)

    job = spec(tmp_path, samples=10**7)
    result = api.start(job, store=tmp_path / "runs", clock=clock, observe=observe)
    assert ended([result]) == [WINDOW]
    assert over[0] == pytest.approx(hours * 3600, abs=1200)


@pytest.mark.fault(34)
def test_a_doubled_firing_of_one_date_gets_no_second_time(tmp_path: Path) -> None:
    """02:30 comes twice on 2026-10-25: the second start finds that the first had its time."""
    limits = ("until.max_time=20", 'schedule.window="02:30-12:00"', "samples=null")
    job = spec(tmp_path, *limits)
    first = start(job, tmp_path, "2026-10-25T02:30:00+02:00")
    again = start(job, tmp_path, "2026-10-25T02:30:00+01:00")
    late = start(job, tmp_path, "2026-10-25T11:00:00+01:00")
    assert ended([first, again, late]) == [("partial", "max_time", 3)] * 3
    assert first.samples == again.samples == late.samples > 0
    next_night = start(job, tmp_path, "2026-10-26T02:30:00+01:00")
    assert next_night.samples > first.samples
    assert next_night.run == first.run


def test_without_a_window_a_start_belongs_to_the_day(tmp_path: Path) -> None:
    """Of the machine's own time zone."""
    job = spec(tmp_path, "schedule=null", "until.max_time=20", "samples=null")
    noon = datetime(2026, 7, 1, 12).astimezone()
    days = [noon, noon.replace(hour=18), noon.replace(day=2)]
    samples = [start(job, tmp_path, day.isoformat()).samples for day in days]
    assert samples[0] == samples[1] < samples[2]


@pytest.mark.fault(35)
def test_a_start_that_was_killed_is_taken_up_by_a_second_firing(tmp_path: Path) -> None:
    """The same date, inside of the window: the first did not have its time."""
    job = spec(tmp_path, "until.max_time=20", samples=10**6)

    def dies(event: Event) -> None:
        if getattr(event, "blocks_done", 0) > 3:
            raise KeyboardInterrupt

    night = Passing("2026-07-01T22:00:00+02:00")
    with pytest.raises(KeyboardInterrupt):
        api.start(job, store=tmp_path / "runs", clock=night, observe=dies)
    run = api.runs(tmp_path / "runs")[0]
    assert run.state == "interrupted"
    again = start(job, tmp_path, "2026-07-01T23:00:00+02:00")
    assert (again.run, again.stopped_by) == (run.run, "max_time")


@pytest.mark.fault(36)
def test_a_start_while_the_last_one_runs_names_who_holds_it(tmp_path: Path) -> None:
    """It ends with 75, and the run is none the worse."""
    job = spec(tmp_path, samples=1000)
    refused: list[int] = []

    def start_again(_event: Event) -> None:
        if not refused:
            with pytest.raises(Locked, match="is held by process") as caught:
                start(job, tmp_path, "2026-07-01T22:00:01+02:00")
            refused.append(caught.value.code)

    night = Passing("2026-07-01T22:00:00+02:00", step=0.0001)
    result = api.start(job, store=tmp_path / "runs", clock=night, observe=start_again)
    assert (refused, result.state) == ([75], "done")


def _start_in_a_process(folder: str) -> str:
    job = api.load(Path(folder) / "night.yaml")
    try:
        return start(job, Path(folder), "2026-07-01T22:00:00+02:00", step=0.0001).state
    except Locked:
        return "locked"


@pytest.mark.fault(36)
def test_starts_of_one_moment_enter_one_run(tmp_path: Path) -> None:
    """However many processes fire at once, in an empty store: one computes it."""
    spec(tmp_path, samples=3000)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        states = pool.map(_start_in_a_process, [str(tmp_path)] * 8, chunksize=1)
    # Shown when it was done, a run may be held again: by a start that finds nothing to do.
    assert set(states) <= {"done", "locked", "running"}
    assert "done" in states
    assert len(api.runs(tmp_path / "runs")) == 1


def test_a_resume_by_hand_keeps_to_the_window_unless_it_is_taken_off(tmp_path: Path) -> None:
    """The window is a matter of when, so a resume may change it."""
    job = spec(tmp_path, samples=1000)
    run = start(job, tmp_path, "2026-07-02T10:00:00+02:00").run
    result = api.resume(run, tmp_path / "runs", overrides=["schedule=null"])
    assert (result.state, result.run) == ("done", run)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("schedule: {window: 25:00-06:00}", "a window such as"),
        ("schedule: {window: 06:00-06:00}", "must not close at the time it opens"),
        ("schedule: {window: 1}", "must be text"),
        ("schedule: {timezone: Europe/Berlin}", "a time zone needs a window"),
        ("schedule: {window: 22:00-06:00, timezone: Mars/Base}", "unknown time zone 'Mars/Base'"),
        ("schedule: {windows: 22:00-06:00}", "did you mean 'window'?"),
        ("schedule: [a]", "must be a mapping"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_told(lines: str, words: str, tmp_path: Path) -> None:
    """With its place."""
    path = tmp_path / "bad.yaml"
    path.write_text(f"kernel: kernel.py:f\nsamples: 10\n{lines}\n")
    with pytest.raises(SpecError, match=rf"bad.yaml:3:\d+: schedule.*{words}".replace("?", r"\?")):
        api.load(path)
