"""What a backend of several hosts costs: against `processes`, and against the engine used bare.

All that is the same for every engine is here: the hosts, tasks of a pinned length, rounds in which
both sides take turns, medians, ratios. Root gets two and three real hosts of a lab; without root
the hosts are this machine under its own name, which has no network between them, and it is said.
"""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cluster.common.engines import built_in
from scripts.bench_base import PYTHON, ROOT, ROUNDS, median, noop, report, spec, submit
from scripts.lab_base import own_name

BACKENDS = tuple(entry.name for entry in built_in() if entry.hosted)
# Length of a task in seconds -> the share of `processes`' samples/s that must be reached.
TARGETS: Mapping[float, float] = {1.0: 0.95, 0.1: 0.8}
# dispy starts a process for every job: what that costs at short tasks is told, not judged.
TOLD = {("dispy", 0.1)}
RUN_SECONDS = 5.0
NOOPS = 20_000
# Seconds to the first outcome of a run over three hosts.
STARTS: Mapping[str, float] = {"scoop": 4.0, "mpi": 4.0}


# -- where ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """Hosts to measure on: what they are, as nodes of a spec, and how they are reached."""

    words: str
    nodes: Sequence[Mapping[str, Any]]
    environment: Mapping[str, str]


@contextmanager
def ground(count: int = 3) -> Iterator[Ground]:
    """So many hosts with a slot each."""
    if os.geteuid() != 0:
        here = [{"host": "localhost", "slots": count}]
        yield Ground("this machine alone: only root can make a lab of hosts", here, os.environ)
        return
    name = own_name("b")
    _lab(name, "up", str(count))
    try:
        exports = dict(_export(line) for line in _lab(name, "env").splitlines() if "=" in line)
        path = f"{exports.pop('PATH', '')}:{os.environ['PATH']}"
        python = "/opt/cluster/venv/bin/python"
        nodes = [{"host": f"h{n}", "slots": 1, "python": python} for n in range(1, count + 1)]
        yield Ground("hosts of a lab", nodes, {**os.environ, **exports, "PATH": path})
    finally:
        _lab(name, "down")


def _lab(name: str, *words: str) -> str:
    return subprocess.run(
        [ROOT / "scripts" / "lab", *words],
        env={**os.environ, "LAB": name, "PYTHON": PYTHON},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def _export(line: str) -> tuple[str, str]:
    name, _, value = shlex.split(line.removeprefix("export "))[0].partition("=")
    return name, value


# -- one run ----------------------------------------------------------------------------------


def run(
    path: Path, where: Ground, backend: str, *options: str
) -> tuple[dict[str, Any], sqlite3.Row, float]:
    """The result of a run, the clocks of its rows, and the clock when it was started."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        begun = time.time()
        result = submit(
            path,
            "--set",
            f"backend={backend}",
            "--set",
            f"nodes={json.dumps(where.nodes)}",
            *options,
            store=store,
            environment=where.environment,
        )
        with sqlite3.connect(store / "ledger.sqlite") as db:
            db.row_factory = sqlite3.Row
            clocks = db.execute(
                "SELECT MIN(started) AS began, MIN(received) AS first, MAX(received) AS last,"
                " SUM(wall) AS busy, COUNT(*) AS tasks FROM outcome"
            ).fetchone()
        db.close()
    return result, clocks, begun


def pair(where: Ground) -> Ground:
    """Two slots: on the first two hosts, or where there is only this one, on it."""
    few = [{**node, "slots": min(node["slots"], 2)} for node in where.nodes[:2]]
    return Ground(where.words, few, where.environment)


def here() -> Ground:
    """Two slots of this machine."""
    return Ground("this machine", [{"host": "localhost", "slots": 2}], os.environ)


# -- samples a second -------------------------------------------------------------------------


@cache
def block_seconds() -> float:
    """What a block of `pi` takes with all slots at work, as `processes` draws it."""
    with spec({"kernel": f"{ROOT}/jobs/pi.py:pi", "samples": int(5e9), "seed": 1}) as path:
        result, _, _ = run(path, here(), "processes")
    busy = sum(node["busy_s"] for node in result["nodes"])
    return float(busy / result["blocks"])


def sample_rate(where: Ground, backend: str, seconds: float) -> tuple[float, float]:
    """Samples a second, and the share of the time in which two slots were drawing.

    The time is that from the start of the first task to the last outcome in the dispatcher. What
    comes before, bringing the engine up, is told as the seconds to the first outcome. The share
    says how much of a difference was the engine's: no other load of the machine lowers it much.
    """
    blocks = max(1, round(seconds / block_seconds()))
    tasks = 2 * max(2, round(RUN_SECONDS / seconds))
    size = 1 << 24
    content = {
        "kernel": f"{ROOT}/jobs/pi.py:pi",
        "samples": tasks * blocks * size,
        "block": size,
        "seed": 1,
    }
    with spec(content) as path:
        result, clocks, _ = run(path, where, backend, "--task-blocks", str(blocks))
    spent = clocks["last"] - clocks["began"]
    return float(result["samples"] / spent), float(clocks["busy"] / spent / 2)


def against_processes(backend: str, where: Ground) -> None:
    """The backend on two hosts, a slot each, against two worker processes."""
    for seconds, target in TARGETS.items():
        ours, theirs = [], []
        for _ in range(ROUNDS):
            theirs.append(sample_rate(here(), "processes", seconds))
            ours.append(sample_rate(pair(where), backend, seconds))
        ratio = statistics.median(a / b for (a, _), (b, _) in zip(ours, theirs, strict=True))
        rates = [median([rate for rate, _ in side]) / 1e9 for side in (ours, theirs)]
        busy = [median([share for _, share in side]) for side in (ours, theirs)]
        detail = (
            f"{rates[0]:.3f} and {rates[1]:.3f} G samples/s, slots busy {busy[0]:.1%} and"
            f" {busy[1]:.1%} of the time, 2 slots, {where.words}"
        )
        judged = None if (backend, seconds) in TOLD else target
        report(f"{backend} / processes, pi, tasks of {seconds:g} s", ratio, judged, detail)


# -- no-op tasks ------------------------------------------------------------------------------


def task_rate(where: Ground, backend: str) -> float:
    """No-op tasks a second, of one block and one ledger row each; from the first one's start."""
    with noop(NOOPS) as path:
        _, clocks, _ = run(path, where, backend, "--task-blocks", "1")
    assert clocks["tasks"] == NOOPS
    return float(NOOPS / (clocks["last"] - clocks["began"]))


def bare_mpi() -> float:
    """Tasks a second of MPICommExecutor with two ranks that draw."""
    from cluster.backends.mpi.launcher import find, scrubbed

    launcher = find(os.environ)
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    # Open MPI's own defaults, but for the binding: two ranks on one core would be no contest.
    words = [launcher.path, "--bind-to", "none"]
    words += ["--oversubscribe"] if launcher.flavour == "openmpi" else []
    words += ["-n", "3", PYTHON, str(ROOT / "scripts" / "bench_peers.py"), "mpi", str(NOOPS)]
    return _bare(words, {**scrubbed(os.environ), **(root if os.geteuid() == 0 else {})})


def bare_scoop() -> float:
    """Tasks a second of scoop.futures.map with two workers."""
    program = str(ROOT / "scripts" / "bench_peers.py")
    return _bare([PYTHON, "-m", "scoop", "-n", "2", program, "scoop", str(NOOPS)], os.environ)


def _bare(words: Sequence[str], environment: Mapping[str, str]) -> float:
    done = subprocess.run(
        words, env=dict(environment), capture_output=True, text=True, check=False, timeout=300
    )
    document = next((line for line in done.stdout.splitlines() if line.startswith("{")), "")
    if not document:
        sys.exit(f"{shlex.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return NOOPS / float(json.loads(document)["seconds"])


# What the engine does by itself, and the share of it that is promised with the ledger.
BARE: Mapping[str, tuple[str, Callable[[], float], float]] = {
    "mpi": ("MPICommExecutor", bare_mpi, 1.0),
    "scoop": ("scoop.futures.map", bare_scoop, 0.5),
}


def against_bare(backend: str, where: Ground) -> None:
    """No-op tasks with two slots, ledger included, here and on hosts, against the engine bare."""
    name, peer, target = BARE[backend]
    ours, spread, theirs = [], [], []
    for _ in range(ROUNDS):
        theirs.append(peer())
        ours.append(task_rate(here(), backend))
        spread.append(task_rate(pair(where), backend))
    for words, rates in (("this machine", ours), (where.words, spread)):
        ratio = statistics.median(a / b for a, b in zip(rates, theirs, strict=True))
        detail = f"{median(rates):,.0f} and {median(theirs):,.0f} tasks/s, 2 slots, {words}"
        report(f"{backend} / {name}, no-op tasks", ratio, target, detail)


# -- start-up ---------------------------------------------------------------------------------


def first_outcome(where: Ground, backend: str) -> float:
    """Seconds from the command to the first outcome in the dispatcher."""
    with noop(300) as path:
        _, clocks, begun = run(path, where, backend, "--task-blocks", "1")
    return float(clocks["first"] - begun)


def startup(backend: str, where: Ground) -> None:
    """Start-up over all hosts."""
    spent = [first_outcome(where, backend) for _ in range(ROUNDS)]
    slots = sum(node["slots"] for node in where.nodes)
    detail = f"{min(spent):.2f} to {max(spent):.2f} s, {slots} slots, {where.words}"
    what = f"{backend}, seconds to the first outcome"
    report(what, median(spent), STARTS.get(backend), detail, most=True)


def measure(backend: str) -> None:
    """All figures of one backend."""
    with ground() as where:
        startup(backend, where)
        against_processes(backend, where)
        if backend in BARE:
            against_bare(backend, where)
