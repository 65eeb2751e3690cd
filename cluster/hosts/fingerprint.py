"""What two hosts must have in common to draw the same numbers.

Each says what it is; the dispatcher compares, before any block is sent, and refuses a host that
differs, by name and with the differences.
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

# A block that no run reaches, and samples that take no time: what is compared is how they come out.
_PROBE_BLOCK = 1 << 62
_PROBE_SAMPLES = 4096
_DRAWS = 1000
_FAILED = "failed"
_LONGEST_WHY = 300
_MISSING = re.compile(r"ModuleNotFoundError: No module named '(\w+)")
# What it means that the same blocks came out differently, drawn twice in one place.
IMPURE = (
    "the kernel draws from something else than its generator"
    " (numpy.random, random, the clock, a set's order)"
)
# So often a probe is drawn again whose worker died in it.
_AGAIN = 2

# What must be equal, in the order in which a person looks for the cause.
_WORDS = {
    "python": "Python",
    "numpy": "numpy",
    "cluster": "cluster",
    "kernel": "the kernel's text (sha256)",
    "generator": "1,000 draws of numpy's generator (sha256)",
    "counter": "1,000 keys and counters (sha256)",
}


class Mismatch(NamedTuple):
    """One thing that is not the same here and there."""

    what: str
    here: str
    there: str


def fingerprint(work: Work) -> dict[str, str]:
    """What this host is, as far as the numbers of a work depend on it."""
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
    """What of a fingerprint differs from ours."""
    pairs = [(words, here[key], str(there.get(key, "not told"))) for key, words in _WORDS.items()]
    return [Mismatch(*pair) for pair in pairs if pair[1] != pair[2]]


def is_one_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two agents are on one machine under two names, by what each says of itself."""
    return all(one.get(key) and one[key] == other.get(key) for key in ("machine", "boot"))


def table(name: str, found: list[Mismatch]) -> str:
    """The differences for people, a line each."""
    rows = [("", "here", name), *found]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def probe(work: Work, number: int = 0) -> tuple[Work, Task]:
    """A few samples of a run's own kernel, whose tally must come out the same on every host.

    numpy's exp and log, for one, may differ between types of CPU.

    Args:
        work: of the kernel.
        number: of the kernel in a sweep of several; its task's id is that number, negative.
    """
    run = f"{PROBE_RUN} {number}" if number else PROBE_RUN
    samples = min(work.block, _PROBE_SAMPLES)
    few = Work(run, work.source, work.params, work.seed, work.point, samples)
    return few, Task(-number, _PROBE_BLOCK, _PROBE_BLOCK + 1, 1, 0.0, run)


def probed(outcome: Outcome) -> str:
    """What is to be compared of a probe: its tally, or how the kernel failed."""
    if outcome.tally is not None:
        return outcome.tally
    fault = outcome.fault
    return failed(f"{fault.type}: {fault.message}" if fault else "")


def failed(why: str) -> str:
    """A probe that did not come out as a tally, and why, in a line."""
    line = "".join(letter for letter in " ".join(why.split()) if letter.isprintable())
    return f"{_FAILED}: {line[:_LONGEST_WHY]}".rstrip(": ")


def missing_module(words: str) -> str | None:
    """The package that a kernel could not import for it is not installed; None: another trouble."""
    found = _MISSING.search(words)
    return found[1] if found else None


def is_lost(outcome: Outcome, times: int) -> bool:
    """Whether a probe is to be drawn again: its worker died, before or in it.

    In it, a few times at most: once may have been for want of memory.

    Args:
        outcome: of the probe.
        times: it was drawn again so often.
    """
    kind = outcome.fault.kind if outcome.fault else ""
    return kind == "returned" or (kind == "lost" and times < _AGAIN)


def is_drawn(probe: str) -> bool:
    """Whether the kernel's probe came out as a tally, to which others may be held later."""
    return not probe.startswith(_FAILED)
