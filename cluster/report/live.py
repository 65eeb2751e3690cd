"""Progress display of a running run: observers of :mod:`cluster.dispatch.events`.

They use no clock and no thread: events carry the time, and are shown as they come. If writing to
the stream fails, an observer stops showing anything, so that a closed terminal never ends a run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TextIO

from cluster.dispatch.events import (
    Alarm,
    AttemptFailed,
    Closed,
    Draining,
    Event,
    HostsChanged,
    NodeChanged,
    NodeProgress,
    Noted,
    Observer,
    PointProgress,
    Printed,
    Progress,
    Started,
)
from cluster.report.layout import (
    Table,
    encoding_of,
    fitted,
    one_line,
    rich_table,
    table,
    terminal,
)
from cluster.report.numbers import count, counted, duration, percent, rate, si, value_text
from cluster.sampling.tally import Estimate

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Bar", "Observer", "PlainOutput", "QuietOutput", "observer"]

# Failed attempts to show one by one; further ones are only counted.
_MOST_FAILURES = 5
# Lines printed by kernels to show; the log has more of them.
_MOST_PRINTED = 5
# Nodes to show below the bar, one row each.
_MOST_NODES = 16
# Points to show below a line of progress; the bar shows more.
_MOST_POINTS = 4
# Seconds of the run between two frames of the bar, and between two lines of progress.
_FRAME = 0.1
_SHORTEST_PAUSE, _LONGEST_PAUSE = 2.0, 300.0
_WIDTH = 24
_WHY = {
    "failure": "a block is out of attempts",
    "max_time": "max_time is reached",
    "window": "the window is closed",
    "nodes": "no usable node is left",
}


def observer(stream: TextIO, *, quiet: bool = False) -> QuietOutput:
    """The observer that suits a stream: a bar on a capable terminal, else plain lines.

    Args:
        stream: where to write.
        quiet: show problems only.
    """
    if quiet:
        return QuietOutput(stream)
    able = stream.isatty() and not terminal(stream).is_dumb_terminal
    return Bar(stream) if able else PlainOutput(stream)


class QuietOutput:
    """Shows problems only. Use it as a context manager: on exit it counts what it left out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._failures = 0
        self._last_alarm = ""
        # Whether the stream has failed, or the observer is closed.
        self._gone = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self._safely(lambda: self._on(event))

    def close(self) -> None:
        """Report how many failures were not shown, and restore the terminal."""
        self._safely(self._end)
        self._gone = True

    def _safely(self, act: Callable[[], None]) -> None:
        if self._gone:
            return
        try:
            act()
        except (OSError, ValueError):  # ValueError: the stream is closed, or lacks a character
            self._gone = True

    def _on(self, event: Event) -> None:
        match event:
            case Alarm():
                self._on_alarm(event)
            case AttemptFailed():
                self._failures += 1
                if self._failures <= _MOST_FAILURES:
                    self._say(_failure(event), "red")

    def _on_alarm(self, event: Alarm) -> None:
        place = f" (node {event.node})" if event.node else ""
        text = f"ALARM: {one_line(event.message)}{place}"
        # An engine that fails to start raises the same alarm at each attempt.
        if text != self._last_alarm:
            self._last_alarm = text
            self._say(text, "bold red")

    def _end(self) -> None:
        if self._failures > _MOST_FAILURES:
            first = f"the first {_MOST_FAILURES} are shown above"
            self._say(f"{count(self._failures)} attempts failed; {first}")

    def _say(self, text: str, style: str = "") -> None:
        """Write one line; ``style`` is rich's, for terminals."""
        self._stream.write(f"{fitted(text, encoding_of(self._stream))}\n")
        self._stream.flush()


class PlainOutput(QuietOutput):
    """Shows plain lines: the start, each node change, and progress at growing intervals."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        # Seconds of the run at which the next line of progress is due; lines of kernels so far.
        self._next, self._printed = _SHORTEST_PAUSE, 0

    def _on(self, event: Event) -> None:
        match event:
            case Started():
                self._say(_start(event))
            case NodeChanged():
                self._say(f"{event.node}: {counted(event.slots, 'slot')}, {one_line(event.reason)}")
            case HostsChanged():
                self._say(_hosts(event))
            case Draining():
                self._say(_drain(event))
            case Closed():
                self._say(f"the window {event.window} is closed; it opens at {event.opens}")
            case Noted() | Printed():
                self._quote(event)
            case Progress():
                self._progress(event)
            case _:
                super()._on(event)

    def _quote(self, event: Noted | Printed) -> None:
        """Show a note, or what kernels printed: the first lines, then once that there are more."""
        if isinstance(event, Noted):
            place = f"{event.node}: " if event.node else ""
            self._say(f"{place}{one_line(event.text)}")
            return
        lines = event.described()
        shown = lines[: max(0, _MOST_PRINTED - self._printed)]
        for line in shown:
            self._say(one_line(line))
        if self._printed <= _MOST_PRINTED < self._printed + len(lines):
            self._say(f"kernels print more than is shown here; {event.log or 'no log'} has it")
        self._printed += len(lines)

    def _progress(self, event: Progress) -> None:
        if event.elapsed_s >= self._next:
            # Growing with the run: a log of a night must not have thousands of lines.
            pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, event.elapsed_s / 4))
            self._next = event.elapsed_s + pause
            shown = ", ".join([_share(event), *_speed(event), *_left(event)])
            self._say(f"{duration(event.elapsed_s)}: {shown}")
            for point in event.running[:_MOST_POINTS]:
                self._say(f"  {one_line(point.point)}: {_value(point)}, {_part(point)}")


class Bar(PlainOutput):
    """Shows a bar, the running estimate and one row per node; other lines scroll by above it."""

    def __init__(self, stream: TextIO) -> None:
        from rich.live import Live

        super().__init__(stream)
        self._console = terminal(stream)
        # No refresh thread: each frame is drawn on an event. The bar disappears at the end.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=stream is sys.stderr,
            vertical_overflow="crop",
        )
        self._last = -_FRAME

    def _safely(self, act: Callable[[], None]) -> None:
        super()._safely(act)
        if self._gone and self._live.is_started:
            with suppress(OSError, ValueError):
                self._live.stop()

    def _say(self, text: str, style: str = "") -> None:
        from rich.text import Text

        line = Text(fitted(text, self._console.encoding), style=style)
        self._console.print(line, soft_wrap=True)

    def _progress(self, event: Progress) -> None:
        # Whatever the frame rate, the end is shown.
        if event.elapsed_s - self._last < _FRAME and event.blocks_done != event.blocks:
            return
        self._last = event.elapsed_s
        self._live.start()
        frame = _frame(event, self._console.encoding, self._console.width)
        self._live.update(frame, refresh=True)

    def _end(self) -> None:
        self._live.stop()
        super()._end()


def _frame(event: Progress, encoding: str, width: int) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table as Grid
    from rich.text import Text

    head = Grid.grid(padding=(0, 1))
    head.add_column(width=_WIDTH)
    head.add_column()
    # With an unknown end the bar stays empty: rich's pulse would need a clock of its own.
    bar = ProgressBar(total=event.blocks or 1, completed=event.blocks_done if event.blocks else 0)
    times = ", ".join([_share(event), f"{duration(event.elapsed_s)} elapsed", *_left(event)])
    head.add_row(bar, Text(times))
    speed = Text(fitted(", ".join(_speed(event)), encoding), style="bold")
    left = len(event.nodes) - _MOST_NODES
    more = [Text(f"... and {counted(left, 'more node')}")] if left > 0 else []
    tables = [nodes_table(event.nodes[:_MOST_NODES], event.elapsed_s)]
    if event.running:
        tables.insert(0, _running(event))
    shown = [rich_table(each.shown(encoding), width) for each in tables]
    return Group(speed, head, *shown, *more)


def _running(event: Progress) -> Table:
    titles = ("computed now", "estimate", "done")
    rows = ((row.point, _value(row), _part(row)) for row in event.running)
    return table(titles, rows, right=titles[1:])


def _value(point: PointProgress) -> str:
    if isinstance(point.estimate, tuple | list):
        return counted(len(point.estimate), "bin")
    return value_text(point.estimate, point.std_error)


def _part(point: PointProgress) -> str:
    if not point.goal_blocks:
        return counted(point.blocks, "block")
    return percent(point.blocks / point.goal_blocks)


def nodes_table(nodes: Sequence[NodeProgress], elapsed: float) -> Table:
    """The table of nodes, for a start that has lasted ``elapsed`` seconds."""
    titles = ("node", "slots", "tasks", "samples", "samples/s", "utilisation", "failures")
    return table(titles, (_node(node, elapsed) for node in nodes), right=titles[1:])


def _node(node: NodeProgress, elapsed: float) -> tuple[str, ...]:
    speed = node.samples / elapsed if elapsed else None
    room = node.slots * elapsed
    return (
        node.node,
        count(node.slots),
        count(node.tasks),
        count(node.samples),
        si(speed),
        percent(node.busy_s / room if room else None),
        count(node.failures),
    )


def _start(event: Started) -> str:
    if event.points is not None:
        owed = f"{count(event.owed)} of {counted(event.points, 'point')} are to be computed"
        return f"sweep {event.run} on {event.backend}: {owed}"
    goal = "" if event.blocks is None else f" of {count(event.blocks)}"
    blocks = f"{count(event.blocks_done)}{goal} blocks of {counted(event.block, 'sample')}"
    return f"run {event.run} on {event.backend}: {blocks} are counted"


def _hosts(event: HostsChanged) -> str:
    lists = {"added": event.added, "to be drained": event.drained}
    words = (f"{', '.join(names)} {what}" for what, names in lists.items() if names)
    return one_line(f"hosts: {'; '.join(words)} ({event.why})")


def _drain(event: Draining) -> str:
    if event.reason in _WHY:
        return f"{_WHY[event.reason]}: finishing tasks in progress"
    return f"{event.reason}: finishing tasks in progress; repeat to stop at once"


def _failure(event: AttemptFailed) -> str:
    block = "" if event.fault.block is None else f"block {event.fault.block}, "
    what = one_line(f"{event.fault.type}: {event.fault.message}")
    end = "; no attempts are left" if event.final else ""
    return f"failed on {event.node}: {block}attempt {event.attempt}: {what}{end}"


def _speed(event: Progress) -> list[str]:
    """The running estimate, if there is one, and the samples per second."""
    running = [_estimate(event.estimate)] if event.estimate else []
    return [*running, rate(event.samples_per_s)]


def _left(event: Progress) -> list[str]:
    left = _remaining(event)
    return [] if left is None else [f"{duration(left)} left"]


def _share(event: Progress) -> str:
    if event.points is not None:
        points = f"{count(event.points_done)} of {counted(event.points, 'point')}"
        return f"{points}, {_blocks(event)}"
    return _blocks(event)


def _blocks(event: Progress) -> str:
    if not event.blocks:
        return counted(event.blocks_done, "block")
    share = percent(event.blocks_done / event.blocks)
    return f"{share} of {counted(event.blocks, 'block')}"


def _estimate(estimate: Estimate) -> str:
    if isinstance(estimate.value, tuple) or isinstance(estimate.std_error, tuple):
        return f"largest standard error {estimate.worst_std_error:.2g}"
    return value_text(estimate.value, estimate.std_error)


def _remaining(event: Progress) -> float | None:
    """Seconds to the last block of the goal at the speed of this start; None if unknown."""
    if event.blocks is None or not event.blocks_done or event.samples_per_s <= 0:
        return None
    block = event.samples / event.blocks_done
    return (event.blocks - event.blocks_done) * block / event.samples_per_s
