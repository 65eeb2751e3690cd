"""The backend ``dispy``; only the driver and the processes on the hosts import dispy itself."""

from __future__ import annotations

from typing import Any

from cluster.common.engines import Entry, Option

__all__ = ["Engine"]

ENTRY = Entry(
    "dispy",
    "real dispynodes on several hosts, over mutual TLS",
    needs=("dispy", "pycos"),
    install="pip install 'cluster-montecarlo[dispy]'",
    kind="hosted",
    routes=("from", "to"),
    attach=("secret", "network=trusted"),
    node="cluster.backends.dispy.standing:AttachedNode",
    about="How nodes with attach are met; backend dispy.",
    options=(
        Option(
            "secret",
            "secret",
            "Where the secret is that the nodes were started with; needed where sealed.",
        ),
        Option(
            "network",
            "choice",
            "sealed: they are nodes of ours (cluster node), and every connection proves the"
            " secret. trusted: they are stock dispynodes, which run, unencrypted, whatever the"
            " network sends them.",
            "sealed",
            ("sealed", "trusted"),
        ),
    ),
)


def __getattr__(name: str) -> Any:
    # The processes on the hosts import this package too, and do not need the engine.
    if name == "Engine":
        from cluster.backends.dispy.engine import Engine

        return Engine
    raise AttributeError(name)
