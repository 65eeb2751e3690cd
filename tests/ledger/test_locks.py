"""Who holds a run: one process, named to all others, freed by its end however that came."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cluster.ledger.database as ledger_room
from cluster.common.errors import Locked, StoreError
from cluster.ledger import Ledger, Owner, compact, locks, remove
from tests.ledger.stores import by_hand, entered, put, tally

# A process that tries for a lock whenever it is told a store, says what came, and holds it until
# it is told the next thing.
HOLDER = """
import json, sys
from pathlib import Path
from cluster.common.errors import ClusterError
from cluster.ledger import Ledger
for line in sys.stdin:
    try:
        with Ledger(Path(line.strip()), create=True) as ledger, ledger.lock("run"):
            print("held", flush=True)
            sys.stdin.readline()
        print("freed", flush=True)
    except ClusterError as error:
        print(json.dumps([type(error).__name__, str(error)]), flush=True)
        sys.stdin.readline()
        print("freed", flush=True)
"""


class Holder:
    """Another process that takes locks."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, line: object = "") -> None:
        """Send a line."""
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Its next line."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def hold(self, store: Path) -> None:
        """Have it hold the run of a store."""
        self.tell(store)
        assert self.hear() == "held"


@contextmanager
def holders(count: int) -> Iterator[list[Holder]]:
    """So many of them."""
    found = [Holder() for _ in range(count)]
    try:
        yield found
    finally:
        for holder in found:
            holder.process.kill()
            holder.process.communicate()


@pytest.mark.fault(48)
@pytest.mark.parametrize("races", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_of_four_at_once_exactly_one_holds_the_run(tmp_path: Path, races: int) -> None:
    """Each race is on a store that does not exist yet; the other three are told who has it."""
    with holders(4) as racers:
        for race in range(races):
            for racer in racers:
                racer.tell(tmp_path / str(race))
            heard = [racer.hear() for racer in racers]
            assert heard.count("held") == 1, heard
            winner = racers[heard.index("held")].process.pid
            for kind, message in (json.loads(line) for line in heard if line != "held"):
                assert kind == "Locked"
                assert f"process {winner} on {socket.gethostname()}" in message
            for racer in racers:
                racer.tell()
            assert [racer.hear() for racer in racers] == ["freed"] * 4


@pytest.mark.fault(49)
def test_a_lock_goes_with_its_process_however_that_ends(tmp_path: Path) -> None:
    """Kill -9 of the holder frees the run at once; before that it is running, and held."""
    with Ledger(tmp_path, create=True) as ledger, holders(1) as (holder,):
        run = entered(ledger)
        holder.hold(tmp_path)
        assert ledger.state(run) == "running"
        owner = ledger.holder(run)
        assert owner is not None
        assert (owner.pid, owner.host) == (holder.process.pid, socket.gethostname())
        with pytest.raises(Locked, match="held by"), ledger.lock("run"):
            pass
        holder.process.send_signal(signal.SIGKILL)
        holder.process.wait()
        assert ledger.state(run) == "interrupted"
        assert ledger.holder(run) is None
        with ledger.lock("run"):
            assert ledger.state(run) == "running"
        assert ledger.state(run) == "interrupted"


def test_a_lock_does_not_outlive_its_block_in_a_forked_child(tmp_path: Path) -> None:
    """A child that was forked meanwhile has the descriptor too; the run is free all the same."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        reader, writer = os.pipe()
        with ledger.lock("run"):
            child = os.fork()
            if not child:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
        try:
            assert ledger.holder(run) is None
            with ledger.lock("run"):
                pass
        finally:
            os.close(writer)
            os.waitpid(child, 0)
            os.close(reader)


def test_two_runs_of_one_store_are_held_apart(tmp_path: Path) -> None:
    """A lock is one run's, not the store's."""
    with Ledger(tmp_path, create=True) as ledger, holders(1) as (holder,):
        holder.hold(tmp_path)
        other = entered(ledger, "other")
        with ledger.lock("other"):
            assert ledger.state(other) == "running"


def test_asking_who_holds_a_run_takes_it_from_nobody(tmp_path: Path) -> None:
    """Readers in a loop do not keep a dispatcher from its run."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        path = tmp_path / "locks" / "run"
        with ledger.lock("run"):
            pass
        asking = (
            "import sys; from pathlib import Path; from cluster.ledger import holder\n"
            "print('asking', flush=True)\n"
            f"while True: holder(Path({str(path)!r}))"
        )
        with subprocess.Popen([sys.executable, "-c", asking], stdout=subprocess.PIPE) as reader:
            assert reader.stdout
            assert reader.stdout.readline()
            try:
                for _ in range(50):
                    with ledger.lock("run"):
                        assert ledger.state(run) == "running"
            finally:
                reader.kill()


def test_the_space_of_removed_runs_stays_taken_while_a_run_is_held(tmp_path: Path) -> None:
    """Giving it back would keep the run's writer out for as long as it takes."""

    def free() -> int:
        (pages,) = ledger.all("PRAGMA freelist_count", ())[0]
        return int(pages)

    with Ledger(tmp_path, create=True) as ledger, holders(1) as (other,):
        old = entered(ledger, "old")
        with ledger.writer(old) as writer:
            put(writer, 0, 1, tally(0, 1) + " " * 20_000)
            writer.flush()
        other.hold(tmp_path)
        remove(ledger, old)
        compact(ledger)
        assert free() >= 4
        other.tell()
        assert other.hear() == "freed"
        compact(ledger)
        assert free() == 0


# -- on a network file system ---------------------------------------------------------------------


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every folder is on NFS."""
    monkeypatch.setattr(ledger_room, "file_system", lambda _path: "nfs4")
    return monkeypatch


@pytest.mark.fault(49)
def test_a_network_file_system_gets_the_rollback_journal(
    tmp_path: Path, network: pytest.MonkeyPatch
) -> None:
    """Never write-ahead logging there: it needs memory that all users of the file share."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        assert ledger.db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        with ledger.lock("run"), ledger.writer(run) as writer:
            put(writer, 0, 5)
            writer.flush()
        assert [row[:2] for row in ledger.counted(run)] == [(0, 5)]


@pytest.mark.fault(49)
def test_another_host_is_refused_until_the_owners_heart_stands_still(
    tmp_path: Path, network: pytest.MonkeyPatch
) -> None:
    """Locks do not reach it: the owner's row does, with a name, and no longer than its beat."""
    with Ledger(tmp_path, create=True) as ledger, ledger.lock("run"):
        entered(ledger)
        network.setattr(Owner, "here", lambda: Owner("elsewhere", 4242, 2e9))
        with pytest.raises(Locked, match=f"{os.getpid()} on {socket.gethostname()}"):
            ledger.lock("other").__enter__()
        with by_hand(tmp_path) as db:
            db.execute("UPDATE owner SET beat = beat - 100")
        with ledger.lock("other"), by_hand(tmp_path) as db:
            assert db.execute("SELECT host, pid FROM owner").fetchone() == ("elsewhere", 4242)


@pytest.mark.fault(49)
def test_an_owner_that_was_taken_for_dead_writes_no_more(
    tmp_path: Path, network: pytest.MonkeyPatch
) -> None:
    """A machine that slept wakes in the middle of its run, which another host has now."""
    with Ledger(tmp_path, create=True) as ledger, ledger.lock("run"):
        run = entered(ledger)
        with ledger.writer(run) as writer:
            put(writer, 0, 5)
            writer.flush()
            with by_hand(tmp_path) as db:
                db.execute("UPDATE owner SET host = 'elsewhere', pid = 4242, beat = 2e9")
            put(writer, 5, 9)
            words = "took the store over .*: process 4242 on elsewhere"
            with pytest.raises(StoreError, match=words) as caught:
                writer.flush()
            assert caught.value.fix
        assert [row[:2] for row in ledger.counted(run)] == [(0, 5)]
        with pytest.raises(Locked, match="process 4242 on elsewhere"):
            ledger.own()
        with by_hand(tmp_path) as db:
            assert db.execute("SELECT host FROM owner").fetchone() == ("elsewhere",)


@pytest.mark.fault(49)
def test_an_idle_owners_heart_beats(tmp_path: Path, network: pytest.MonkeyPatch) -> None:
    """Also where nothing is to be written for a long time."""
    network.setattr("cluster.ledger.writer.OWNER_BEAT", 0.01)
    with Ledger(tmp_path, create=True) as ledger, ledger.lock("run"):
        with by_hand(tmp_path) as db:
            db.execute("UPDATE owner SET beat = 0")
        with ledger.writer(entered(ledger)), by_hand(tmp_path) as db:
            deadline, beat = time.monotonic() + 30, 0.0
            while not beat and time.monotonic() < deadline:
                (beat,) = db.execute("SELECT beat FROM owner").fetchone()
        assert beat > 0


def test_the_kind_of_a_file_system_is_read_from_its_mount() -> None:
    """The innermost mount counts; a path that is not there has its parent's."""
    assert ledger_room.file_system(Path("/proc/self")) == "proc"
    assert ledger_room.file_system(Path("/")) != ""
    assert ledger_room.file_system(Path("/no/such/place")) == ledger_room.file_system(Path("/"))


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_a_lock_is_not_waited_for(tmp_path: Path) -> None:
    """Opened as a file is, it would keep every reader until somebody writes into it."""
    os.mkfifo(tmp_path / "lock")
    assert locks.holder(tmp_path / "lock") is None
