"""What a worker process finds around it, and the table of backends."""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.base import create
from cluster.backends.order import draw_in_worker
from cluster.common.errors import EngineError, UsageError
from cluster.hosts.fingerprint import probe
from cluster.hosts.nodes import Node
from cluster.sampling.plan import Goal
from cluster.sampling.task import Outcome
from cluster.testing import BAD_BLOCK, HOSTILE, Script, drive, work_of
from tests.backends.engines import engine

ASK = """
import json, os, sys
from cluster import Hits

def f(rng, samples):
    import numba
    seen = {
        "pools": [value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")],
        "numba": numba.get_num_threads(),
        "word": os.environ.get("WORD"),
        "cwd": os.getcwd(),
        "path": sys.path,
        "random": sys.modules["random"].__file__,
    }
    raise RuntimeError(json.dumps(seen))
"""


def seen(node: Node) -> dict[str, Any]:
    """What a kernel sees on a node."""
    driven = drive(lambda: create("processes", (node,)), work_of(ASK), Goal(1))
    words: dict[str, Any] = json.loads(driven.failures[0]["message"])
    return words


@pytest.mark.fault(22)
def test_thread_pools_are_held_to_the_slot() -> None:
    """BLAS, OpenMP and numba get one thread in a slot."""
    pytest.importorskip("numba")
    around = seen(Node("localhost", slots=1))
    assert set(around["pools"]) == {"1"}
    assert len(around["pools"]) >= 6
    assert around["numba"] == 1


@pytest.mark.fault(104)
def test_a_slot_has_its_node_s_environment_and_folder(tmp_path: Path) -> None:
    """``env`` is put over ours, ``cwd`` is where it runs, and no module is found there."""
    pytest.importorskip("numba")
    (tmp_path / "random.py").write_text("raise SystemExit('hijacked')")
    node = Node("localhost", slots=1, env=(("WORD", "nodes"),), cwd=str(tmp_path))
    around = seen(node)
    assert (around["word"], around["cwd"]) == ("nodes", str(tmp_path))
    assert str(tmp_path) not in around["path"]
    assert "" not in around["path"]


@pytest.mark.fault(1)
def test_a_python_that_is_not_there_is_an_error_of_the_engine() -> None:
    """Exit code 69, with the system's own words, not a hang."""
    node = Node("localhost", slots=2, python="/nonexistent/python")
    with pytest.raises(EngineError, match="No such file") as caught:
        drive(lambda: create("processes", (node,)), work_of(), Goal(1))
    assert caught.value.code == 69


@pytest.mark.fault(17)
@pytest.mark.parametrize("name", ["processes", "ssh"])
def test_what_was_drawn_is_not_held_back_behind_a_task_that_hangs(name: str) -> None:
    """All that one slot drew before is there while the next task of its pipe goes on for ever."""
    work, script = work_of(HOSTILE["hangs"].text), Script(2 * BAD_BLOCK)
    deadline = time.monotonic() + 60
    drawn: set[int] = set()
    with engine(name, slots=1) as one, closing(one.run(work, script)) as items:
        while len(drawn) < BAD_BLOCK:
            assert time.monotonic() < deadline, f"held back: all but {drawn}"
            item = next(items)
            drawn |= {item.first} if isinstance(item, Outcome) else set()
    assert drawn == set(range(BAD_BLOCK))


def test_a_slot_is_tried_again_where_something_is_scarce_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A descriptor too few costs a second, and leaves no process behind."""
    honest = drive(lambda: create("processes", (Node("localhost", slots=1),)), work_of(), Goal(4))
    real = os.pidfd_open
    failed: list[int] = []

    def scarce(pid: int) -> int:
        if not failed:
            failed.append(pid)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(pid)

    monkeypatch.setattr(os, "pidfd_open", scarce)
    driven = drive(lambda: create("processes", (Node("localhost", slots=1),)), work_of(), Goal(4))
    assert driven.digest == honest.digest
    assert not Path(f"/proc/{failed[0]}").exists()


def test_an_unknown_backend_is_answered_with_the_nearest() -> None:
    """Exit code 2, and a suggestion."""
    with pytest.raises(UsageError, match="did you mean 'processes'"):
        create("proceses", ())


DIES = "import os\n\n\ndef f(rng, samples):\n    os.kill(os.getpid(), 9)\n"


@pytest.mark.fault(1)
@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_that_dies_in_a_probe_was_at_it(number: int) -> None:
    """Also in one of a further kernel, whose task has the number -1: it is lost, not untouched."""
    outcome = draw_in_worker(*probe(work_of(DIES), number), 30.0)
    assert outcome.fault is not None
    assert outcome.fault.kind == "lost"
