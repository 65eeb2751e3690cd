"""What kernels start: processes behave in a worker as they do in a script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.base import TABLE
from tests.backends.engines import parameters
from tests.cli.shell import ROOT, ask, cluster, environment, started, wait_for
from tests.conftest import need

KERNELS = '''
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor

from cluster import Moments


def square(x):
    return x * x


def forks(rng, samples):
    """All that a script may do with the processes that it forks."""
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:  # which ends by terminate() and join()
        assert pool.map(square, range(9)) == [square(x) for x in range(9)]
    pool = context.Pool(2, maxtasksperchild=1)  # a thread forks the later ones, and ends
    assert pool.map(square, range(9), chunksize=1) == [square(x) for x in range(9)]
    pool.close()
    pool.join()
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(square, range(9))) == [square(x) for x in range(9)]
    for pause in (0.0, 0.05):  # in the moment of its start, and after it
        process = context.Process(target=time.sleep, args=(600,))
        process.start()
        time.sleep(pause)
        process.terminate()
        process.join(10)
        assert process.exitcode == -signal.SIGTERM, process.exitcode
    for number in (signal.SIGHUP, signal.SIGUSR1):
        assert ending(number) == -number
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
        assert ending(signal.SIGUSR1) == 7  # its own handler is inherited, as everywhere
        signal.signal(signal.SIGUSR1, before)
    return Moments.of(rng.random(samples))


def spawns(rng, samples, joblib=False):
    """Functions of this file, and of its neighbour, in processes that begin afresh."""
    import near  # not before: it is found at any time

    for method in ("spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map_async(square, range(9)).get(60) == [square(x) for x in range(9)]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(near.double, range(9), timeout=60)) == [2 * x for x in range(9)]
    if joblib:
        from joblib import Parallel, delayed

        done = Parallel(n_jobs=2)(delayed(square)(x) for x in range(9))
        assert done == [square(x) for x in range(9)]
    return Moments.of(rng.random(samples))


def leaves(rng, samples):
    """Something that goes on by itself, in a session of its own."""
    pid = os.fork()
    if not pid:
        os.setsid()
        time.sleep(600)
    open("left", "w").write(str(pid))
    time.sleep(600)


def hashes(rng, samples):
    """It goes by the orders of two sets, one of which is written out."""
    names = list({"graphite", "water", "steel", "lead"}) + list({str(n) for n in range(9)})
    return Moments.of([float(sum(map(ord, names[i]))) for i in rng.integers(0, 13, samples)])


def ending(number):
    """How a forked child ends that is sent a signal."""
    pid = os.fork()
    if not pid:
        time.sleep(600)
    os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
'''
# All but these draw in the same worker process, which agents start, and ranks of MPI.
QUICK = {"serial", "threads", "processes"}
BACKENDS = parameters([entry.name for entry in TABLE], default=QUICK, slow={"ssh", "mpi"})


def submitted(
    folder: Path, kernel: str, backend: str, *, seed_of_hashes: str = "random", **keys: object
) -> dict[str, Any]:
    """A run of a kernel on a backend; the result's document."""
    path = spec(folder, kernel, backend, **keys)
    env = environment(PYTHONPATH=str(ROOT), PYTHONHASHSEED=seed_of_hashes)
    done = cluster("submit", path, "--json", cwd=folder, env=env)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def spec(folder: Path, kernel: str, backend: str, **keys: object) -> Path:
    """Three blocks of a kernel on two slots of a backend."""
    entry = next(entry for entry in TABLE if entry.name == backend)
    need(entry.usable, f"{backend}: {entry.install}")
    document: dict[str, object] = {
        "kernel": f"kernels.py:{kernel}",
        "samples": 300,
        "block": 100,
        "seed": 3,
        "include": ["near.py"],
        "nodes": "localhost:2",
        "backend": backend,
        "retry": {"timeout": 20},
        **keys,
    }
    (folder / "kernels.py").write_text(KERNELS)
    (folder / "near.py").write_text("def double(x): return 2 * x\n")
    path = folder / "spec.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items()))
    return path


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_kernel_forks_ends_as_it_does_in_a_script(backend: str, tmp_path: Path) -> None:
    """Signals do to it what they do by default, from its first moment on: nothing hangs."""
    result = submitted(tmp_path, "forks", backend)
    assert (result.get("failures"), result.get("state")) == ([], "done")


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_kernel_spawns_finds_the_functions_that_it_is_given(
    backend: str, tmp_path: Path
) -> None:
    """By spawn, forkserver, an executor, and loky where that is installed."""
    params = {"joblib": find_spec("joblib") is not None}
    result = submitted(tmp_path, "spawns", backend, samples=100, params=params)
    assert (result.get("failures"), result.get("state")) == ([], "done")


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the kernel that goes by hashes, drawn by workers under Python's defaults."""
    digest: str = submitted(tmp_path_factory.mktemp("ordered"), "hashes", "processes")["digest"]
    return digest


@pytest.mark.parametrize("backend", BACKENDS)
def test_sets_have_one_order_everywhere(backend: str, ordered: str, tmp_path: Path) -> None:
    """Whatever Python was told of hashes: the digest is that of every other backend."""
    assert submitted(tmp_path, "hashes", backend, seed_of_hashes="7")["digest"] == ordered


def test_a_python_that_orders_sets_otherwise_is_told_so(tmp_path: Path) -> None:
    """Where it draws the kernel itself; a kernel that has no set is drawn."""
    submitted(tmp_path, "hashes", "processes")
    (tmp_path / "plain.py").write_text(
        "from cluster import Moments\ndef f(rng, samples): return Moments.of(rng.random(samples))"
    )
    script = (
        "from cluster import load, submit\n"
        "submit(load('spec.yaml', ['kernel=plain.py:f', 'backend=serial', 'include=[]']))\n"
        "submit(load('spec.yaml', ['backend=serial']))\n"
    )
    env = environment(PYTHONPATH=str(ROOT), PYTHONHASHSEED="7")
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "PYTHONHASHSEED" in done.stderr.splitlines()[-1]
    assert [run["state"] for run in ask("ls", cwd=tmp_path)][1:] == ["done", "done"]


def test_what_a_kernel_left_behind_holds_no_run(tmp_path: Path) -> None:
    """Drawn in the dispatcher, which was killed: nobody holds the run, and a resume can go on."""
    path = spec(tmp_path, "leaves", "serial")
    with started("submit", path, cwd=tmp_path) as process:
        try:
            left = tmp_path / "left"
            wait_for(lambda: left.exists() and left.read_text())
            process.kill()
            process.wait()
            assert ask("ls", cwd=tmp_path)[0]["state"] == "interrupted"
        finally:
            process.kill()
            os.kill(int(left.read_text()), signal.SIGKILL)
