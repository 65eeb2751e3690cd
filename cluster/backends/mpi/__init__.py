"""MPI: tasks travel over one communicator, in worlds that we launch, or in the user's own.

``engine`` launches worlds over the hosts of a spec, by way of ``launcher`` and ``rsh``; what their
ranks do is in ``rank``. ``inside`` is the engine of a process that mpirun or srun has started.
Both stand on ``world``.
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
    """The engine, imported when it is asked for: a rank has no use for it."""
    if name != "Engine":
        raise AttributeError(f"module 'cluster.backends.mpi' has no attribute {name!r}")
    from cluster.backends.mpi.engine import Engine

    return Engine
