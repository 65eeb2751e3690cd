"""The backend ``scoop``; nothing here imports scoop but the driver and what runs on the hosts."""

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
    # What runs on the hosts is of this package too, must be up soon, and needs no engine.
    if name == "Engine":
        from cluster.backends.scoop.engine import Engine

        return Engine
    raise AttributeError(name)
