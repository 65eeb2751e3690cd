"""Observers show a run as it goes, and never harm it."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from cluster.dispatch.events import (
    Alarm,
    AttemptFailed,
    Draining,
    Event,
    NodeChanged,
    NodeProgress,
    Progress,
    Started,
)
from cluster.report.live import Bar, PlainOutput, QuietOutput, observer
from cluster.sampling.tally import Histogram, Hits
from cluster.sampling.task import Fault
from tests.report.made import Terminal

START = Started("pi-1", 0, 1000, 100, "processes")
FAILED = AttemptFailed("n1", 1, Fault("raised", 7, "ValueError", "bad [red]\x1b[2J\nluck"), False)
ALARM = Alarm("blocks 3 to 4 came out differently", "n1")


def progress(elapsed: float, blocks: int, goal: int | None = 1000, nodes: int = 1) -> Progress:
    """A run that draws 100 samples a block, 10 blocks a second."""
    tally = Hits(blocks * 78, blocks * 100)
    rows = (NodeProgress(f"n{n}", 2, blocks, blocks * 100, elapsed, 0) for n in range(nodes))
    estimate = tally.estimate(0.95, 4) if blocks else None
    return Progress(elapsed, blocks, goal, blocks * 100, 1000.0, estimate, tuple(rows))


def told(kind: type[QuietOutput], *events: Event) -> str:
    """What an observer of that kind writes to a pipe."""
    stream = io.StringIO()
    with kind(stream) as observe:
        for event in events:
            observe(event)
    return stream.getvalue()


def drawn(stream: Terminal, *events: Event) -> str:
    """What a bar writes to a terminal of 80 columns."""
    environment = {"COLUMNS": "80", "LINES": "30", "TERM": "xterm"}
    with patch.dict("os.environ", environment), Bar(stream) as observe:
        for event in events:
            observe(event)
    return stream.getvalue()


def screen(sent: str) -> list[str]:
    """The lines that stand on a terminal after it was sent so much; knows what a bar uses."""
    lines, at = [""], 0
    for token in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", sent):
        if token == "\n":
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif token == "\x1b[1A":
            at -= 1
        elif token == "\x1b[2K":
            lines[at] = ""
        elif not token.startswith("\x1b") and token != "\r":
            lines[at] += token
    return [line.rstrip() for line in lines]


def test_piped_progress_is_plain_lines() -> None:
    """Start, nodes, progress and the end of giving out tasks: a line each, no escapes."""
    assert told(
        PlainOutput,
        START,
        NodeChanged("n1", 2, "ready"),
        progress(1, 10),
        progress(2.1, 21),
        Draining("max_time"),
    ) == (
        "run pi-1 on processes: 0 of 1,000 blocks of 100 samples are counted\n"
        "n1: 2 slots, ready\n"
        "2.1 s: 2.1 % of 1,000 blocks, 3.120(36), 1.00 k/s, 1m 38s left\n"
        "max_time is reached: finishing tasks in progress\n"
    )


def test_lines_come_at_growing_intervals() -> None:
    """A day of events at five a second gives some hundred lines, the first after two seconds."""
    seconds = [tick / 5 for tick in range(5 * 3600)]
    lines = told(PlainOutput, *(progress(second, 10) for second in seconds)).splitlines()
    assert lines[0].startswith("2.0 s: ")
    assert 20 < len(lines) < 60


def test_a_signal_says_how_to_stop_at_once() -> None:
    """Draining may take a while, and the person should know the way out."""
    assert told(PlainOutput, Draining("SIGINT")) == (
        "SIGINT: finishing tasks in progress; repeat to stop at once\n"
    )


@pytest.mark.fault(96, 97)
def test_failures_and_alarms_are_told_at_once_in_every_mode() -> None:
    """Even a quiet observer tells what must not happen; escapes and markup are shown."""
    for kind in (QuietOutput, PlainOutput):
        assert told(kind, FAILED, ALARM) == (
            "failed on n1: block 7, attempt 1: ValueError: bad [red]\\x1b[2J luck\n"
            "ALARM: blocks 3 to 4 came out differently (node n1)\n"
        )


def test_quiet_tells_nothing_of_a_healthy_run() -> None:
    """Silence is the good news."""
    assert told(QuietOutput, START, NodeChanged("n1", 2, "ready"), progress(9, 90)) == ""


def test_failures_are_bounded() -> None:
    """A run of thousands of failures tells five, and how many there were."""
    lines = told(QuietOutput, *[FAILED] * 5000).splitlines()
    assert len(lines) == 6
    assert lines[-1] == "5,000 attempts failed; the first 5 are shown above"


def test_a_histogram_and_an_endless_goal_have_their_words() -> None:
    """Without a goal in blocks there is no share, and a histogram has no single estimate."""
    tally = Histogram.of([0.5, 1.5], [0.0, 1.0, 2.0])
    event = Progress(3.0, 1, None, 2, 0.7, tally.estimate(0.95), ())
    assert told(PlainOutput, event) == "3.0 s: 1 block, largest standard error 0.35, 0.7/s\n"
    assert told(PlainOutput, progress(3.0, 0)) == "3.0 s: 0.0 % of 1,000 blocks, 1.00 k/s\n"


def test_a_bar_shows_estimate_speed_and_a_row_a_node() -> None:
    """The picture of the moment, without a box."""
    sent = drawn(Terminal(), START, progress(10, 100, nodes=2))
    body = re.sub(r"\x1b\[[0-9;]*m", "", sent)
    for words in (
        "3.120(17), 1.00 k/s",
        "10.0 % of 1,000 blocks, 10 s elapsed, 1m 30s left",
        "node  slots  tasks  samples  samples/s  utilisation  failures",
        "n0 ",
        "n1 ",
    ):
        assert words in body


def test_a_bar_leaves_nothing_behind() -> None:
    """After the end only the lines stand; the cursor is shown and the bar is gone."""
    sent = drawn(Terminal(), START, progress(1, 10), FAILED, progress(2, 20), progress(3, 30))
    lines = [line for line in screen(sent) if line]
    assert len(lines) == 2
    assert lines[0].startswith("run pi-1")
    assert lines[1].startswith("failed on n1: block 7")
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l")


def test_a_bar_is_cleared_when_the_run_raises() -> None:
    """An error's text does not meet half a bar."""
    stream = Terminal()

    def interrupted() -> None:
        with Bar(stream) as observe:
            observe(progress(1, 10))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [line for line in screen(stream.getvalue()) if line] == []


def test_a_bar_is_drawn_at_most_ten_times_a_second() -> None:
    """A thousand events in a second of the run are ten pictures."""
    sent = drawn(Terminal(), *(progress(tick / 1000, 1) for tick in range(1000)))
    assert 8 <= len(re.findall("samples/s", sent)) <= 12


def test_a_bar_of_many_nodes_stays_on_the_screen() -> None:
    """Sixteen rows, and how many more there are."""
    sent = drawn(Terminal(), progress(1, 10, nodes=200))
    assert "... and 184 more nodes" in sent
    assert "n199" not in sent


def test_a_bar_keeps_to_ascii_where_the_terminal_does() -> None:
    """A C locale gets a bar of hyphens."""
    drawn(Terminal("ascii"), START, FAILED, progress(10, 100)).encode("ascii")


@pytest.mark.fault(97)
def test_a_bar_takes_no_markup_from_names() -> None:
    """A node may be called anything."""
    rows = (NodeProgress("[bold]n1\x1b[2J", 2, 1, 100, 1.0, 0),)
    sent = drawn(Terminal(), Progress(1.0, 1, 10, 100, 100.0, None, rows), FAILED)
    assert r"[bold]n1\x1b[2J" in sent
    assert r"[red]\x1b[2J luck" in sent


class Broken(Terminal):
    """A terminal that went away after so many writes."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def write(self, text: str) -> int:
        """Count down, then fail as a closed pipe does."""
        if not self.left:
            raise BrokenPipeError
        self.left -= 1
        return super().write(text)


@pytest.mark.fault(40)
@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("kind", [QuietOutput, PlainOutput, Bar])
def test_a_broken_stream_does_not_harm_the_run(kind: type[QuietOutput], after: int) -> None:
    """Whenever the reader leaves, the observer goes silent, and stderr is as it was."""
    stream, before = Broken(after), sys.stderr
    with kind(stream) as observe:
        for tick in range(10):
            for event in (START, progress(tick, tick), FAILED, ALARM, Draining("nodes")):
                observe(event)
    assert sys.stderr is before


@pytest.mark.fault(40)
@pytest.mark.parametrize("kind", [QuietOutput, PlainOutput, Bar])
def test_a_closed_stream_does_not_harm_the_run(kind: type[QuietOutput]) -> None:
    """Writing to a closed file is a ValueError, which is no reason to stop either."""
    stream = Terminal()
    observe = kind(stream)
    stream.close()
    observe(START)
    observe(FAILED)
    observe(progress(1, 1))
    observe.close()


def test_a_real_pipe_without_a_reader_does_not_harm_the_run() -> None:
    """The same with the kernel's own EPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    with PlainOutput(stream) as observe:
        for _ in range(3):
            observe(START)
    with pytest.raises(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize(
    ("stream", "term", "quiet", "kind"),
    [
        (io.StringIO(), "xterm", False, PlainOutput),
        (io.StringIO(), "xterm", True, QuietOutput),
        (Terminal(), "xterm", False, Bar),
        (Terminal(), "xterm", True, QuietOutput),
        (Terminal(), "dumb", False, PlainOutput),
    ],
)
def test_the_observer_fits_the_stream(
    stream: io.StringIO, term: str, quiet: bool, kind: type[QuietOutput]
) -> None:
    """A bar only where it can be drawn and is wanted."""
    with patch.dict("os.environ", {"TERM": term}):
        assert type(observer(stream, quiet=quiet)) is kind


def test_the_report_draws_no_bar_into_a_file(tmp_path: Path) -> None:
    """A redirected stderr is a log: it has lines and no escapes."""
    with open(tmp_path / "log", "w") as stream, observer(stream) as observe:
        observe(START)
        observe(progress(5, 50))
    assert "\x1b" not in (tmp_path / "log").read_text()
