"""Every spec in configs/ for several hosts, run over the lab's as it is shipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cluster
from cluster.backends.base import TABLE
from tests.backends.engines import HOSTED
from tests.conftest import need
from tests.lab.harness import Lab

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
THERE = [path for path in CONFIGS if cluster.load(path).backend in HOSTED]


@pytest.mark.slow
@pytest.mark.parametrize("path", THERE, ids=lambda path: path.stem)
def test_a_shipped_spec_of_several_hosts_ends_near_its_reference(
    path: Path, lab: Lab, tmp_path: Path
) -> None:
    """Done, on all three hosts, within 4 standard errors."""
    spec = cluster.load(path)
    entry = next(entry for entry in TABLE if entry.name == spec.backend)
    need(entry.usable, f"{entry.name}: {entry.install}")
    result = submitted(lab, tmp_path, str(path))
    assert abs(result["estimate"] - result["reference"]) < 4 * result["std_error"]


@pytest.mark.slow
def test_a_node_file_takes_the_place_of_the_specs_hosts(lab: Lab, tmp_path: Path) -> None:
    """As the README shows it."""
    (tmp_path / "hosts.txt").write_text("h1:2\nh2:1  # the slow one\nh3:1\n")
    python = f"nodes.defaults.python={lab.python}"
    words = ["backend=ssh", f"nodes.file={tmp_path / 'hosts.txt'}", python, "samples=6e8"]
    overrides = [word for override in words for word in ("--set", override)]
    submitted(lab, tmp_path, str(CONFIGS[0].parent / "pi.yaml"), *overrides)


def submitted(lab: Lab, folder: Path, *words: str) -> dict[str, Any]:
    """The result of a run that is done, with samples of all three hosts."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "submit", *words, "--json"],
        cwd=folder,
        env=lab.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["state"] == "done"
    assert {node["node"] for node in result["nodes"] if node["samples"]} == {"h1", "h2", "h3"}
    return result
