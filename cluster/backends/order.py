"""Kernels that are drawn in this process: whether they come out as they do in a worker.

Workers hash alike, and so does the command line. A Python that imports this package may not: there
the order of a set of strings is another one at every start.
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
from cluster.sampling.task import Outcome, Work, perform

# What has no order of its own, and modules that make nothing of it.
_UNORDERED = {"set", "frozenset", "hash", "vars", "globals", "locals", "dir"}
_ORDERED = {"__future__", "cluster", "numpy", "math", "time", "os", "sys", "numba", "typing"}
_known: set[str] = set()


def hold_to_workers(work: Work, ready: float) -> None:
    """Refuse a kernel that a worker draws otherwise than this process; each is tried once.

    Args:
        work: of the kernel.
        ready: seconds that a worker may take.

    Raises:
        KernelError: a few samples of it came out differently.
    """
    if not sys.flags.hash_randomization or work.source.sha in _known:
        return
    if any(_may_depend(text) for name, text in work.source.files.items() if name.endswith(".py")):
        here, there = probed(perform(*probe(work))), probed(_in_a_worker(work, ready))
        if is_drawn(here) and here != there:
            raise KernelError(
                f"a few samples of {work.source.name} come out differently in this process than in"
                " a worker: it goes by the order of a set or a hash, which PYTHONHASHSEED rules",
                fix="start Python with PYTHONHASHSEED=0, or take the backend processes",
            )
    _known.add(work.source.sha)


def _may_depend(text: str) -> bool:
    """Whether numbers could go by hashes: not where a file has no set, and imports little."""
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


def _in_a_worker(work: Work, ready: float) -> Outcome:
    """The probe, drawn in a process like those of other backends."""
    few, task = probe(work)
    deadline = time.monotonic() + ready
    with selectors.DefaultSelector() as selector:
        slots, given = Slots(replace(local(), slots=1), few, selector, ready), False
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
