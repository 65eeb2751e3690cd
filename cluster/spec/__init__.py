"""The spec: the YAML file that says what to compute, where, and until when. Immutable once read.

May import ``common``, ``sampling`` and ``hosts``.
"""

from __future__ import annotations

from cluster.spec.loading import hosts_of, is_stream, load, parse, text_of
from cluster.spec.model import Retry, Spec, Until
from cluster.spec.night import Notify, Schedule
from cluster.spec.reference import reference, schema
from cluster.spec.sweep import Sweep

__all__ = [
    "Notify",
    "Retry",
    "Schedule",
    "Spec",
    "Sweep",
    "Until",
    "hosts_of",
    "is_stream",
    "load",
    "parse",
    "reference",
    "schema",
    "text_of",
]
