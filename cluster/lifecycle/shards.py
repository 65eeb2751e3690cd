"""Runs in several stores: parts exported to be computed elsewhere, and merged again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.common.errors import StoreError, UsageError
from cluster.ledger import FILE, Counted, Damaged, Ledger, Run, judged, request_of, take_over
from cluster.lifecycle.entering import new_id
from cluster.lifecycle.job import Caller
from cluster.lifecycle.life import settle
from cluster.report.result import Result
from cluster.sampling.plan import Ranges
from cluster.sampling.tally import Tally, TallyError, merged
from cluster.spec.request import Request

_MOST_NAMED = 5
_ELSE = "have that part computed again where it comes from, or leave this store out"


@dataclass(frozen=True)
class Shard:
    """A part of a run, the blocks [first, stop), in a store of its own."""

    run: str
    store: Path
    first: int
    stop: int

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``export``; ``last`` is the shard's last block."""
        return {
            "run": self.run,
            "store": str(self.store),
            "first": self.first,
            "last": self.stop - 1,
            "blocks": self.stop - self.first,
        }


@dataclass(frozen=True)
class Given:
    """What one source contributed to a merge, in blocks.

    Attributes:
        taken: counted now.
        equal: counted before, with the same tally.
        unchecked: counted before in tasks of other lengths, so they cannot be compared.
        damaged: left out; they have to be computed again.
        differing: (first, last, this source's node, the nodes that counted them before).
    """

    run: str
    store: Path
    taken: int
    equal: int
    unchecked: int
    damaged: int
    differing: list[tuple[int, int, str, str]]

    def to_json(self) -> dict[str, Any]:
        """The JSON object of one source of ``merge``."""
        return {**vars(self), "store": str(self.store)}


@dataclass(frozen=True)
class Merged:
    """A merge: what each source contributed (nothing, if it differs), and the run as it is now."""

    sources: list[Given]
    result: Result

    @property
    def differs(self) -> bool:
        """Whether blocks differ between sources: then one of the nodes computes wrongly."""
        return any(given.differing for given in self.sources)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``merge``."""
        sources = [given.to_json() for given in self.sources]
        return {"sources": sources, "result": self.result.to_json()}


def export(run: str, blocks: str, to: Path, store: Path = Path("runs")) -> Shard:
    """Export a shard of a run: a store with a run of some of its blocks.

    ``cluster resume`` computes it, on any machine, and ``cluster merge`` takes it back.

    Args:
        run: its id, or a unique prefix of it.
        blocks: ``a-b``, both included.
        to: the folder of the shard's store, which must not hold the run yet.
        store: of the run.

    Raises:
        UsageError: no such run or blocks, or the run is there already.
    """
    first, stop = _span(blocks)
    with Ledger(store) as ledger:
        row = ledger.run(run)
        request = request_of(ledger, row)
    goal = request.goal
    if first < goal.first or (goal.blocks is not None and stop > goal.blocks):
        has = f"{goal.first} to {(goal.blocks or 0) - 1}" if goal.blocks else f"{goal.first} and on"
        raise UsageError(f"the run {row.id} has the blocks {has}, got {blocks}")
    shard = replace(request, shard=(first, stop))
    with Ledger(to, create=True) as ledger:
        if row.id in _taken(ledger):
            raise UsageError(f"{to} holds the run {row.id} already", fix="name a fresh folder")
        ledger.create(
            row.id, row.name, row.request, row.identity, shard.to_json(), shard.goal.to_json()
        )
    return Shard(row.id, to, first, stop)


def merge(out: Path, sources: Sequence[Path], *, verify: bool = False) -> Merged:
    """Merge runs of one identity from several stores into one run.

    Args:
        out: the store of the merged run, which is entered if no run there has that identity; or
            ``STORE/RUN``.
        sources: stores that hold one run, or ``STORE/RUN``.
        verify: compare blocks that are counted twice, bit for bit, instead of refusing them.

    Raises:
        UsageError: the runs are not of one identity, or overlap; nothing was written.
        Locked: the run of ``out`` is being computed.
        StoreError: a store cannot be read or written, or has an impossible row; likewise.
    """
    with ExitStack() as stack:
        given = [_found(stack, source) for source in sources]
        requests = [request_of(*source) for source in given]
        _check_identities(given, requests)
        # Everything is validated before anything is written: a refusal leaves no empty store.
        for source, request in zip(given, requests, strict=True):
            _judge(*source, request)
        if not verify:
            _refuse_overlaps(given)
        folder, named = _place(out)
        ledger = stack.enter_context(Ledger(folder, create=True))
        here = _here(ledger, named, requests[0].identity)
        _check_kinds([*([(ledger, here)] if here else []), *given])
        if not verify and here:
            _refuse_overlaps([(ledger, here), *given])
        most = _most(requests)
        name = here.id if here else _fresh_id(ledger, given[most][1])
        with ledger.lock(name), ledger.transaction():
            run = here or _new(ledger, name, requests[most])
            # A damaged row must not keep an intact one out.
            for row in [row for row in ledger.counted(run) if row.read(requests[0].block) is None]:
                ledger.set_aside(run, row, "corrupt")
            taken = [_take(ledger, run, requests[0].block, *source) for source in given]
        return Merged(taken, settle(run.id, ledger, Caller()))


def _judge(ledger: Ledger, run: Run, request: Request) -> None:
    """Refuse a source with an impossible row, before any of it counts."""
    goal, at = request.goal, 0
    for row, _, _ in judged(ledger, run):
        place = f"blocks {row.first} to {row.stop - 1} of {ledger.store / run.id}"
        if row.first < at:
            raise StoreError(
                f"{place} overlap other rows of the same run; nothing was merged",
                where=str(ledger.path),
                fix=_ELSE,
            )
        if row.first < goal.first or (goal.blocks is not None and row.stop > goal.blocks):
            has = f"{goal.first} to {goal.blocks - 1}" if goal.blocks else f"{goal.first} and on"
            raise StoreError(
                f"{place} lie outside the blocks that the run has, {has}; nothing was merged",
                where=str(ledger.path),
                fix=_ELSE,
            )
        at = row.stop


def _check_kinds(parts: Sequence[tuple[Ledger, Run]]) -> None:
    """Refuse tallies that cannot be added: of other kinds, or histograms with other edges."""
    first: Tally | None = None
    for ledger, run in parts:
        for row in ledger.counted(run):
            tally = row.read(run.definition["block"])
            if tally is None:
                continue
            try:
                (first or tally).check_like(tally)
            except TallyError as error:
                raise StoreError(
                    f"{ledger.store / run.id} does not add up with the others: {error}; nothing"
                    " was merged",
                    where=str(ledger.path),
                    fix=_ELSE,
                ) from None
            first = first or tally
            break  # each part is known to be of one kind


def _take(ledger: Ledger, run: Run, block: int, giver: Ledger, given: Run) -> Given:
    """Take over the blocks of a source that the run lacks; nothing of a source that differs."""
    counted = _spans(ledger, run)
    twice: set[int] = set()
    equal = unchecked = damaged = 0
    differing = []
    for row in giver.counted(given):
        blocks = row.stop - row.first
        if row.read(block) is None:
            damaged += blocks
        elif counted.overlaps(row.first, row.stop):
            twice.add(row.first)
            rows = list(ledger.counted(run, row.first, row.stop))
            same = _same(rows, row, block)
            equal += blocks * (same is True)
            unchecked += blocks * (same is None)
            if same is False:
                nodes = ", ".join(sorted({other.node for other in rows}))
                differing.append((row.first, row.stop - 1, row.node, nodes))
    before = counted.count
    if not differing:
        take_over(ledger, run, giver, given, twice)
    taken = _spans(ledger, run).count - before
    return Given(given.id, giver.store, taken, equal, unchecked, damaged, differing)


def _same(rows: Sequence[Counted], row: Counted, block: int) -> bool | None:
    """Whether counted rows add up to the tally of one row; None if they do not tile its blocks."""
    ends = [row.first, *(other.stop for other in rows)]
    if [other.first for other in rows] != ends[:-1] or ends[-1] != row.stop:
        return None
    parts = [other.read(block) for other in rows]
    if None in parts:
        return None
    return merged(filter(None, parts)) == row.read(block)


def _refuse_overlaps(parts: Sequence[tuple[Ledger, Run]]) -> None:
    """Refuse blocks that are counted in two of them."""
    taken = Ranges()
    for ledger, run in parts:
        for row in ledger.counted(run):
            if row.intact and taken.overlaps(row.first, row.stop):
                raise UsageError(
                    f"blocks {row.first} to {row.stop - 1} of {ledger.store / run.id} are counted"
                    " in another of these, too; nothing was merged",
                    fix="--verify compares what is counted twice, bit for bit, and counts it once",
                )
        for span in _spans(ledger, run):
            taken.add(*span)


def _check_identities(given: Sequence[tuple[Ledger, Run]], requests: Sequence[Request]) -> None:
    """Refuse runs of different identities."""
    first = requests[0]
    for (ledger, run), request in zip(given, requests, strict=True):
        if request.identity == first.identity:
            continue
        parts = {
            "kernel": (first.source.sha[:12], request.source.sha[:12]),
            "params": (dict(first.params), dict(request.params)),
            "seed": (first.seed, request.seed),
            "block": (first.block, request.block),
            "streams": tuple("common" if each.common else "own" for each in (first, request)),
        }
        apart = "; ".join(f"{name} {a} and {b}" for name, (a, b) in parts.items() if a != b)
        here = given[0][0].store / given[0][1].id
        raise UsageError(
            f"{here} and {ledger.store / run.id} do not compute the same: "
            f"{apart or 'they are of two versions'}",
            fix="merge runs of one identity ('cluster show --json' prints it)",
        )


def _most(requests: Sequence[Request]) -> int:
    """The source with the highest goal: its definition becomes that of the merged run."""
    asked = [request.goal.blocks or float("inf") for request in requests]
    return asked.index(max(asked))


def _fresh_id(ledger: Ledger, row: Run) -> str:
    """The id of the merged run: that of a source, if it is free."""
    return row.id if row.id not in _taken(ledger) else new_id(row.name)


def _taken(ledger: Ledger) -> set[object]:
    return {row[0] for row in ledger.all("SELECT id FROM run UNION SELECT id FROM sweep", ())}


def _new(ledger: Ledger, name: str, request: Request) -> Run:
    """Enter the merged run; only its request is taken from a source."""
    whole = replace(request, shard=None)
    return ledger.create(
        name, whole.spec.name, whole.key, whole.identity, whole.to_json(), whole.goal.to_json()
    )


def _here(ledger: Ledger, name: str | None, identity: str) -> Run | None:
    """The run that a merge goes into; None: the store has none of that identity."""
    if name is not None:
        run = ledger.run(name)
        if run.identity != identity:
            raise UsageError(f"the run {run.id} is not of the identity of what is to be merged")
        return run
    found = list(ledger.selected("WHERE identity = ?", (identity,)))
    if len(found) > 1:
        names = ", ".join(str(ledger.store / run.id) for run in found[:_MOST_NAMED])
        raise UsageError(f"{ledger.store} has several runs of that identity", fix=f"name {names}")
    return found[0] if found else None


def _found(stack: ExitStack, source: Path) -> tuple[Ledger, Run]:
    """A source's store, opened, and its run."""
    folder, name = _place(source)
    ledger = stack.enter_context(Ledger(folder))
    if name is not None:
        return ledger, ledger.run(name)
    runs = ledger.everything()
    if len(runs) != 1:
        names = ", ".join(str(folder / run.id) for run in runs[:_MOST_NAMED])
        fix = f"name one: {names}" if runs else None
        raise UsageError(f"{folder} holds {len(runs)} runs", fix=fix)
    if isinstance(runs[0], Damaged):
        raise runs[0].error
    return ledger, runs[0]


def _place(path: Path) -> tuple[Path, str | None]:
    """A store; or a store and a run (or SWEEP/PLACE), if the path continues below a store."""
    if (path / FILE).is_file():
        return path, None
    for folder in (path.parent, path.parent.parent):
        if (folder / FILE).is_file():
            return folder, str(path.relative_to(folder))
    return path, None


def _spans(ledger: Ledger, run: Run) -> Ranges:
    found = Ranges()
    for row in ledger.counted(run):
        if row.intact:
            found.add(row.first, row.stop)
    return found


def _span(blocks: str) -> tuple[int, int]:
    """``a-b``, both included, as first and stop."""
    found = re.fullmatch(r"(\d+)-(\d+)", blocks.strip())
    if found is None or int(found[1]) > int(found[2]):
        raise UsageError(f"--blocks must be a-b, both included, such as 0-99; got {blocks!r}")
    return int(found[1]), int(found[2]) + 1
