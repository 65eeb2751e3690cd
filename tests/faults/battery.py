"""The battery of kill schedules: runs that are killed at random moments, and resumed to their end.

A schedule is a function of its seed. Each kills the dispatcher or a worker once or more, at a
moment when a block is being drawn (four in five) or at any moment at all, and checks after every
kill, and at the end, that nothing that was counted is lost and that nothing is counted twice.

And of bits that are flipped in a store: in ids, kernel texts, goals, tallies, marks and counted
rows. What comes of them is the result of the unbroken run, or a refusal.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import api
from cluster.common.errors import ClusterError, StoreError, UsageError
from cluster.hosts.process_tree import is_alive
from cluster.ledger import FILE, Ledger
from cluster.lifecycle.shards import merge
from cluster.sampling.task import checksum

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "cluster")
PATIENCE = 60.0
BLOCKS, BLOCK = 24, 64
SAMPLES = BLOCKS * BLOCK
LOG = "CLUSTER_TEST_LOG"

# It tells in a file when it begins and ends a block, so that a kill can be timed, and judged; and
# it waits at a block that is named in another, so that no run ends before it was killed. Its hits
# are a function of the block alone, and cost no time.
KERNEL = f"""
import os, time
from cluster import Hits

def told(word):
    log = os.open(os.environ["{LOG}"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log, f"{{os.getpid()}} {{word}}\\n".encode())
    os.close(log)

def held(block):
    try:
        return block >= int(open(os.environ["{LOG}"] + ".hold").read())
    except (OSError, ValueError):
        return False

def f(stream, samples):
    told("begins")
    time.sleep(0.02)
    if held(stream.block):
        told("waits")
    while held(stream.block):
        time.sleep(0.005)
    told("ends")
    return Hits(stream.block * 7919 % samples, samples)
"""


class Broken(AssertionError):
    """What must not happen: something counted was lost, or counted twice."""


@dataclass(frozen=True)
class Kill:
    """One kill: whom it hit, and whether a block was being drawn there at that moment."""

    victim: str
    in_a_block: bool


class Site:
    """A folder with a spec, its store, and the processes that work on it.

    Args:
        folder: an empty one.
        command: runs the command line.
    """

    def __init__(self, folder: Path, command: Sequence[str] = COMMAND) -> None:
        self.folder, self.store, self.log = folder, folder / "runs", folder / "log"
        self._command, self._hold = command, folder / "log.hold"
        self.environment = {**os.environ, LOG: str(self.log), "PYTHONPATH": str(ROOT)}
        (folder / "kernel.py").write_text(KERNEL)
        (folder / "spec.yaml").write_text(
            f"name: killed\nkernel: kernel.py:f\nsamples: {SAMPLES}\nblock: {BLOCK}\nseed: 1\n"
            "nodes: ['localhost:2']\n"
        )

    def start(self, *arguments: str, command: Sequence[str] | None = None) -> Dispatcher:
        """A dispatcher: ``submit`` or ``resume``, as JSON, in a session of its own."""
        self.log.unlink(missing_ok=True)
        self._hold.unlink(missing_ok=True)
        return Dispatcher(
            subprocess.Popen(
                [*(command or self._command), *arguments, "--store", "runs", "--json", "--quiet"],
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ),
            self,
        )

    def submit(self, *, command: Sequence[str] | None = None) -> Dispatcher:
        """A new run."""
        return self.start("submit", "spec.yaml", command=command)

    def go_on(self, *, command: Sequence[str] | None = None) -> Dispatcher:
        """The run resumed; submitted where it was killed before it was entered."""
        run = self.run()
        return self.start("resume", run, command=command) if run else self.submit(command=command)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the store, as any other program could; nothing where there is none yet."""
        if not (self.store / FILE).exists():
            return []
        db = sqlite3.connect(f"file:{self.store / FILE}?mode=rw", uri=True, timeout=30)
        try:
            return db.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return []  # killed before its tables were made
        finally:
            db.close()

    def run(self) -> str | None:
        """The id of the only run."""
        ids = self.sql("SELECT id FROM run")
        if len(ids) > 1:
            raise Broken(f"{len(ids)} runs where one was begun")
        return str(ids[0][0]) if ids else None

    def rows(self) -> dict[tuple[int, int], str]:
        """The counted ranges, whole and disjoint; each with its tally.

        Raises:
            Broken: a block is counted twice, or a row's checksum does not hold.
        """
        rows = self.sql(
            "SELECT id, first, stop, outcome.tally, checksum FROM outcome JOIN run ON run = key"
            " ORDER BY first, stop"
        )
        at = 0
        for run, first, stop, tally, mark in rows:
            if first < at:
                raise Broken(f"blocks {first} to {min(at, stop) - 1} are counted twice")
            if checksum(run, first, stop, tally) != mark:
                raise Broken(f"the row of blocks {first} to {stop - 1} is damaged")
            at = stop
        return {(first, stop): tally for _, first, stop, tally, _ in rows}

    def hold(self, block: int) -> None:
        """Have every worker wait at this block, and at those after it, until the next start."""
        self._hold.write_text(str(block))

    def release(self) -> None:
        """Let go on who waits, and hold nobody any more."""
        self._hold.unlink()

    def drawing(self) -> set[int]:
        """The workers that are in the middle of a block."""
        return {pid for pid, word in self._words().items() if word != "ends"}

    def waiting(self) -> set[int]:
        """The workers that wait at the block where they were to be held."""
        return {pid for pid, word in self._words().items() if word == "waits"}

    def _words(self) -> dict[int, str]:
        if not self.log.exists():
            return {}
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return {int(pid): word for pid, word in (line for line in lines if len(line) == 2)}


class Dispatcher:
    """A running ``submit`` or ``resume``."""

    def __init__(self, process: subprocess.Popen[str], site: Site) -> None:
        self.process, self._site = process, site

    def wait_for(self, condition: Callable[[], object]) -> bool:
        """Until a condition holds; False where it ended before."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise Broken(f"nothing came of it in {PATIENCE:g} s")
            time.sleep(0.001)
        return True

    def workers(self) -> set[int]:
        """Its worker processes."""
        with suppress(OSError):
            own = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
            return set(map(int, Path(own).read_text().split()))
        return set()

    def kill(self) -> Kill:
        """Kill it with -9; its workers go with it, and then it is judged what was being drawn."""
        workers = self.workers()
        self.process.kill()
        self.process.communicate()
        wait_until_gone(workers)
        return Kill("dispatcher", bool(self._site.drawing()))

    def kill_worker(self, rng: random.Random) -> Kill | None:
        """Kill a worker with -9, one that draws if any does."""
        drawing = self._site.drawing() & self.workers()
        victims = sorted(drawing or self.workers())
        if not victims:
            return None
        victim = rng.choice(victims)
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        wait_until_gone({victim})
        return Kill("worker", victim in self._site.drawing())

    def result(self) -> dict[str, Any]:
        """Its document, where it ends well.

        Raises:
            Broken: it does not.
        """
        out, err = self.process.communicate(timeout=PATIENCE)
        if self.process.returncode:
            raise Broken(f"exit {self.process.returncode}: {out} {err}")
        document: dict[str, Any] = json.loads(out)
        return document


def wait_until_gone(pids: set[int], patience: float = 5.0) -> None:
    """Until processes are dead; a zombie is.

    Raises:
        Broken: some are alive after so many seconds.
    """
    deadline = time.monotonic() + patience
    while left := {pid for pid in pids if is_alive(pid)}:
        if time.monotonic() > deadline:
            raise Broken(f"processes {sorted(left)} live on")
        time.sleep(0.002)


def schedule(
    seed: int,
    folder: Path,
    digest: str,
    *,
    command: Sequence[str] = COMMAND,
    blind: Sequence[str] | None = None,
) -> list[Kill]:
    """Kill a run as its seed says, and resume it to its end.

    Args:
        seed: of every choice; four seeds in five kill while a block is being drawn.
        folder: an empty one.
        digest: of the unbroken run.
        command: runs the command line.
        blind: runs it for the start that follows the first kill, instead.

    Returns:
        The kills that hit.

    Raises:
        Broken: something counted was lost or counted twice, or the result is another.
    """
    rng, site = random.Random(seed), Site(folder, command)
    in_a_block = seed % 5 != 4
    kills: list[Kill] = []
    kept: dict[tuple[int, int], str] = {}
    dispatcher = site.submit()
    for turn in range(rng.choice((1, 1, 2))):
        hit = _strike(rng, site, dispatcher, in_a_block)
        kills += hit
        kept = _still_there(kept, site.rows())
        dispatcher.process.communicate(timeout=PATIENCE)
        dispatcher = site.go_on(command=blind if turn == 0 else None)
    result = dispatcher.result()
    rows = _still_there(kept, site.rows())
    _check_end(result, rows, digest)
    return kills


def _strike(rng: random.Random, site: Site, dispatcher: Dispatcher, in_a_block: bool) -> list[Kill]:
    """Wait for the moment, and kill: sometimes a worker first, and always the dispatcher."""
    kills = []
    if rng.random() < 0.4:
        _await_moment(rng, site, dispatcher, in_a_block)
        worker = dispatcher.kill_worker(rng)
        kills += [worker] if worker else []
    _await_moment(rng, site, dispatcher, in_a_block)
    if dispatcher.process.poll() is None:
        kills.append(dispatcher.kill())
    return kills


def _await_moment(rng: random.Random, site: Site, dispatcher: Dispatcher, in_a_block: bool) -> None:
    if not in_a_block:
        time.sleep(rng.uniform(0, 1.0))
        return
    counted = rng.randrange(BLOCKS - 6)
    site.hold(counted + 5)
    dispatcher.wait_for(
        lambda: site.waiting() or sum(stop - first for first, stop in site.rows()) >= counted
    )
    time.sleep(rng.uniform(0, 0.02))
    dispatcher.wait_for(site.drawing)


def _still_there(
    kept: dict[tuple[int, int], str], rows: dict[tuple[int, int], str]
) -> dict[tuple[int, int], str]:
    lost = {span for span, tally in kept.items() if rows.get(span) != tally}
    if lost:
        raise Broken(f"what was counted is lost: {sorted(lost)}")
    return rows


def _check_end(result: dict[str, Any], rows: dict[tuple[int, int], str], digest: str) -> None:
    ends = [0, *(stop for _, stop in rows)]
    if [first for first, _ in rows] != ends[:-1] or ends[-1] != BLOCKS:
        raise Broken(f"the rows do not cover the run: {sorted(rows)}")
    hits = sum(json.loads(tally)["hits"] for tally in rows.values())
    if hits != sum(block * 7919 % BLOCK for block in range(BLOCKS)):
        raise Broken(f"{hits} hits")
    found = (result["state"], result["samples"], result["blocks"], result["digest"])
    if found != ("done", SAMPLES, BLOCKS, digest):
        raise Broken(f"another result: {found}, not {digest}")


# -- bits that are flipped ------------------------------------------------------------------------

# What a result is made of; beside it, a run's progress and its starts are told, and not believed.
_BELIEVED = {
    "run": (
        "id",
        "name",
        "created",
        "request",
        "identity",
        "definition",
        "goal",
        "state",
        "stopped_by",
        "drained",
        "counted",
        "tally",
        "ranges",
        "own",
        "ended",
        "probe",
        "probed",
    ),
    "outcome": ("first", "stop", "tally", "node", "variant", "wall", "checksum"),
}


def flip(store: Path, rng: random.Random) -> str:
    """Flip one bit in one column of one row of a store, as a disk does; which, in words."""
    table = rng.choice(("run", "run", "outcome"))
    column = rng.choice(_BELIEVED[table])
    db = sqlite3.connect(store / FILE, isolation_level=None)
    try:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("DROP TRIGGER IF EXISTS outcome_stays")
        by = "key" if table == "run" else "first"
        rows = db.execute(f"SELECT {by}, {column} FROM {table} WHERE {column} NOT NULL").fetchall()
        if not rows:
            return f"nothing: {table}.{column} is empty"
        row, value = rng.choice(rows)
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {by} = ?", (_flipped(value, rng), row))
        return f"{table}.{column} of {row}"
    except sqlite3.IntegrityError:
        return "nothing: SQLite refused it"
    finally:
        db.close()


def _flipped(value: Any, rng: random.Random) -> Any:
    if isinstance(value, int):
        return value ^ 1 << rng.randrange(40)
    if isinstance(value, float):
        (bits,) = struct.unpack("<Q", struct.pack("<d", value))
        return struct.unpack("<d", struct.pack("<Q", bits ^ 1 << rng.randrange(64)))[0]
    data = bytearray(value.encode())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data.decode(errors="replace")


def damage(seed: int, site: Path, folder: Path, digest: str) -> str:
    """Flip a bit of a store, and show, resume or merge what is in it; what was flipped.

    Args:
        seed: of every choice.
        site: a folder whose store ``runs`` holds one run, done or not.
        folder: an empty one.
        digest: of the unbroken run.

    Raises:
        Broken: another result came of it, or another error than one that names the cause, or a
            merge that was refused left a trace.
    """
    rng, store = random.Random(seed), folder / "runs"
    shutil.copytree(site / "runs", store)
    what = flip(store, rng)
    try:
        with Ledger(store) as ledger:
            names = [row.id for row in ledger.everything()]
        if rng.random() < 0.5:
            result = merge(folder / "out", [store], verify=rng.random() < 0.5).result
            result = api.resume(result.run, folder / "out")
        else:
            if api.show(names[0], store).digest not in (None, digest) and _is_done(site):
                raise Broken(f"{what}: another result is shown")
            result = api.resume(names[0], store)
    except ClusterError as error:
        if not isinstance(error, StoreError | UsageError):
            raise Broken(f"{what}: {error!r}") from error
        if (folder / "out").exists():
            raise Broken(f"{what}: a merge that was refused made a store") from None
        return f"{what}: refused"
    if (result.state, result.digest) != ("done", digest):
        raise Broken(f"{what}: {result.state} {result.digest}, not {digest}")
    return f"{what}: as ever"


def _is_done(site: Path) -> bool:
    with Ledger(site / "runs") as ledger:
        return ledger.runs()[0].state == "done"
