"""Kernels: the decorator that describes one, and the frozen source that a run is made of.

A kernel is a pure function of a stream and a number of samples that returns a tally. A run does
not refer to its file: the text is frozen at submit, and every worker, now or at a resume years
later, compiles that text from a private folder named by its hash.
"""

from __future__ import annotations

from cluster.sampling.kernels.cache import cache_folder
from cluster.sampling.kernels.freeze import differing, freeze, unfound
from cluster.sampling.kernels.importing import refuse_verbs, within
from cluster.sampling.kernels.load import load
from cluster.sampling.kernels.model import (
    DEFAULT_BLOCK,
    Kernel,
    KernelSource,
    ParamError,
    ParamFault,
    Traits,
    kernel,
)
from cluster.sampling.kernels.text import form_of, functions, listing

__all__ = [
    "DEFAULT_BLOCK",
    "Kernel",
    "KernelSource",
    "ParamError",
    "ParamFault",
    "Traits",
    "cache_folder",
    "differing",
    "form_of",
    "freeze",
    "functions",
    "kernel",
    "listing",
    "load",
    "refuse_verbs",
    "unfound",
    "within",
]
