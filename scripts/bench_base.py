"""What every part of scripts/bench is made of: runs of ours, medians, and ratios to targets."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
PYTHON = sys.executable

NOOP = """
from cluster import Hits

def noop(stream, samples):
    return Hits(1, samples)
"""

# What has missed its target.
missed: list[str] = []


def report(
    what: str, ratio: float, target: float | None, detail: str, *, most: bool = False
) -> None:
    """One line: a ratio against its target; None: there is none, and it is only told."""
    if target is None:
        print(f"told {what}: {ratio:.3g}; {detail}", flush=True)
        return
    met = ratio <= target if most else ratio >= target
    if not met:
        missed.append(what)
    sign = "<=" if most else ">="
    verdict = "ok  " if met else "MISS"
    print(f"{verdict} {what}: {ratio:.3g} (target {sign} {target:g}); {detail}", flush=True)


def median(values: list[float]) -> float:
    """Of the rounds of one figure."""
    return statistics.median(values)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def command(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of one of our commands."""
    whole = [PYTHON, "-m", "cluster", *arguments]
    done = subprocess.run(
        whole, capture_output=True, text=True, cwd=ROOT, check=False, env=environment
    )
    if not done.stdout:
        sys.exit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def submit(
    path: Path,
    *options: str,
    store: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The result of a quiet submit, into a store that is forgotten where none is given."""
    with tempfile.TemporaryDirectory() as passing:
        where = str(store or passing)
        words = ("submit", str(path), "--json", "--quiet", "--store", where, *options)
        result: dict[str, Any] = json.loads(command(*words, environment=environment))
    if result.get("state") != "done":
        sys.exit(f"{' '.join(words)}: {json.dumps(result, indent=1)}")
    return result


@contextmanager
def spec(content: dict[str, Any]) -> Iterator[Path]:
    """A spec in a passing folder; a kernel by its whole path is copied beside it."""
    with tempfile.TemporaryDirectory() as folder:
        file, _, function = content["kernel"].rpartition(":")
        shutil.copy(file, folder)
        path = Path(folder, "spec.yaml")
        path.write_text(json.dumps({**content, "kernel": f"{Path(file).name}:{function}"}))
        yield path


@contextmanager
def noop(blocks: int) -> Iterator[Path]:
    """The spec of a kernel that draws nothing, in blocks of one sample."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "noop.py").write_text(NOOP)
        path = Path(folder, "noop.yaml")
        path.write_text(
            json.dumps({"kernel": "noop.py:noop", "samples": blocks, "block": 1, "seed": 1})
        )
        yield path
