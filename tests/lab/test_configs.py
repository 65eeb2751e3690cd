"""Every spec in configs/ for several hosts, run over the lab's as it is shipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import cluster
from cluster.backends.base import TABLE
from tests.conftest import need
from tests.lab.harness import Lab
from tests.lab.site import HOSTED

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
THERE = [path for path in CONFIGS if cluster.load(path).backend in HOSTED]


@pytest.mark.parametrize("path", THERE, ids=lambda path: path.stem)
def test_a_shipped_spec_of_several_hosts_ends_near_its_reference(
    path: Path, lab: Lab, tmp_path: Path
) -> None:
    """Done, on all three hosts, within 4 standard errors."""
    spec = cluster.load(path)
    entry = next(entry for entry in TABLE if entry.name == spec.backend)
    need(entry.usable, f"{entry.name}: {entry.install}")
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "submit", str(path), "--json"],
        cwd=tmp_path, env=lab.environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["state"] == "done"
    assert {node["node"] for node in result["nodes"] if node["samples"]} == {"h1", "h2", "h3"}
    assert abs(result["estimate"] - result["reference"]) < 4 * result["std_error"]
