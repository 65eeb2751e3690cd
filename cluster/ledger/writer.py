"""The thread that writes what a dispatcher hands over, in groups."""

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

# Seconds for which a group is gathered before it is committed.
_GROUP = 0.02
# Rows that may wait for the disk before the dispatcher is held back.
_MOST_WAITING = 20_000
# Seconds without progress of the disk: more than SQLite waits for another process that writes.
_HUNG = 2 * BUSY
_NOTE = "INSERT INTO event (run, at, node, text) VALUES (?, ?, ?, ?)"


class GroupCommitter:
    """Commits rows in groups, from a thread of its own.

    A row is durable within 50 ms, or as soon as ``flush`` returns. An error of the disk is raised
    by the next call, so that nothing is taken to be written that is not.

    Args:
        database: written to.
        busy: seconds that the disk may take for pending rows when this is closed.
        room: limit of the rows that wait for the disk.
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
        # An error that is already on its way is the one to report: the thread is abandoned.
        if self._thread.is_alive() and exc_info[0] is None:
            raise self._slow(self._busy)

    def count(self, row: tuple[object, ...]) -> None:
        """Write a row of counted blocks.

        Raises:
            StoreError: the disk failed, or has not caught up for a minute.
        """
        with self._wake:
            self._raise()
            # A disk that cannot keep up holds the dispatcher back, so that memory stays flat.
            if not self._wake.wait_for(self._has_room, 2 * self._busy):
                raise self._slow(2 * self._busy)
            self._raise()
            self._outcomes.append(row)
            self._asked += 1
            if len(self._outcomes) == 1:
                self._wake.notify_all()

    def put(self, sql: str, row: tuple[object, ...], *, late: bool = True) -> None:
        """Execute a statement with the next group.

        Within a group, early statements precede late ones, and equal statements keep their order;
        any other order is undefined.

        Args:
            sql: the statement.
            row: its values.
            late: False for a statement that others of its group may depend on.
        """
        with self._wake:
            self._raise()
            self._others.append((late, sql, row))
            self._asked += 1
            self._wake.notify_all()

    def progress(self, run: Run, progress: Mapping[str, object]) -> None:
        """Replace the progress of a run, which readers see."""
        with self._wake:
            self._raise()
            self._progress[run.key] = json.dumps(progress)
            self._wake.notify_all()

    @property
    def asked(self) -> int:
        """The number of rows handed over so far."""
        return self._asked

    @property
    def written(self) -> int:
        """The number of them that are durable."""
        return self._written

    def flush(self, timeout: float = _HUNG) -> None:
        """Return once everything that was handed over is durable.

        Args:
            timeout: in seconds.

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
        except Exception as error:  # whatever it is, nobody must wait for this thread forever
            with self._wake:
                self._error = error if isinstance(error, StoreError) else broken(error, self._path)
                self._wake.notify_all()

    def _gather(self) -> bool:
        """Wait for something to write, then a moment for more to join it; False at the end."""
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
    """Equal statements together, early ones first: one call a row would cost more than its work."""
    groups: dict[tuple[bool, str], list[tuple[object, ...]]] = {}
    for late, sql, row in statements:
        groups.setdefault((late, sql), []).append(row)
    return [(sql, groups[late, sql]) for late, sql in sorted(groups, key=lambda group: group[0])]


class RunWriter:
    """Writes what a dispatcher decides about one run.

    Args:
        committer: writes it, in groups.
        run: the run.
        alone: the committer serves no other run, and is closed with this writer.
    """

    def __init__(self, committer: GroupCommitter, run: Run, *, alone: bool = False) -> None:
        self._committer, self._run, self._alone = committer, run, alone

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._alone:
            self._committer.__exit__(*exc_info)

    def count(self, task: Task, outcome: Outcome, received: float) -> None:
        """Count the blocks of an outcome.

        Args:
            task: the task that it answers.
            outcome: the counted blocks, checked.
            received: when it arrived, by the dispatcher's clock, in seconds since the epoch.

        Raises:
            StoreError: the disk failed, or does not catch up.
        """
        self._committer.count(
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
        """Record a failed attempt.

        Args:
            task: the task that failed.
            fault: how.
            node: where.
            blocks: number of blocks that were begun and not counted.
            at: when, in seconds since the epoch.
        """
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
        self._committer.put("INSERT INTO failure VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def spare(self, outcome: Outcome, verdict: str, at: float) -> None:
        """Record an outcome that is not counted.

        Args:
            outcome: what was computed.
            verdict: why it is not counted: equal, differs, unchecked, corrupt or beyond.
            at: when, in seconds since the epoch.
        """
        row = (self._run.key, outcome.first, outcome.stop, outcome.node, at, verdict, outcome.tally)
        self._committer.put("INSERT INTO spare VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def event(self, node: str | None, text: str, at: float) -> None:
        """Record what happened to a node, or to the run.

        Args:
            node: None: it is of no node.
            text: what happened.
            at: when, in seconds since the epoch.
        """
        self._committer.put(_NOTE, (self._run.key, at, node, text))

    def answer(self, wish: int, answer: Mapping[str, object]) -> None:
        """Answer a request for other hosts."""
        self._committer.put("UPDATE wish SET answer = ? WHERE key = ?", (json.dumps(answer), wish))

    def probe(self, tally: str) -> None:
        """Record the result of the first probe of the kernel; later ones are compared with it."""
        # A damaged one is replaced.
        once = "" if any("probe" in fault for fault in self._run.faults) else " AND probe IS NULL"
        sql = f"UPDATE run SET probe = ?, probed = ? WHERE key = ?{once}"
        self._committer.put(sql, (tally, probe_mark(self._run.id, tally), self._run.key))

    def progress(self, progress: Mapping[str, object]) -> None:
        """Replace the progress, which readers see."""
        self._committer.progress(self._run, progress)

    def flush(self, timeout: float = _HUNG) -> None:
        """Return once everything that was handed over is durable: :meth:`GroupCommitter.flush`."""
        self._committer.flush(timeout)
