"""Batch Monte Carlo computing: one YAML spec, many nodes, one right answer.

``__all__`` is the whole public interface. Names are imported on first use, to keep ``import
cluster`` cheap: a kernel file needs only the tallies, and ``cluster --help`` needs no numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cluster.common.version import __version__

if TYPE_CHECKING:
    from cluster.api import compare, extend, load, plan, resume, runs, show, status, submit
    from cluster.common.errors import ClusterError
    from cluster.dispatch import Stop
    from cluster.report.result import Result
    from cluster.sampling.kernels import kernel
    from cluster.sampling.streams import Stream
    from cluster.sampling.tally import Estimate, Histogram, Hits, Moments

_HOME = {
    "ClusterError": "common.errors",
    "Estimate": "sampling.tally",
    "Histogram": "sampling.tally",
    "Hits": "sampling.tally",
    "Moments": "sampling.tally",
    "Result": "report.result",
    "Stop": "dispatch",
    "Stream": "sampling.streams",
    "compare": "api",
    "extend": "api",
    "kernel": "sampling.kernels",
    "load": "api",
    "plan": "api",
    "resume": "api",
    "runs": "api",
    "show": "api",
    "status": "api",
    "submit": "api",
}

__all__ = [
    "ClusterError",
    "Estimate",
    "Histogram",
    "Hits",
    "Moments",
    "Result",
    "Stop",
    "Stream",
    "__version__",
    "compare",
    "extend",
    "kernel",
    "load",
    "plan",
    "resume",
    "runs",
    "show",
    "status",
    "submit",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562).

    Raises:
        AttributeError: the name is not public.
    """
    try:
        room = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'cluster' has no attribute {name!r}") from None
    value = getattr(import_module(f"cluster.{room}"), name)
    globals()[name] = value
    return value
