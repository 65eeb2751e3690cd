"""MPI: tasks travel over one communicator, in worlds that we launch, or in the user's own.

``engine`` launches worlds over the hosts of a spec, with ``launcher``, ``rsh`` and ``fence``;
``rank`` has the main function of their ranks. ``inside`` is the engine of a process that the user's
mpirun or srun has started. Both use ``world``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.common.engines import Entry

if TYPE_CHECKING:
    from cluster.backends.mpi.engine import Engine

__all__ = ["Engine"]

ENTRY = Entry(
    "mpi",
    "one MPI world over several hosts, or the one that mpirun or srun started",
    needs=("mpi4py",),
    install="pip install 'cluster-montecarlo[mpi]'",
    kind="hosted",
    routes=("from", "to", "between"),
)


def __getattr__(name: str) -> object:
    """Import the engine on first use: a rank, which imports this package, does not need it."""
    if name != "Engine":
        raise AttributeError(f"module 'cluster.backends.mpi' has no attribute {name!r}")
    from cluster.backends.mpi.engine import Engine

    return Engine
