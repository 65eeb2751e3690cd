"""Checks that a kernel draws the same in this process as in a worker.

Workers and the command line have PYTHONHASHSEED=0. A Python that imports this package may have hash
randomization on, with which the order of a set of strings changes at every start.
"""

from __future__ import annotations

import ast
import selectors
import sys
import time
from dataclasses import replace

from cluster.common.errors import EngineError, KernelError
from cluster.hosts.fingerprint import is_drawn, probe, probed
from cluster.hosts.nodes import local
from cluster.hosts.worker_pool import Slots
from cluster.sampling.task import Outcome, Task, Work, perform

# Names whose results may depend on hashes, and modules that never use them in what they return.
_UNORDERED = {"set", "frozenset", "hash", "vars", "globals", "locals", "dir"}
_ORDERED = {"__future__", "cluster", "numpy", "math", "time", "os", "sys", "numba", "typing"}
# Digests of the kernels that have been checked.
_known: set[str] = set()


def check_against_worker(work: Work, ready: float) -> None:
    """Refuse a kernel that draws differently in a worker and in this process.

    Each kernel is checked once, and only if its text suggests that hashes may matter.

    Args:
        work: a work of the kernel.
        ready: seconds within which a worker must have drawn the probe.

    Raises:
        KernelError: the probe's tallies differ.
        EngineError: no worker drew the probe in time.
    """
    if not sys.flags.hash_randomization or work.source.sha in _known:
        return
    if any(_may_depend(text) for name, text in work.source.files.items() if name.endswith(".py")):
        here, there = probed(perform(*probe(work))), probed(draw_in_worker(*probe(work), ready))
        if is_drawn(here) and here != there:
            raise KernelError(
                f"a few samples of {work.source.name} come out differently in this process than in"
                " a worker: it depends on a hash or the order of a set, and so on PYTHONHASHSEED",
                fix="start Python with PYTHONHASHSEED=0, or use the backend processes",
            )
    _known.add(work.source.sha)


def _may_depend(text: str) -> bool:
    """Whether results could depend on hashes: a file uses sets, or imports unknown modules."""
    for node in ast.walk(ast.parse(text.removeprefix("\ufeff"))):
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Name(id=name) if name in _UNORDERED:
                return True
            case ast.Import(names=names):
                modules = {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=module):
                modules = {(module or "").partition(".")[0]}
            case _:
                modules = set()
        if modules - _ORDERED:
            return True
    return False


def draw_in_worker(work: Work, task: Task, ready: float) -> Outcome:
    """The outcome of a task in a worker process of this machine.

    Args:
        work: of the task.
        task: the only one that the worker is given.
        ready: seconds within which it must have drawn it.

    Raises:
        EngineError: no worker did in time.
    """
    deadline = time.monotonic() + ready
    with selectors.DefaultSelector() as selector:
        slots, given = Slots(replace(local(), slots=1), work, selector, ready), False
        try:
            while time.monotonic() < deadline and not slots.broken:
                for outcome in slots.tend():
                    if isinstance(outcome, Outcome):
                        return outcome
                if slots.usable and not given:
                    slots.give(task)
                    given = True
                slots.send()
                for key, mask in selector.select(0.1):
                    key.data(mask)
        finally:
            slots.close()
    raise EngineError(f"no worker drew a few samples of {work.source.name} within {ready:g} s")
