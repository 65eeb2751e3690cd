"""The final report of a run: its estimate, how it ended, and what each node did."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.common.commands import command
from cluster.common.states import State
from cluster.report.layout import Line, Part, facts, indented, one_line, table
from cluster.report.numbers import (
    count,
    counted,
    duration,
    interval_text,
    number,
    percent,
    si,
    value_text,
)

if TYPE_CHECKING:
    from cluster.report.result import Failure, NodeResult, Result

#: The colour of each state on a terminal.
STYLES = {"done": "green", "failed": "red", "partial": "yellow", "interrupted": "yellow"}

# Bins and events to show; --json has all of them.
_MOST_BINS = 24
_MOST_EVENTS = 8
# Events of a normal start of a node, which are not worth showing.
_COMES_UP = re.compile(r" slots?: (ready|\d+ of \d+ are starting)$")
_NUMBERS = ("from", "to", "count", "errors off")
_ENDINGS = {
    ("done", "samples"): "all samples are drawn",
    ("done", "target"): "the target is met",
    ("partial", "max_time"): "max_time was reached",
    ("partial", "window"): "its window closed",
    ("partial", "max_samples"): "max_samples were drawn before the target was met",
    ("partial", "nodes"): "no usable node was left",
    ("failed", "failure"): "a block is out of attempts",
}


def result(result: Result, store: str | Path = "runs") -> list[Part]:
    """The report of a run; ``store`` is its folder, for the commands that it suggests."""
    return [
        _headline(result),
        *facts(
            {
                "state": _ending(result.state, result.stopped_by),
                "drained": _undrained(result),
                "reference": _reference(result),
                "samples": f"{count(result.samples)} in {_blocks(result.blocks, result.block)}",
                "kernel": f"{result.kernel}{_arguments(result.params)}",
                "seed": str(result.seed),
                "time": f"{duration(result.wall_s)} on {result.backend}",
                "run": result.run,
                "digest": result.digest,
            }
        ),
        *_bins(result),
        *_failures(result, store),
        *_events(result.events),
        Line(),
        *nodes(result.nodes),
        *onward(result.advice, None if result.advice else result.resume),
    ]


def onward(advice: str | None, resume: str | None) -> list[Part]:
    """What to do next, and the command that continues the run, if there are any."""
    shown = facts({"next": advice, "continue": resume})
    return [Line(), *shown] if advice or resume else []


def nodes(rows: Sequence[NodeResult]) -> list[Part]:
    """The table of the nodes of a run."""
    titles = (
        "node",
        "slots",
        "tasks",
        "samples",
        "share",
        "busy s",
        "cpu s",
        "samples/s",
        "utilisation",
        "lost s",
        "goodput",
        "failures",
    )
    return [table(titles, map(_node, rows), right=titles[1:], spare=("goodput", "lost s"))]


def _headline(result: Result) -> Line:
    state = State(result.state)
    title = f"{state.symbol} {result.name}:"
    style = f"bold {STYLES.get(result.state, '')}".strip()
    if result.estimate is None:
        return Line(f"{title} nothing is counted yet", style)
    if isinstance(result.estimate, list):
        return Line(f"{title} {counted(len(result.estimate), 'bin')}, see below", style)
    shown = value_text(result.estimate, result.std_error)
    low, high = result.interval
    span = interval_text(low, high, result.std_error)
    return Line(f"{title} {shown}, {_confidence(result)} interval {span}", style)


def _confidence(result: Result) -> str:
    return f"{100 * result.confidence:.6g} %"


def _ending(state: str, stopped_by: str | None) -> str:
    if state in ("running", "done") and stopped_by is None:
        return state
    why = _ENDINGS.get((state, stopped_by or ""))
    return f"{state}: {why or stopped_by or 'its process ended without recording why'}"


def _undrained(result: Result) -> str | None:
    """A warning if some started blocks are not counted, with the gaps that they left."""
    if result.drained is not False:
        return None
    # Unfinished blocks are those that take longest, so the rest is a biased selection.
    holes = [
        f"{stop} to {first - 1}" if first - 1 > stop else str(stop)
        for (_, stop), (first, _) in zip(result.ranges, result.ranges[1:], strict=False)
    ]
    shown = f" (missing: {one_line(', '.join(holes))})" if holes else ""
    return f"no: blocks were started but not finished, the estimate may be biased{shown}"


def _reference(result: Result) -> str | None:
    if result.reference is None or isinstance(result.reference, list):
        return None
    off = _off(result.estimate, result.std_error, result.reference)
    return f"{number(result.reference)}{f', {off} standard errors off' if off else ''}"


def _off(value: float | None, error: float | None, reference: float | None) -> str | None:
    """By how many standard errors an estimate exceeds a reference; None if that is undefined."""
    if value is None or reference is None or not error or not math.isfinite(error):
        return None
    return f"{(value - reference) / error:+.2f}"


def _blocks(blocks: int, block: int) -> str:
    return f"{counted(blocks, 'block')} of {count(block)}"


def _arguments(params: Mapping[str, Any]) -> str:
    return f"({', '.join(f'{name}={value!r}' for name, value in params.items())})" if params else ""


def _bins(result: Result) -> list[Part]:
    """The table of the first bins of a histogram."""
    if not isinstance(result.estimate, list) or result.tally is None:
        return []
    tally = result.tally
    titles = ("from", "to", "count", "estimate", f"{_confidence(result)} interval", "errors off")
    known = isinstance(result.reference, list)
    references = result.reference if known else [None] * len(result.estimate)
    columns = (
        pairwise(tally["edges"]),
        tally["counts"],
        zip(result.estimate, result.std_error, strict=True),
        result.interval,
        references,
    )
    rows = [_bin(*cells) for cells in islice(zip(*columns, strict=True), _MOST_BINS)]
    width = len(titles) if known else len(titles) - 1
    left = len(result.estimate) - len(rows)
    below, above = tally["underflow"], tally["overflow"]
    outside = f"{count(below)} below, {count(above)} above the edges"
    if below or above:
        outside += ", in no bin: an edge of -inf or inf would include them"
    return [
        Line(),
        table(titles[:width], (row[:width] for row in rows), right=_NUMBERS),
        *([Line(f"... and {counted(left, 'more bin')}: --json has them")] if left else []),
        *facts({"outside": outside}),
    ]


def _bin(
    edges: tuple[float | str, float | str],
    hits: int,
    estimate: tuple[float, float],
    interval: tuple[float, float],
    reference: float | None,
) -> tuple[str | None, ...]:
    value, error = estimate
    span = interval_text(interval[0], interval[1], error)
    off = _off(value, error, reference)
    return (*map(_edge, edges), count(hits), value_text(value, error), span, off)


def _edge(edge: float | str) -> str:
    """A bin edge; an infinite one is text in a tally."""
    return edge if isinstance(edge, str) else number(edge)


def _failures(result: Result, store: str | Path) -> list[Part]:
    """How many attempts failed, and the first failure in full."""
    if not result.failures:
        return []
    total = sum(node.failures for node in result.nodes)
    first = result.failures[0]
    head = f"{counted(total, 'failed attempt')}; the first: {_failure(first)}"
    again = facts({"reproduce": _repro_command(result.run, first.block, store)})
    return [Line(), Line(head, "red"), *indented(first.traceback), *again]


def _failure(failure: Failure) -> str:
    block = "an unknown block" if failure.block is None else f"block {failure.block}"
    what = one_line(f"{failure.type}: {failure.message}")
    return f"{block} on {failure.node}, attempt {failure.attempt}: {what}"


def _repro_command(run: str, block: int | None, store: str | Path) -> str | None:
    if block is None:
        return None
    return command("repro", run, "--block", str(block), store=store)


def _events(events: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The first events, without those of normal starts of nodes."""
    unusual = [event for event in events if not _COMES_UP.search(event["text"])]
    lines = [facts({event["node"] or "the run": one_line(event["text"])}) for event in unusual]
    left = len(unusual) - _MOST_EVENTS
    rest = [Line(f"... and {counted(left, 'more event')}: --json has them")] if left > 0 else []
    shown = [line for pair in lines[:_MOST_EVENTS] for line in pair]
    return [Line(), *shown, *rest] if unusual else []


def _node(node: NodeResult) -> tuple[str | None, ...]:
    return (
        node.node,
        count(node.slots),
        count(node.tasks),
        count(node.samples),
        percent(node.share),
        f"{node.busy_s:.2f}",
        f"{node.cpu_s:.2f}",
        si(node.samples_per_s),
        percent(node.utilisation),
        f"{node.lost_s:.2f}",
        percent(node.goodput),
        count(node.failures),
    )
