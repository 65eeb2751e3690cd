"""The lab of plain `scripts/lab up 3`: whoever calls ssh finds its hosts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.lab import DEFAULT, SSH_FILE
from scripts.lab_base import lock
from tests.conftest import need
from tests.lab.harness import ROOT, Lab, need_lab, own_lab, traces
from tests.lab.site import COMMAND

# A lab of its own has to come up.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def default_lab() -> Iterator[Lab]:
    """The lab of plain `scripts/lab up 3`; one session of tests has it at a time."""
    need_lab()
    # Less than what pytest gives a test, with what it takes to come up.
    with lock(SSH_FILE.parents[1], 180):
        need(not traces(DEFAULT), "the place of the default lab: it stands (scripts/lab down)")
        lab = Lab(DEFAULT)
        try:
            lab.up(3)
            yield lab
        finally:
            lab.down()


def plain(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in the environment of somebody who knows nothing of labs."""
    knows = ("LAB", "CLUSTER_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(knows)}
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=180, check=False
    )


def test_plain_ssh_finds_the_hosts_of_the_default_lab(default_lab: Lab, tmp_path: Path) -> None:
    """With its own key, host keys checked, and nothing of ~/.ssh read or written."""
    done = plain("ssh", "-o", "BatchMode=yes", "h2", "hostname; id -un", cwd=tmp_path)
    assert (done.stdout.split(), done.returncode) == (["h2", "root"], 0)
    said = plain("ssh", "-G", "h3", cwd=tmp_path).stdout.splitlines()
    assert f"userknownhostsfile {default_lab.folder}/known_hosts" in said
    assert "stricthostkeychecking true" in said
    assert f"hostname {default_lab.hosts['h3']}" in said
    assert "hostname h4" in plain("ssh", "-G", "h4", cwd=tmp_path).stdout.splitlines()


def test_a_shipped_spec_runs_on_the_default_lab_without_more(
    default_lab: Lab, tmp_path: Path
) -> None:
    """`scripts/lab up 3 && python -m cluster submit configs/pi-dispy.yaml` is all that it takes."""
    done = plain(*COMMAND, "submit", f"{ROOT}/configs/pi-dispy.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert (result["state"], result["backend"]) == ("done", "dispy")
    assert {node["node"] for node in result["nodes"]} == default_lab.hosts.keys()
    assert all(node["samples"] for node in result["nodes"])


def test_down_of_the_default_lab_takes_its_settings_of_ssh_away(
    default_lab: Lab, tmp_path: Path
) -> None:
    """And `up` brings them back; another lab's `down` leaves them."""
    assert SSH_FILE.exists()
    own_lab("o").down()
    assert SSH_FILE.exists()
    default_lab.down()
    assert not SSH_FILE.exists()
    assert "hostname h1" in plain("ssh", "-G", "h1", cwd=tmp_path).stdout.splitlines()
    default_lab.up(1)
    assert SSH_FILE.read_text().count("HostName") == 1
