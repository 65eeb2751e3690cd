"""The thread that writes what a dispatcher counts."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from cluster.common.errors import StoreError
from cluster.ledger.database import OWNER_BEAT, Database
from cluster.ledger.faults import BUSY, LOOK, broken, translated
from cluster.ledger.marks import probe_mark
from cluster.ledger.rows import Run
from cluster.ledger.tables import INSERT_OUTCOMES
from cluster.sampling.task import Fault, Outcome, Task

_GROUP = 0.02
_MOST_WAITING = 20_000
# Seconds without a sign of the disk: longer than it may wait for another process that writes.
_HUNG = 2 * BUSY
# The most at a time: a node that is lost has had them all the same.
MOST_SLOTS = "nodes = json_set(nodes, ?, max(?, coalesce(json_extract(nodes, ?), 0)))"
_SLOTS = f"UPDATE session SET {MOST_SLOTS} WHERE key = (SELECT max(key) FROM session WHERE run = ?)"


class GroupCommitter:
    """Commits what a dispatcher hands it, in groups, from a thread of its own.

    A row is durable within 50 ms, or ``flush`` says so earlier. An error of the disk is raised by
    the next call: nothing is ever taken for written that is not.

    Args:
        database: written to.
        busy: seconds that the disk may take for what is under way when this is closed.
        room: rows that may wait for the disk.
    """

    def __init__(
        self, database: Database, *, busy: float = BUSY, room: int = _MOST_WAITING
    ) -> None:
        self._database = database
        self._busy, self._room = busy, room
        self._wake = threading.Condition()
        self._outcomes: list[tuple[object, ...]] = []
        self._others: list[tuple[bool, str, tuple[object, ...]]] = []
        self._progress: dict[int, str] = {}
        self._asked = self._written = 0
        self._closing = self._hurry = False
        self._error: StoreError | None = None
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(self._busy)
        # Where there is an error already, that one is to be told: the thread is left behind.
        if self._thread.is_alive() and exc_info[0] is None:
            raise self._slow(self._busy)

    def count(self, row: tuple[object, ...]) -> None:
        """Write a row of counted blocks.

        Raises:
            StoreError: the disk failed, or has not caught up for a minute.
        """
        with self._wake:
            self._raise()
            # A disk that cannot keep up holds the dispatcher back; memory stays flat.
            if not self._wake.wait_for(self._has_room, 2 * self._busy):
                raise self._slow(2 * self._busy)
            self._raise()
            self._outcomes.append(row)
            self._asked += 1
            if len(self._outcomes) == 1:
                self._wake.notify_all()

    def put(self, sql: str, row: tuple[object, ...], *, late: bool = True) -> None:
        """Have a statement done, in its group after those that are not late.

        Equal ones are done in their order; of others only this is known.
        """
        with self._wake:
            self._raise()
            self._others.append((late, sql, row))
            self._asked += 1
            self._wake.notify_all()

    def progress(self, run: Run, progress: Mapping[str, object]) -> None:
        """Replace what readers see of a run's estimate."""
        with self._wake:
            self._raise()
            self._progress[run.key] = json.dumps(progress)
            self._wake.notify_all()

    @property
    def asked(self) -> int:
        """How many rows were handed over so far."""
        return self._asked

    @property
    def written(self) -> int:
        """How many of them are durable."""
        return self._written

    def flush(self, timeout: float = _HUNG) -> None:
        """Return when all that was handed over is durable.

        Raises:
            StoreError: it could not be written, or not within the timeout.
        """
        deadline = time.monotonic() + timeout
        with self._wake:
            wanted, self._hurry = self._asked, True
            self._wake.notify_all()
            while self._written < wanted and self._error is None:
                if not self._wake.wait(max(0.0, deadline - time.monotonic())):
                    break
            self._raise()
            if self._written < wanted:
                raise self._slow(timeout)

    @property
    def _path(self) -> Path:
        return self._database.path

    def _has_room(self) -> bool:
        return len(self._outcomes) < self._room or self._error is not None

    def _slow(self, seconds: float) -> StoreError:
        text = f"the disk took more than {seconds:g} s"
        return StoreError(text, where=str(self._path), fix=LOOK)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            with translated(self._path):
                db = self._database.connect()
                try:
                    while self._gather():
                        self._commit(db)
                finally:
                    db.close()
        except Exception as error:  # whatever it is, nobody may wait for this thread
            with self._wake:
                self._error = error if isinstance(error, StoreError) else broken(error, self._path)
                self._wake.notify_all()

    def _gather(self) -> bool:
        """Wait for something to write, then a moment longer for company; False at the end."""
        beat = OWNER_BEAT if self._database.network else None
        with self._wake:
            while not (self._outcomes or self._others or self._progress or self._closing):
                if not self._wake.wait(beat):
                    return True
            done = self._closing and not (self._outcomes or self._others or self._progress)
            if not done:
                self._wake.wait_for(lambda: self._hurry or self._closing, _GROUP)
        return not done

    def _commit(self, db: sqlite3.Connection) -> None:
        with self._wake:
            outcomes, self._outcomes = self._outcomes, []
            others, self._others = self._others, []
            progress, self._progress = self._progress, {}
            self._hurry = False
            self._wake.notify_all()
        db.execute("BEGIN IMMEDIATE")
        if outcomes:
            db.execute(INSERT_OUTCOMES, (json.dumps(outcomes),))
        for sql, rows in _grouped(others):
            db.executemany(sql, rows)
        for run, text in progress.items():
            db.execute("UPDATE run SET progress = ? WHERE key = ?", (text, run))
        if self._database.network:
            self._database.beat(db)
        db.execute("COMMIT")
        self._database.check_there()
        with self._wake:
            self._written += len(outcomes) + len(others)
            self._wake.notify_all()


def _grouped(
    statements: Sequence[tuple[bool, str, tuple[object, ...]]],
) -> list[tuple[str, list[tuple[object, ...]]]]:
    """Equal statements together, the early ones first: a call for each costs more than it does."""
    groups: dict[tuple[bool, str], list[tuple[object, ...]]] = {}
    for late, sql, row in statements:
        groups.setdefault((late, sql), []).append(row)
    return [(sql, groups[late, sql]) for late, sql in sorted(groups, key=lambda group: group[0])]


class RunWriter:
    """What a dispatcher hands over of one run.

    Args:
        scribe: writes it.
        run: the run.
        alone: the scribe writes of no other run, and is closed with this.
    """

    def __init__(self, scribe: GroupCommitter, run: Run, *, alone: bool = False) -> None:
        self._scribe, self._run, self._alone = scribe, run, alone

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._alone:
            self._scribe.__exit__(*exc_info)

    def count(self, task: Task, outcome: Outcome, received: float) -> None:
        """Count the blocks of an outcome."""
        self._scribe.count(
            (
                self._run.key,
                outcome.first,
                outcome.stop,
                outcome.tally,
                outcome.node,
                outcome.slot,
                outcome.pid,
                task.attempt,
                task.created,
                outcome.started,
                outcome.ended,
                received,
                outcome.wall,
                outcome.cpu,
                outcome.variant,
                outcome.checksum,
            )
        )

    def fail(self, task: Task, fault: Fault, node: str, blocks: int, at: float) -> None:
        """Record an attempt of which so many blocks were begun, and did not count."""
        row = (
            self._run.key,
            at,
            fault.block,
            blocks,
            node,
            task.attempt,
            fault.kind,
            fault.type,
            fault.message,
            fault.traceback,
        )
        self._scribe.put("INSERT INTO failure VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def spare(self, outcome: Outcome, verdict: str, at: float) -> None:
        """Keep an outcome that is not counted, with the reason."""
        row = (self._run.key, outcome.first, outcome.stop, outcome.node, at, verdict, outcome.tally)
        self._scribe.put("INSERT INTO spare VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def event(self, node: str | None, text: str, at: float) -> None:
        """Record what happened to a node, or to the run."""
        self._scribe.put("INSERT INTO event VALUES (?, ?, ?, ?)", (self._run.key, at, node, text))

    def slots(self, node: str, slots: int) -> None:
        """Record that a node has had so many slots, in this start of the run."""
        self._scribe.put(_SLOTS, (f'$."{node}"', slots, f'$."{node}"', self._run.key))

    def answer(self, wish: int, answer: Mapping[str, object]) -> None:
        """Tell a person what became of a wish."""
        self._scribe.put("UPDATE wish SET answer = ? WHERE key = ?", (json.dumps(answer), wish))

    def probe(self, tally: str) -> None:
        """Record how a probe of the kernel came out where the run was begun, once."""
        # One that cannot be believed is no answer: it is replaced.
        once = "" if any("probe" in fault for fault in self._run.faults) else " AND probe IS NULL"
        sql = f"UPDATE run SET probe = ?, probed = ? WHERE key = ?{once}"
        self._scribe.put(sql, (tally, probe_mark(self._run.id, tally), self._run.key))

    def progress(self, progress: Mapping[str, object]) -> None:
        """Replace what readers see of the running estimate."""
        self._scribe.progress(self._run, progress)

    def flush(self, timeout: float = _HUNG) -> None:
        """Return when all that was handed over is durable; see :meth:`GroupCommitter.flush`."""
        self._scribe.flush(timeout)
