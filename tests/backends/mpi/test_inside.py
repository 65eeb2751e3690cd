"""`mpirun -n N python -m cluster submit`: the ranks find their roles, and a lost world resumes."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.mpi.inside import RankSession
from cluster.backends.mpi.launcher import scrubbed
from cluster.backends.mpi.world import RankLines
from cluster.hosts.process_tree import descendants
from cluster.ledger.marks import probe_mark
from tests.conftest import need

ROOT = Path(__file__).parents[3]
MPIRUN = Path(sys.executable).parent / "mpirun"

KERNEL = """
import time

from cluster import Hits


def slow(stream, samples, pause=0.0):
    time.sleep(pause)
    return Hits(int(stream.key[0]) % (samples + 1), samples)
"""


def spec(folder: Path, blocks: int, pause: float) -> Path:
    """A spec of so many blocks, each of which takes so long."""
    (folder / "slow.py").write_text(KERNEL)
    path = folder / "slow.yaml"
    content = {
        "kernel": "slow.py:slow",
        "params": {"pause": pause},
        "samples": 8 * blocks,
        "block": 8,
        "seed": 3,
        "nodes": ["nowhere.invalid"],
        "backend": "ssh",
    }
    path.write_text(json.dumps(content))
    return path


def world(
    folder: Path, *words: str, ranks: int = 3, program: tuple[str, ...] = ("-m", "cluster")
) -> subprocess.Popen[str]:
    """A world of the launcher's, each rank of which runs `python -m cluster` with these words."""
    need(MPIRUN.exists(), "mpirun: pip install 'cluster-montecarlo[mpi]'")
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    launcher = [str(MPIRUN), *root, "--bind-to", "none", "--oversubscribe", "-n", str(ranks)]
    return start(folder, [*launcher, sys.executable, *program, *words], {})


def start(folder: Path, words: list[str], more: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a command with an environment in which no launcher has left anything."""
    environ = {**scrubbed(os.environ), "PYTHONPATH": str(ROOT), **more}
    return subprocess.Popen(
        words, cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def told(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """The document that a world printed, and its stderr."""
    out, err = process.communicate(timeout=120)
    assert out, err
    document: dict[str, Any] = json.loads(out)
    return document, err


def alone(folder: Path, path: Path) -> str:
    """The digest of the same spec without MPI; threads, because blocks may nap."""
    words = [sys.executable, "-m", "cluster", "submit", str(path), "--json", "--store", "alone"]
    words += ["--set", "backend=threads", "--set", "nodes=localhost:32"]
    return str(told(start(folder, words, {}))[0]["digest"])


def test_a_world_of_the_users_own_has_the_digest_of_serial(tmp_path: Path) -> None:
    """One document, from one rank; the spec's backend and nodes are set aside, and it is said."""
    path = spec(tmp_path, 40, 0.01)
    process = world(tmp_path, "submit", str(path), "--json", "--task-blocks", "1")
    result, err = told(process)
    assert process.returncode == 0
    assert (result["state"], result["backend"]) == ("done", "mpi")
    assert sum(node["slots"] for node in result["nodes"]) == 3
    assert result["digest"] == alone(tmp_path, path)
    assert err.count("set aside") == 1


@pytest.mark.fault(100)
def test_a_launcher_of_another_mpi_is_refused(tmp_path: Path) -> None:
    """Else every rank would compute everything alone: 78, and only the first one speaks."""
    path = spec(tmp_path, 1, 0)
    words = [sys.executable, "-m", "cluster", "submit", str(path), "--json"]
    process = start(tmp_path, words, {"PMI_SIZE": "4", "PMI_RANK": "0"})
    document, _ = told(process)
    assert (process.returncode, document["error"]["code"]) == (78, 78)
    assert "two MPIs" in document["error"]["message"]
    quiet = start(tmp_path, words, {"PMI_SIZE": "4", "PMI_RANK": "2"})
    assert quiet.communicate(timeout=60) == ("", "")
    assert quiet.returncode == 78


def test_a_bad_spec_ends_the_world_with_its_code(tmp_path: Path) -> None:
    """The other ranks part in order."""
    process = world(tmp_path, "submit", "nothing.yaml", "--json")
    assert told(process)[0]["errors"]
    assert process.returncode == 2


def test_other_verbs_are_answered_once(tmp_path: Path) -> None:
    """By the first rank; the others end without a word."""
    process = world(tmp_path, "backends", "--json", ranks=2)
    out, _ = process.communicate(timeout=60)
    assert "mpi" in [row["backend"] for row in json.loads(out)]
    assert process.returncode == 0


@pytest.mark.slow
def test_a_lost_rank_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """It ends the world, soon; the same command with --resume has the digest of serial."""
    path = spec(tmp_path, 250, 0.05)
    words = ("submit", str(path), "--json", "--task-blocks", "1")
    process = world(tmp_path, *words)
    ranks = ranks_of(process.pid)
    time.sleep(1.5)
    begun = time.monotonic()
    os.kill(max(ranks), signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert time.monotonic() - begun < 10
    result, _ = told(world(tmp_path, *words, "--resume"))
    assert result["state"] == "done"
    assert result["digest"] == alone(tmp_path, path)


@pytest.mark.slow
def test_a_resume_is_held_to_how_the_kernel_came_out_where_the_run_was_begun(
    tmp_path: Path,
) -> None:
    """The first world records it; ranks of another that differ are refused."""
    words = ("submit", str(spec(tmp_path, 250, 0.05)), "--json", "--task-blocks", "1")
    process = world(tmp_path, *words)
    ranks = ranks_of(process.pid)
    time.sleep(1.5)
    os.kill(max(ranks), signal.SIGKILL)
    process.communicate(timeout=30)
    with sqlite3.connect(tmp_path / "runs" / "ledger.sqlite") as db:
        ((run, begun),) = db.execute("SELECT id, probe FROM run")
        assert begun
        recorded = "UPDATE run SET probe = ?, probed = ?"
        db.execute(recorded, ("another", probe_mark(run, "another")))
    _, err = world(tmp_path, *words, "--resume").communicate(timeout=60)
    assert "came out differently there than where the run was begun" in err
    with sqlite3.connect(tmp_path / "runs" / "ledger.sqlite") as db:
        db.execute(recorded, (begun, probe_mark(run, begun)))
    result, _ = told(world(tmp_path, *words, "--resume"))
    assert result["digest"] == alone(tmp_path, tmp_path / "slow.yaml")


OF_A_RANK = """
import os
import time

from cluster import Hits

MINE = os.environ["OMPI_COMM_WORLD_RANK"]


def f(stream, samples):
    time.sleep(0.05)
    return Hits(int(stream.key[0]) % (samples + 1), samples)


def g(stream, samples):
    if MINE == "2":
        WRONG
    return f(stream, samples)
"""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("return Hits(0, samples)", "kernel rank.py:g came out differently there than here (other"),
        pytest.param(
            "import skimage",
            "rank.py:g needs the module skimage, which is missing there",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "time.sleep(99)",
            "the kernel's probe did not come back within 30 s",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_rank_is_held_to_what_the_first_one_drew_of_each_kernel_of_a_sweep(
    wrong: str, words: str, tmp_path: Path
) -> None:
    """It is refused in words, and the others go on."""
    (tmp_path / "rank.py").write_text(OF_A_RANK.replace("WRONG", wrong))
    blocks = 40 if wrong != "time.sleep(99)" else 700
    content = {
        "kernel": "rank.py:f",
        "samples": 8 * blocks,
        "block": 8,
        "seed": 3,
        "sweep": {"matrix": {"kernel": ["rank.py:f", "rank.py:g"]}},
    }
    (tmp_path / "sweep.yaml").write_text(json.dumps(content))
    document, err = told(world(tmp_path, "submit", "sweep.yaml", "--json"))
    assert document["state"] == "done"
    assert words in err
    assert document["nodes"][0]["slots"] == 3
    f, g = document["points"]
    assert f["estimate"] == g["estimate"]


# A mistake of ours in a rank, which no kernel can make: in the dispatcher, or in an agent.
FAILS = """
import os
import sys

from cluster.PLACE import NAME as Kind

first = Kind._tend
looks = []


def tend(self):
    looks.append(1)
    if os.environ["OMPI_COMM_WORLD_RANK"] == "WHICH" and len(looks) > 300:
        raise RuntimeError("a mistake of ours")
    return first(self)


Kind._tend = tend
from cluster.__main__ import main

sys.exit(main())
"""


@pytest.mark.parametrize(
    ("rank", "place", "name", "code"),
    [
        pytest.param(0, "backends.hosted", "Hosted", 1, marks=pytest.mark.slow),
        (1, "hosts.agent", "Agent", 70),
    ],
)
def test_an_exception_in_a_rank_ends_the_world(
    tmp_path: Path, rank: int, place: str, name: str, code: int
) -> None:
    """It is told with its traceback, nobody waits for ever, and a resume goes on."""
    path = spec(tmp_path, 200, 0.05)
    program = FAILS.replace("WHICH", str(rank)).replace("PLACE", place).replace("NAME", name)
    (tmp_path / "fails.py").write_text(program)
    words = ("submit", str(path), "--json", "--task-blocks", "1")
    process = world(tmp_path, *words, program=("fails.py",))
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "a mistake of ours" in err
    result, _ = told(world(tmp_path, *words, "--resume"))
    assert (result["state"], result["digest"]) == ("done", alone(tmp_path, path))


@pytest.mark.slow
def test_a_rank_that_is_stopped_costs_no_more_than_its_tasks(tmp_path: Path) -> None:
    """They go to others after 6 s; once it is heard again, it draws on, with its slot counted."""
    path = spec(tmp_path, 1200, 0.03)
    process = world(tmp_path, "submit", str(path), "--json", "--task-blocks", "1")
    stopped = max(ranks_of(process.pid))
    time.sleep(2)
    os.kill(stopped, signal.SIGSTOP)
    time.sleep(8)
    os.kill(stopped, signal.SIGCONT)
    result, err = told(process)
    assert (result["state"], result["digest"]) == ("done", alone(tmp_path, path))
    assert re.search(r"(?s)2 slots, rank \d: not heard of for.*3 slots, rank \d: heard again", err)


LEAVES = """
import os
import subprocess

from cluster import Hits


def f(stream, samples):
    rank = os.environ["OMPI_COMM_WORLD_RANK"]
    if rank != "0":
        subprocess.run(["setsid", "--fork", "sleep", f"9{rank}.PID"], check=True)
    return Hits(int(stream.key[0]) % (samples + 1), samples)
"""


def test_what_a_kernel_leaves_running_in_a_rank_ends_with_the_run(tmp_path: Path) -> None:
    """A process that has left its parent and session: no launcher would find it before its time."""
    (tmp_path / "leaves.py").write_text(LEAVES.replace("PID", str(os.getpid())))
    content = {"kernel": "leaves.py:f", "samples": 48, "block": 8, "seed": 3}
    (tmp_path / "leaves.yaml").write_text(json.dumps(content))
    result, _ = told(world(tmp_path, "submit", "leaves.yaml", "--json", "--task-blocks", "1"))
    assert result["state"] == "done"
    running = [command_of(int(path.name)) for path in Path("/proc").glob("[0-9]*")]
    assert not [line for line in running if re.match(f"sleep 9[12].{os.getpid()} ", line)]


ORPHANS = """
import sys
from dataclasses import replace

from cluster.backends.mpi import inside

inside._PATIENCE = replace(inside._PATIENCE, silence=3.0)
from cluster.__main__ import main

sys.exit(main())
"""


@pytest.mark.slow
def test_ranks_whose_dispatcher_is_stopped_for_good_end_the_world(tmp_path: Path) -> None:
    """After a silence that is shorter here than in life; what was counted is resumed."""
    path = spec(tmp_path, 400, 0.05)
    (tmp_path / "orphans.py").write_text(ORPHANS)
    words = ("submit", str(path), "--json", "--task-blocks", "1")
    process = world(tmp_path, *words, program=("orphans.py",))
    ranks = ranks_of(process.pid, words="orphans.py submit")
    time.sleep(2)
    os.kill(min(ranks), signal.SIGSTOP)
    process.communicate(timeout=30)
    assert process.returncode != 0
    result, _ = told(world(tmp_path, *words, "--resume"))
    assert (result["state"], result["digest"]) == ("done", alone(tmp_path, path))


def test_what_still_comes_of_an_earlier_run_reaches_no_later_one() -> None:
    """A run on a line to a rank begins where the rank has ended the one before it."""
    line = RankLines()
    first = RankSession(line)
    second = RankSession(line, first)
    line.take_in(b'[1]\n{"printed":[]}\n')
    assert not list(second.messages())
    line.take_in(b"null\n[2]\n")
    assert list(second.messages()) == [[2]]
    assert (first.gone, second.gone) == (True, False)
    line.take_in(b"null\n[3]\n")
    assert not list(second.messages())
    assert second.gone


def test_a_run_on_a_line_is_ended_once() -> None:
    """Whoever ends it twice does not end the next one."""
    line = RankLines()
    session = RankSession(line)
    session.close_input()
    session.reap()
    assert bytes(line.outgoing) == b"null\n"


def test_a_rank_that_waits_burns_no_core(tmp_path: Path) -> None:
    """The first one as well, which also dispatches: a few percent of a core, over three seconds."""
    process = world(tmp_path, "submit", str(spec(tmp_path, 60, 0.5)), "--json", ranks=2)
    ranks = ranks_of(process.pid, 2)
    time.sleep(1)
    before = [cpu_seconds(rank) for rank in ranks]
    time.sleep(3)
    spent = [cpu_seconds(rank) - since for rank, since in zip(ranks, before, strict=True)]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert max(spent) < 0.3, spent


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ranks_of(pid: int, count: int = 3, words: str = "-m cluster submit") -> list[int]:
    """The ranks below a launcher, once their workers have been started."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = {each: command_of(each) for each in descendants(pid)}
        if sum("cluster.hosts.worker" in line for line in lines.values()) == count:
            return [
                each
                for each, line in lines.items()
                if words in line and "mpirun" not in line and "prterun" not in line
            ]
        time.sleep(0.05)
    raise AssertionError("the world did not come up")


def command_of(pid: int) -> str:
    """The command line of a process, empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
