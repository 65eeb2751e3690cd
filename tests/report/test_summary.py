"""The final report says what came out, how sure it is, and what went wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.report.layout import plain
from cluster.report.summary import result
from cluster.sampling.tally import Histogram, Hits
from tests.report.made import (
    BINS,
    CASES,
    DIGEST,
    FAILED,
    FAILURE,
    KILLED,
    LATE,
    MEAN,
    NODE,
    PI,
    RUNNING,
    UNDRAINED,
    made,
)

TITLES = (
    "node       slots  tasks    samples    share  busy s  cpu s  samples/s  utilisation  lost s"
    "  goodput  failures\n"
)
ROW = (
    "localhost      2     61  1,000,000  100.0 %    9.50   9.25      105 k       95.0 %    0.25"
    "  100.0 %         0\n"
)

SECOND_ROW = (
    "n2             2     61  1,000,000    0.0 %    9.50   9.25          -       95.0 %    0.25"
    "  100.0 %         2\n"
)

PI_TEXT = f"""\
✓ pi: 3.141 6(16), 95 % interval 3.138 3 to 3.144 9
state       done: all samples are drawn
reference   3.141 592 653 59, -0.00 standard errors off
samples     1,000,000 in 1,000 blocks of 1,000
kernel      pi.py:pi
seed        7
time        5.0 s on processes
run         pi-1
digest      {DIGEST}

{TITLES}{ROW}"""

MEAN_TEXT = f"""\
✓ pi: 2.333(23), 95 % interval 2.288 to 2.378
state       done: all samples are drawn
samples     3,000 in 3 blocks of 1,000
kernel      m.py:m(rate=0.5)
seed        7
time        5.0 s on processes
run         pi-1
digest      {DIGEST}

{TITLES}{ROW}"""

BINS_TEXT = f"""\
✓ pi: 2 bins, see below
state       done: all samples are drawn
samples     1,000 in 1 block of 1,000
kernel      h.py:h
seed        7
time        5.0 s on processes
run         pi-1
digest      {DIGEST}

from  to  count  estimate     95 % interval       errors off
   0   1    900  0.900 0(95)  0.879 8 to 0.917 1       +0.00
   1   2     90  0.090 0(90)  0.073 7 to 0.109 4       -1.10
outside     0 below, 10 above the edges, in no bin: an edge of -inf or inf would include them

{TITLES}{ROW}"""

FAILED_TEXT = f"""\
✗ pi: 3.140(52), 95 % interval 3.033 to 3.238
state       failed: a block is out of attempts
samples     1,000 in 1 block of 1,000
kernel      pi.py:pi
seed        7
time        5.0 s on processes
run         pi-1
digest      {DIGEST}

2 failed attempts; the first: block 7 on n2, attempt 1: ValueError: bad luck
  Traceback:
    line 3
  ValueError: bad luck
reproduce   cluster repro pi-1 --block 7

{TITLES}{ROW}{SECOND_ROW}
continue    cluster resume pi-1
"""

GOLDEN = {"pi": PI_TEXT, "mean": MEAN_TEXT, "bins": BINS_TEXT, "failed": FAILED_TEXT}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_report_reads_as_it_should(name: str) -> None:
    """The whole text, for each kind of tally and for a failure."""
    assert plain(result(CASES[name])) == GOLDEN[name]


@pytest.mark.parametrize("name", CASES)
def test_every_ending_can_be_told(name: str) -> None:
    """No state, and no gap in what is known, is without words."""
    text = plain(result(CASES[name]))
    assert CASES[name].state in text
    assert "None" not in text
    assert "nan" not in text


def test_a_run_with_nothing_counted_says_so() -> None:
    """Before the first block there is no estimate to show."""
    assert "nothing is counted yet" in plain(result(RUNNING))


def test_zero_hits_show_an_interval_with_a_width() -> None:
    """The standard error is zero there; the interval is not."""
    assert "0.0(0), 95 % interval 0 to 0.015" in plain(result(KILLED))


@pytest.mark.parametrize(
    ("state", "stopped_by", "words"),
    [
        ("done", "target", "done: the target is met"),
        ("partial", "max_time", "partial: max_time was reached"),
        ("partial", "nodes", "partial: no usable node was left"),
        ("interrupted", "SIGTERM", "interrupted: SIGTERM"),
        ("interrupted", None, "interrupted: its process ended without recording why"),
    ],
)
def test_a_state_comes_with_its_cause(state: str, stopped_by: str | None, words: str) -> None:
    """A state alone would leave the person to guess."""
    assert words in plain(result(replace(PI, state=state, stopped_by=stopped_by)))


def test_a_run_that_did_not_drain_names_the_missing_blocks() -> None:
    """Blocks that were started and lost may bias what is left; the holes are named."""
    text = plain(result(UNDRAINED))
    assert "drained     no: blocks were started but not finished, the estimate may be bias" in text
    assert "(missing: 2, 4 to 8)" in text


@pytest.mark.fault(14)
def test_a_failure_comes_with_traceback_block_and_command() -> None:
    """The first traceback, once, and the command that runs that block here, in its store."""
    text = plain(result(FAILED, "my runs"))
    assert text.count("ValueError: bad luck") == 2
    assert "cluster repro pi-1 --block 7 --store 'my runs'" in text


def test_a_failure_of_an_unknown_block_has_no_command() -> None:
    """There is no block that one could try."""
    text = plain(result(replace(FAILED, failures=[replace(FAILURE, block=None, traceback="")])))
    assert "an unknown block on n2" in text
    assert "repro" not in text


def test_alarms_are_in_the_report_and_healthy_nodes_are_not() -> None:
    """What must not happen is told again at the end."""
    text = plain(result(LATE))
    assert "n1          blocks 3 to 4 came out differently" in text
    assert "ready" not in text


def test_many_bins_and_events_are_bounded() -> None:
    """A report stays a page; --json has the rest."""
    many = Histogram.of([0.5] * 1000, [float(edge) for edge in range(101)])
    events = [{"at": 1.0, "node": None, "text": f"event {n}"} for n in range(100)]
    text = plain(result(made(many, events=events)))
    assert "... and 76 more bins: --json has them" in text
    assert "... and 92 more events: --json has them" in text
    assert text.count("\n") < 60


@pytest.mark.fault(96, 97)
def test_what_users_wrote_is_not_obeyed() -> None:
    """Names, parameters and messages may hold anything."""
    bad = "[red]x\x1b[2J"
    hostile = replace(
        FAILED,
        name=bad,
        kernel=bad,
        params={bad: bad},
        failures=[replace(FAILURE, node=bad, message=bad, traceback=bad)],
        nodes=[replace(NODE, node=bad)],
    )
    text = plain(result(hostile))
    assert "\x1b" not in text
    assert text.count(r"[red]x\x1b[2J") == 8


def test_a_large_reference_distance_is_told_in_standard_errors() -> None:
    """A wrong kernel shows at the first look."""
    text = plain(result(made(Hits(500, 1000), reference=0.9)))
    assert "reference   0.9, -25.30 standard errors off" in text
    assert "standard errors" not in plain(result(MEAN))
    assert "+0.00" in plain(result(BINS))
