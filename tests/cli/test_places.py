"""Where commands are run: beside files of bad names, without a home, after files moved."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.shell import (
    PATIENCE,
    ROOT,
    ask,
    cluster,
    counted,
    ended,
    environment,
    interrupted,
    newest,
    only_document,
    spec,
    started,
    wait_for,
)
from tests.conftest import need


@pytest.mark.fault(50, 51)
@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_a_resume_needs_neither_the_kernel_s_file_nor_the_spec(
    change: str, tmp_path: Path, unbroken: str
) -> None:
    """Both were frozen at submit: the digest is that of the text as it was then."""
    path = spec(tmp_path, "slow")
    run = interrupted(path, cwd=tmp_path)
    for file in (path, tmp_path / "kernels.py"):
        file.unlink() if change == "deleted" else file.write_text("raise SystemExit('edited')\n")
    assert ask("resume", run, cwd=tmp_path)["digest"] == unbroken
    assert ask("repro", run, "--block", 0, cwd=tmp_path)["fault"] is None


@pytest.mark.fault(53)
def test_a_store_that_was_moved_goes_on(tmp_path: Path, unbroken: str) -> None:
    """No path of the old place is in it, and the command that goes on names the new one."""
    path = spec(tmp_path, "slow")
    run = interrupted(path, cwd=tmp_path)
    away = tmp_path / "far away"
    shutil.move(tmp_path / "runs", away / "store")
    shown = ask("show", run, "--store", away / "store", cwd=tmp_path)
    assert shown["resume"].endswith(f"cluster resume {run} --store '{away}/store'")
    resumed = ask("resume", run, "--store", "store", cwd=away)
    assert resumed["digest"] == unbroken


@pytest.mark.fault(104)
@pytest.mark.parametrize("backend", ["serial", "processes"])
def test_files_of_the_working_folder_hide_no_module(backend: str, tmp_path: Path) -> None:
    """Neither random.py and numpy.py nor a cluster/ of somebody's own is imported from there."""
    path = spec(tmp_path, backend=backend)
    trap = "raise SystemExit('imported from the working folder')\n"
    for name in ("random.py", "numpy.py", "json.py", "signal.py", "rich.py", "sitecustomize.py"):
        (tmp_path / name).write_text(trap)
    ask("submit", path, cwd=tmp_path)


@pytest.mark.fault(104)
def test_a_folder_called_cluster_hides_nothing_from_the_command(tmp_path: Path) -> None:
    """Python itself would take it for ``python -m cluster``; the installed command does not."""
    command = Path(sys.executable).parent / "cluster"
    need(command.exists(), "the command is not installed: pip install -e .")
    path = spec(tmp_path)
    (tmp_path / "cluster").mkdir()
    for name in ("__init__.py", "worker.py", "tally.py"):
        (tmp_path / "cluster" / name).write_text("raise SystemExit('imported from here')\n")
    process = subprocess.run(
        [command, "submit", path, "--json"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert process.returncode == 0, process.stderr
    only_document(process.stdout, "submit")


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    "env",
    [
        {"HOME": None, "XDG_CACHE_HOME": None},
        {"XDG_CACHE_HOME": "/proc/nowhere"},
        {"XDG_CACHE_HOME": None, "HOME": "/dev/null"},
    ],
    ids=["no HOME", "unwritable cache", "HOME is a file"],
)
def test_neither_a_home_nor_a_cache_is_needed(env: dict[str, str | None], tmp_path: Path) -> None:
    """From /, with the store elsewhere; compiled code then lives as long as the command."""
    path = spec(tmp_path)
    changed = environment(PYTHONPATH=str(ROOT), CLUSTER_CACHE=None, **env)
    store = tmp_path / "runs"
    process = cluster("submit", path, "--store", store, "--json", cwd=Path("/"), env=changed)
    assert process.returncode == 0, process.stderr
    assert only_document(process.stdout, "submit")["state"] == "done"
    doctor = cluster("doctor", "--store", store, "--json", cwd=Path("/"), env=changed)
    only_document(doctor.stdout, "doctor")


@pytest.mark.fault(99)
def test_a_store_is_for_its_owner(tmp_path: Path) -> None:
    """Whatever the umask says."""
    path = spec(tmp_path, backend="threads")
    before = os.umask(0)
    try:
        ask("submit", path, cwd=tmp_path)
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "runs").rglob("*")}
    assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o700
    assert modes.pop("locks") == 0o700
    assert {mode & 0o077 for mode in modes.values()} == {0}


@pytest.mark.fault(55)
def test_others_look_while_it_runs(tmp_path: Path) -> None:
    """status, show and ls read a run that another process computes; resume is told who has it."""
    path = spec(tmp_path, "held")
    (tmp_path / "hold").touch()
    process = started("submit", path, "--quiet", cwd=tmp_path)
    wait_for(lambda: counted(tmp_path))
    run = newest(tmp_path)
    assert run
    standing = ask("status", run, cwd=tmp_path)
    listed = ask("status", cwd=tmp_path)["runs"]
    shown = ask("show", run, cwd=tmp_path)
    held = cluster("resume", run, "--json", cwd=tmp_path)
    assert process.poll() is None
    (tmp_path / "hold").unlink()
    assert (standing["state"], standing["holder"]["pid"]) == ("running", process.pid)
    assert [row["run"] for row in listed] == [run]
    assert (shown["state"], shown["stopped_by"], shown["resume"]) == ("running", None, None)
    assert 0 < shown["blocks"] < 40
    assert shown["samples"] == shown["tally"]["samples"]
    assert held.returncode == 75
    assert str(process.pid) in only_document(held.stdout, "error")["error"]["message"]
    assert ended(process)[0] == 0
    assert ask("status", run, cwd=tmp_path)["state"] == "done"


@pytest.mark.fault(48)
def test_two_runs_of_one_spec_at_once_are_two_runs(tmp_path: Path) -> None:
    """In one store, with one digest."""
    path = spec(tmp_path, "slow", samples=10_000)
    both = [started("submit", path, "--json", cwd=tmp_path) for _ in range(2)]
    results = [only_document(ended(process)[1], "submit") for process in both]
    assert results[0]["run"] != results[1]["run"]
    assert results[0]["digest"] == results[1]["digest"]
    assert len(ask("ls", cwd=tmp_path)) == 2
