"""Kernels: their decorator, their frozen source text, and loading it.

A kernel is a pure function that draws a number of samples from a stream and returns a tally. A
run does not depend on the kernel's file: its text is frozen at submit, and every worker, even at
a resume years later, compiles that text in a private folder named by its hash.
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
