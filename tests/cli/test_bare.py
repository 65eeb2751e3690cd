"""Started where little is there: no current folder, no home, no entry for the user."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.backends.mpi.launcher import Launcher
from cluster.backends.mpi.launcher import environment as given
from tests.cli.shell import COMMAND, PATIENCE, ROOT, environment, only_document, spec
from tests.conftest import need

GONE = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
NOBODY = ["unshare", "--user", "--map-user=12345"]


def run(words: Sequence[object], cwd: Path, **env: str | None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env=environment(PYTHONPATH=str(ROOT), **env),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("words", ["", "--help", "--version", "submit --help"])
def test_help_is_given_in_a_folder_that_is_gone(words: str, tmp_path: Path) -> None:
    """Nothing of it is about the folder."""
    done = run(["sh", "-c", GONE, "sh", *COMMAND, *words.split()], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("safe", [None, "1"])
@pytest.mark.parametrize("verb", ["ls", "submit", "schedule --print --cron @daily"])
def test_a_folder_that_is_gone_is_told(verb: str, safe: str | None, tmp_path: Path) -> None:
    """As that, whatever the verb would have looked for in it; also where Python left it out."""
    path = [] if verb == "ls" else [spec(tmp_path)]
    words = ["sh", "-c", GONE, "sh", *COMMAND, *verb.split(), *path]
    done = run(words, tmp_path, PYTHONSAFEPATH=safe)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: the current folder is gone",
        "  cd to a folder that exists",
    ]
    if verb == "ls":
        told = run([*words, "--json"], tmp_path, PYTHONSAFEPATH=safe).stdout
        assert only_document(told, "error")["error"]["message"] == "the current folder is gone"


@pytest.mark.parametrize("backend", ["processes", "ssh"])
def test_a_user_without_an_entry_and_a_home_computes(backend: str, tmp_path: Path) -> None:
    """As in a container that was given any number as its user."""
    need(run([*NOBODY, "true"], tmp_path).returncode == 0, "user namespaces: sysctl or seccomp")
    path = spec(tmp_path, backend=backend, samples=2000)
    bare = {
        "HOME": None,
        "USER": None,
        "LOGNAME": None,
        "XDG_CACHE_HOME": None,
        "CLUSTER_CACHE": None,
        "XDG_CONFIG_HOME": None,
        "XDG_RUNTIME_DIR": None,
    }
    done = run([*NOBODY, *COMMAND, "submit", path, "--json", "-q"], tmp_path, **bare)
    assert done.returncode == 0, done.stderr
    if backend == "ssh":
        return
    seen = run([*NOBODY, *COMMAND, "doctor", "--json"], tmp_path, **bare)
    findings = {each["check"]: each for each in json.loads(seen.stdout)["findings"]}
    assert findings["cache"]["fix"] == "set CLUSTER_CACHE to a folder that you can write"
    removed = run([*NOBODY, *COMMAND, "schedule", path, "--remove", "--json"], tmp_path, **bare)
    assert json.loads(removed.stdout)["removed"] == []
    units = run(
        [*NOBODY, *COMMAND, "schedule", path, "--systemd", "--at", "daily"], tmp_path, **bare
    )
    assert units.stderr.splitlines()[-1] == "  set HOME or XDG_CONFIG_HOME"


INHERITED = {
    "SIGCHLD is ignored": ("ssh", "trap '' CHLD"),
    "all signals are ignored": ("processes", "trap '' PIPE CHLD INT TERM HUP USR1"),
    "the umask keeps us out": ("ssh", "umask 777"),
    "the umask keeps nobody out": ("processes", "umask 000"),
    "few files, low priority": ("processes", "ulimit -n 64; renice -n 19 $$ >&2"),
    "no environment": ("ssh", 'exec env -i PYTHONPATH="$PYTHONPATH" "$@"'),
}


@pytest.mark.parametrize(("backend", "line"), INHERITED.values(), ids=INHERITED)
def test_what_a_parent_left_is_borne(backend: str, line: str, tmp_path: Path) -> None:
    """As cron, systemd, a daemon or a shell may start us; and no file is for others than its owner.

    As a user whom the rights of files bind, where that can be had.
    """
    path = spec(tmp_path, backend=backend, samples=2000)
    bound = NOBODY if run([*NOBODY, "true"], tmp_path).returncode == 0 else []
    words = [*bound, "bash", "-c", f'{line}; exec "$@"', "sh", *COMMAND, "submit", path]
    done = run([*words, "--json", "-q"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert only_document(done.stdout, "submit")["state"] == "done"
    assert {each.stat().st_mode & 0o077 for each in (tmp_path / "runs").rglob("*")} == {0}


def test_mpirun_has_a_home_where_we_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open MPI does not even say its version without; ours is passed on as it is."""
    launcher = Launcher("/bin/mpirun", "openmpi", (5, 0))
    monkeypatch.delenv("HOME", raising=False)
    assert Path(given(launcher, {}, "/rsh")["HOME"]).is_absolute()
    assert given(launcher, {"HOME": "/h"}, "/rsh")["HOME"] == "/h"
