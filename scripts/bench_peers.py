"""What the engines can do by themselves, without a ledger: no-op tasks over their own pools.

Started as a program, in the way of the engine: ``bench_peers.py mpi|scoop TASKS``. It prints one
JSON document: ``seconds`` from the making of the pool to its end.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def nothing(number: int) -> int:
    """The task."""
    return number


def over_mpi(tasks: int) -> float | None:
    """Seconds of mpi4py.futures; None on the ranks that draw."""
    from mpi4py import MPI
    from mpi4py.futures import MPICommExecutor

    begun = time.perf_counter()
    pool: Any  # typed as an Executor without map
    with MPICommExecutor(MPI.COMM_WORLD, 0) as pool:
        if pool is None:
            return None
        for _ in pool.map(nothing, range(tasks), chunksize=1):
            pass
    return time.perf_counter() - begun


def over_scoop(tasks: int) -> float:
    """Seconds of scoop.futures."""
    from scoop import futures

    begun = time.perf_counter()
    for _ in futures.map(nothing, range(tasks)):
        pass
    return time.perf_counter() - begun


if __name__ == "__main__":
    pool, count = sys.argv[1], int(sys.argv[2])
    spent = over_mpi(count) if pool == "mpi" else over_scoop(count)
    if spent is not None:
        sys.stdout.write(json.dumps({"seconds": spent}) + "\n")
