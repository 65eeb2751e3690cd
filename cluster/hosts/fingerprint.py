"""Checks that all hosts draw the same numbers.

Each host reports its fingerprint. Before it sends any block, the dispatcher compares that with its
own, and refuses a host that differs, with a table of the differences.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from cluster.common.version import __version__
from cluster.sampling.streams import Stream
from cluster.sampling.task import PROBE_RUN, Outcome, Task, Work

# The probe is a block that no run reaches, of so few samples that it takes hardly any time.
_PROBE_BLOCK = 1 << 62
_PROBE_SAMPLES = 4096
_DRAWS = 1000
_FAILED = "failed"
_LONGEST_WHY = 300
_MISSING = re.compile(r"ModuleNotFoundError: No module named '(\w+)")
# Why the same blocks, drawn twice on one host, may give different results.
IMPURE = (
    "the kernel draws from something else than its generator"
    " (numpy.random, random, the clock, a set's order)"
)
# How often a probe is repeated after its worker has died.
_AGAIN = 2

# What must be equal, most likely cause of other differences first.
_LABELS = {
    "python": "Python",
    "numpy": "numpy",
    "cluster": "cluster",
    "kernel": "the kernel's text (sha256)",
    "generator": "1,000 draws of numpy's generator (sha256)",
    "counter": "1,000 keys and counters (sha256)",
}


class Mismatch(NamedTuple):
    """One difference between this host and another.

    Attributes:
        what: the property, in words.
        here: its value here.
        there: its value on the other host.
    """

    what: str
    here: str
    there: str


def fingerprint(work: Work) -> dict[str, str]:
    """The properties of this host on which the numbers of a work depend."""
    import numpy

    streams = [Stream(work.seed, work.point, block) for block in range(_DRAWS)]
    drawn = streams[0].generator().random(_DRAWS).tobytes()
    counted = repr([(stream.key, stream.counter) for stream in streams]).encode()
    return {
        "python": "{}.{}".format(*sys.version_info[:2]),
        "numpy": numpy.__version__,
        "cluster": __version__,
        "kernel": work.source.sha,
        "generator": hashlib.sha256(drawn).hexdigest()[:16],
        "counter": hashlib.sha256(counted).hexdigest()[:16],
    }


def differences(here: Mapping[str, str], there: Mapping[str, Any]) -> list[Mismatch]:
    """The differences of another host's fingerprint from this one's."""
    pairs = [(what, here[key], str(there.get(key, "unknown"))) for key, what in _LABELS.items()]
    return [Mismatch(*pair) for pair in pairs if pair[1] != pair[2]]


def is_one_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two agents, by their greetings, are on one machine that has two names."""
    return all(one.get(key) and one[key] == other.get(key) for key in ("machine", "boot"))


def table(name: str, found: list[Mismatch]) -> str:
    """A table of the differences, as text, with a column for here and one for the named host."""
    rows = [("", "here", name), *found]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def probe(work: Work, number: int = 0) -> tuple[Work, Task]:
    """A few samples of a run's own kernel, whose tally must be the same on every host.

    For example, numpy's exp and log may differ between types of CPU.

    Args:
        work: a work of the kernel.
        number: the kernel's number in a sweep of several kernels.

    Returns:
        The work and the task of the probe; the task's id is the negated number.
    """
    run = f"{PROBE_RUN} {number}" if number else PROBE_RUN
    samples = min(work.block, _PROBE_SAMPLES)
    few = Work(run, work.source, work.params, work.seed, work.point, samples)
    return few, Task(-number, _PROBE_BLOCK, _PROBE_BLOCK + 1, 1, 0.0, run)


def probed(outcome: Outcome) -> str:
    """The part of a probe's outcome that is compared: its tally, or how the kernel failed."""
    if outcome.tally is not None:
        return outcome.tally
    fault = outcome.fault
    return failed(f"{fault.type}: {fault.message}" if fault else "")


def failed(why: str) -> str:
    """The result of a probe without a tally: a line with the reason."""
    line = "".join(letter for letter in " ".join(why.split()) if letter.isprintable())
    return f"{_FAILED}: {line[:_LONGEST_WHY]}".rstrip(": ")


def missing_module(words: str) -> str | None:
    """The package whose absence an error message reports; None for any other error."""
    found = _MISSING.search(words)
    return found[1] if found else None


def is_lost(outcome: Outcome, times: int) -> bool:
    """Whether a probe must be repeated because its worker died, before it or while drawing it.

    A death while drawing is repeated a few times at most: the first may have been for lack of
    memory.

    Args:
        outcome: the probe's.
        times: how often it has been repeated.
    """
    kind = outcome.fault.kind if outcome.fault else ""
    return kind == "returned" or (kind == "lost" and times < _AGAIN)


def is_drawn(probe: str) -> bool:
    """Whether a probe has a tally; one that failed is never used as the reference."""
    return not probe.startswith(_FAILED)
