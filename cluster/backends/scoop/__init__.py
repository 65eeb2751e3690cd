"""The backend ``scoop``; only the driver and the processes on the hosts import SCOOP itself."""

from __future__ import annotations

from typing import Any

from cluster.common.engines import Entry

__all__ = ["Engine"]

ENTRY = Entry(
    "scoop",
    "SCOOP's futures on several hosts, encrypted by ZeroMQ's CURVE",
    needs=("scoop", "zmq", "greenlet"),
    install="pip install 'cluster-montecarlo[scoop]'",
    kind="hosted",
    routes=("from",),
    exact=True,
)


def __getattr__(name: str) -> Any:
    # The processes on the hosts import this package too; without the engine they start faster.
    if name == "Engine":
        from cluster.backends.scoop.engine import Engine

        return Engine
    raise AttributeError(name)
