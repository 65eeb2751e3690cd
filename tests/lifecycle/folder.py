"""A folder with a sweep that is sent by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.shell import ask, cluster

KERNEL = """
import os, time
from cluster import Hits, kernel

@kernel(block=64)
def quarter(rng, samples, share=0.25, nap=0.0):
    time.sleep(nap)
    return Hits((rng.random(samples) < share).sum(), samples)

@kernel(block=64)
def held(stream, samples, share=0.25):
    # In the middle of the third point, while there is that file.
    while share == 0.3 and 30 <= stream.block < 1000 and os.path.exists("hold"):
        time.sleep(0.01)
    return quarter(stream.generator(), samples, share, 0.005)

@kernel(block=64)
def half(rng, samples, share=0.25, nap=0.0):
    return Hits((rng.random(samples) < 2 * share).sum(), samples)

@kernel(block=64)
def breaks(rng, samples, share=0.25, nap=0.0):
    if share > 0.5:
        raise ValueError("out of cheese")
    return quarter(rng, samples, share, nap)
"""
SHARES = [0.1, 0.2, 0.3, 0.4, 0.6]


class Folder:
    """A folder with a spec; ``keys`` are put over those of a small sweep.

    Its points are given five shares, unless another sweep is.
    """

    def __init__(self, path: Path, **keys: Any) -> None:
        self.path = path
        (path / "kernel.py").write_text(KERNEL)
        self.spec: dict[str, Any] = {
            "name": "swept",
            "kernel": "kernel.py:quarter",
            "samples": 640,
            "seed": 1,
            "nodes": "localhost:2",
            "sweep": {"matrix": {"params.share": SHARES}},
            **keys,
        }
        self.write()

    def write(self, **keys: Any) -> None:
        """Write the spec as it is now, with some keys changed for good."""
        self.spec.update(keys)
        given = {key: value for key, value in self.spec.items() if value is not None}
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in given.items()]
        (self.path / "s.yaml").write_text("".join(lines))

    def submit(self, *arguments: object, code: int = 0) -> Any:
        """The checked document of a submit."""
        return ask("submit", "s.yaml", *arguments, cwd=self.path, code=code)

    def show(self, *arguments: object) -> Any:
        """The checked document of the sweep as it stands."""
        return ask("show", "swept", *arguments, cwd=self.path)

    def said(self, *arguments: object) -> str:
        """What a command prints."""
        process = cluster(*arguments, cwd=self.path)
        assert process.returncode == 0, process.stderr
        return process.stdout

    def alone(self, *overrides: str) -> str:
        """The digest of one point, submitted alone on `serial`."""
        sets = [
            word
            for text in ("sweep=null", "backend=serial", *overrides)
            for word in ("--set", text)
        ]
        document = ask("submit", "s.yaml", *sets, "--store", "alone", cwd=self.path)
        digest: str = document["digest"]
        return digest


def digests(document: Any) -> list[str | None]:
    """Of a sweep's points, in their order."""
    return [point["digest"] for point in document["points"]]


def tasks(document: Any) -> int:
    """How many tasks were counted for a sweep, over all its starts."""
    return sum(node["tasks"] for node in document["nodes"])
