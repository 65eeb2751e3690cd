"""MPICH over several hosts: there its environment is on a shared disk, as on many clusters."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.lab_base import SHARED
from tests.conftest import need
from tests.lab.harness import ROOT, Lab, wait
from tests.lab.site import Site, await_no_orphans, pids

HERE = ROOT / ".venv-mpich"


@pytest.fixture
def there(lab: Lab) -> Iterator[Path]:
    """The environment as the hosts see it, with the project in it and not beside it."""
    need(
        (HERE / "bin" / "mpirun").exists(),
        "MPICH: python -m venv .venv-mpich && .venv-mpich/bin/pip install -e '.[mpich]'",
    )
    copy = lab.folder / "shared" / HERE.name
    leave_out = shutil.ignore_patterns("__pycache__", "pip", "__editable__*")
    shutil.copytree(HERE, copy, symlinks=True, ignore=leave_out)
    (packages,) = copy.glob("lib/python*/site-packages")
    shutil.copytree(ROOT / "cluster", packages / "cluster", ignore=leave_out)
    for script in (copy / "bin").iterdir():
        if script.is_file() and not script.is_symlink() and script.read_bytes()[:2] == b"#!":
            text = script.read_text().replace(str(HERE), str(SHARED / HERE.name))
            script.write_text(text)
    yield SHARED / HERE.name / "bin" / "python"
    shutil.rmtree(copy)


@pytest.mark.slow
def test_a_world_of_mpich_over_two_hosts_has_the_digest_of_serial(
    there: Path, lab: Lab, tmp_path: Path
) -> None:
    """Launched by MPICH's mpirun through our channel; each host draws, and nothing is left."""
    site = Site(tmp_path, lab, "mpi", blocks=600, slots={"h1": 2, "h2": 1})
    for node in site.spec["nodes"]:
        node["python"] = str(there)
    site.write()
    wanted = site.digest
    command = [str(HERE / "bin" / "python"), "-m", "cluster"]
    run = site.start(command=command)
    run.await_words(r"h2: 1 slot")
    wait("MPICH's proxy on h2", lambda: pids(lab, "h2", "hydra_pmi_proxy"))
    result = run.result()
    assert (result["state"], result["digest"]) == ("done", wanted)
    assert {node["node"] for node in result["nodes"] if node["tasks"]} == {"h1", "h2"}
    await_no_orphans(lab)
