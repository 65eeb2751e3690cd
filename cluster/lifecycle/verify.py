"""Counted blocks, computed again and compared bit for bit."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.backends.base import Backend, NodeEvent, Options, Pause, Source, create
from cluster.common.commands import command
from cluster.common.errors import UsageError
from cluster.dispatch import Stop, added_up
from cluster.ledger import Counted, Ledger, Run, request_of
from cluster.sampling.tally import TallyError
from cluster.sampling.task import Outcome, Task, Work, checked, verified
from cluster.spec.request import elsewhere, placed

# Attempts at a row before it is reported as unchecked.
_TRIES = 3
# Seconds for which a row waits for a node other than the one that computed it.
_ELSEWHERE = 5.0
# Seconds without an answer, beside ten times what the longest row took, after which the rest is
# left unchecked.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Difference:
    """Blocks ``first`` to ``last``, counted on ``node``, that came out differently on ``again``."""

    first: int
    last: int
    node: str
    again: str


@dataclass
class Verified:
    """The outcome of a verification.

    Attributes:
        run: its id.
        of_blocks: number of counted blocks.
        seed: of the random choice; the same seed chooses the same blocks.
        blocks: number of compared blocks.
        elsewhere: number of compared blocks that another node computed this time.
        tasks: number of compared tasks.
        differing: the tasks that came out differently.
        impure: the first block of each differing task that differed again when drawn twice on one
            node.
        unchecked: (first, last, why) of tasks that could not be computed.
        row: what is wrong with the run's own row, in words; None: it is the sum of its rows.
    """

    run: str
    of_blocks: int
    seed: int
    blocks: int = 0
    elsewhere: int = 0
    tasks: int = 0
    differing: list[Difference] = field(default_factory=list)
    impure: list[int] = field(default_factory=list)
    unchecked: list[tuple[int, int, str]] = field(default_factory=list)
    row: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``verify``."""
        return {**vars(self), "differing": [vars(found) for found in self.differing]}


def verify(
    run: str,
    fraction: float,
    store: Path = Path("runs"),
    *,
    seed: int = 0,
    overrides: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _line: None,
    stop: Stop | None = None,
) -> Verified:
    """Compute some of a run's blocks again, if possible on another node, and compare.

    Blocks are compared as they were counted, in whole tasks; tasks are chosen at random until
    they hold the fraction. Nothing is written.

    Args:
        run: its id, or a unique prefix of it.
        fraction: of the counted blocks, above 0 and at most 1; at least one task is chosen.
        store: the run's.
        seed: of the choice.
        overrides: where to compute: backend, nodes, retry.
        tell: called with lines of progress for people.
        stop: ends it early when its reason is set; the rest is left unchecked.

    Raises:
        UsageError: no such run, or nothing is counted.
        EngineError: no node can compute.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"--fraction must be above 0 and at most 1, got {fraction:g}")
    with Ledger(store) as ledger:
        row = ledger.run(run)
        block = row.definition["block"]
        found = list(ledger.counted(row))
        counted = [each for each in found if each.read(block) is not None]
        damaged = [each for each in found if each.read(block) is None]
        recorded = None if ledger.holder(row) else _judged(ledger, row, damaged)
        request = elsewhere(request_of(ledger, row), overrides)
        longest = _longest(ledger, row, counted)
    if not counted:
        raise UsageError(
            f"nothing is counted of the run {row.id}", fix=command("resume", row.id, store=store)
        )
    of_blocks = sum(found.stop - found.first for found in counted)
    chosen = _chosen(counted, fraction * of_blocks, random.Random(seed))
    unread = [(each.first, each.stop - 1, "its row is damaged") for each in damaged]
    report = Verified(row.id, of_blocks, seed, unchecked=unread, row=recorded)
    nodes = placed(request.spec.nodes.hosts)
    many = "s" * (len(chosen) > 1)
    tell(f"computing {len(chosen)} task{many} of {row.id} again on {request.spec.backend}")
    source = _Again(chosen, len(nodes) > 1)
    options = replace(Options.of(request.spec), required=1, probes=(request.probe,))
    with create(request.spec.backend, nodes, options) as engine:
        why = _compare_all(
            engine,
            request.work(row.id),
            source,
            report,
            stop or Stop(),
            _PATIENCE + 10 * longest,
            tell,
        )
    report.unchecked += [(left.first, left.stop - 1, why) for left in source.left()]
    return report


def _judged(ledger: Ledger, run: Run, damaged: Sequence[Counted]) -> str | None:
    """What is wrong with a run's own row; its tally must be the sum of its counted rows."""
    if run.faults:
        return "; ".join(run.faults)
    end = math.inf if run.counted is None else run.counted
    if run.ranges is None or any(row.first < end for row in damaged):
        return None
    count = added_up(ledger, run)
    if [list(span) for span in count.ranges] != run.ranges:
        return f"its ranges are {run.ranges}, those of its counted rows {count.ranges}"[:500]
    if count.tally() != run.total:
        return "its tally is not the sum of its counted rows"
    return None


class _Again(Source):
    """Gives out each chosen row as a task, to a node other than the one that computed it.

    Attributes:
        flying: the rows that are out, by the numbers of their tasks.
        differing: outcomes that differ, by first block; these rows are drawn a second time.
        over: no more tasks are given out.

    Args:
        rows: the rows to draw again.
        several: whether there is more than one node.
        elsewhere: seconds for which a row waits for another node than the one that computed it.
    """

    def __init__(
        self, rows: Sequence[Counted], several: bool, elsewhere: float = _ELSEWHERE
    ) -> None:
        self._waiting = deque(rows)
        self._several, self._elsewhere = several, elsewhere
        self._last = 0
        self._tries: dict[int, int] = {}
        self.differing: dict[int, Outcome] = {}
        self._begun: float | None = None  # when the first slot could take a row
        self.flying: dict[int, Counted] = {}
        self.over = False

    def take(self, node: str | None = None) -> Task | Pause:
        """The next row for a node; any row, once all have waited long enough for another node."""
        if self.over or not (self._waiting or self.flying):
            return Pause.END
        now = time.monotonic()
        self._begun = self._begun or now
        late = now > self._begun + self._elsewhere
        for place, row in enumerate(self._waiting):
            if late or not self._several or node is None or self._suits(row, node):
                del self._waiting[place]
                return self._task(row)
        return Pause.NOW

    def _suits(self, row: Counted, node: str) -> bool:
        """A row goes to a node other than its own; if it differs, to that same node once more."""
        first = self.differing.get(row.first)
        return node == first.node if first else node != row.node

    def _task(self, row: Counted) -> Task:
        self._last += 1
        tries = self._tries[row.first] = self._tries.get(row.first, 0) + 1
        self.flying[self._last] = row
        return Task(self._last, row.first, row.stop, tries, time.time())

    def revoked(self) -> Collection[int]:
        """Nothing is revoked."""
        return ()

    def again(self, row: Counted) -> bool:
        """Give out a row once more; False if it has no attempts left."""
        if self._tries[row.first] >= _TRIES:
            return False
        self._waiting.append(row)
        return True

    def twice(self, row: Counted, outcome: Outcome) -> None:
        """Give out a row that came out differently a second time, to the same node."""
        self.differing[row.first] = outcome
        self._waiting.append(row)

    def left(self) -> list[Counted]:
        """What was not answered."""
        rows = (*self._waiting, *self.flying.values())
        return [row for row in rows if row.first not in self.differing]


def _compare_all(
    engine: Backend,
    work: Work,
    source: _Again,
    report: Verified,
    stop: Stop,
    patience: float,
    tell: Callable[[str], None],
) -> str:
    """Compare what comes back; returns why the rest, if there is any, was not computed."""
    last_answer = time.monotonic()
    with closing(engine.run(work, source)) as items:
        for item in items:
            if stop.reason:
                source.over = True
            if isinstance(item, Outcome):
                _compare(work, source, report, item)
            if isinstance(item, NodeEvent) and not item.slots:
                tell(f"{item.node}: {item.reason}")
            if isinstance(item, Outcome | NodeEvent):
                last_answer = time.monotonic()
            elif time.monotonic() > last_answer + patience:
                quiet = f"no answer for {patience:.0f} s"
                tell(f"{quiet}, the rest is left unchecked; 'cluster doctor' checks the nodes")
                return quiet
    return "not computed"


def _compare(work: Work, source: _Again, report: Verified, outcome: Outcome) -> None:
    row = source.flying.pop(outcome.task, None)
    if row is None:
        return
    place = (row.first, row.stop - 1)
    if row.first in source.differing:
        _compare_again(source, report, row, outcome)
        return
    if outcome.fault is not None:
        if not source.again(row):
            report.unchecked.append((*place, f"{outcome.fault.type}: {outcome.fault.message}"))
        return
    blocks = row.stop - row.first
    counted = checked(row.tally, blocks * work.block)
    try:
        same = verified(work, outcome) == counted
    except TallyError:
        same = False
    report.tasks += 1
    report.blocks += blocks
    report.elsewhere += blocks * (outcome.node != row.node)
    if not same:
        report.differing.append(Difference(*place, row.node, outcome.node))
        source.twice(row, outcome)


def _compare_again(source: _Again, report: Verified, row: Counted, second: Outcome) -> None:
    """Record a row that differs each time it is drawn: its kernel is impure."""
    first = source.differing[row.first]
    if second.fault is None and second.node == first.node and second.tally != first.tally:
        report.impure.append(row.first)


def _chosen(rows: Sequence[Counted], blocks: float, rng: random.Random) -> list[Counted]:
    """Rows in random order, until they hold that many blocks."""
    chosen: list[Counted] = []
    for row in rng.sample(rows, len(rows)):
        if chosen and blocks <= 0:
            break
        chosen.append(row)
        blocks -= row.stop - row.first
    return chosen


def _longest(ledger: Ledger, run: Run, rows: Sequence[Counted]) -> float:
    """Seconds that the longest row takes at the speed of the slowest node."""
    paces = [total.wall / total.blocks for total in ledger.node_totals(run) if total.blocks]
    return max(paces, default=0.0) * max((row.stop - row.first for row in rows), default=0)
