"""What cron and systemd are given: exactly ours, and it works in their bare environment."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import api
from cluster.common.errors import EngineError
from cluster.unattended.schedule.cron import remove
from tests.cli.shell import ROOT, ask, cluster, environment, spec, wait_for
from tests.conftest import need
from tests.unattended.crond import Crond, need_cron

NIGHTLY = "0 22 * * 1-5"


@pytest.fixture
def cron() -> Iterator[Crond]:
    """A crontab that is the test's alone; its daemon does not run unless the test begins it."""
    need_cron()
    with Crond() as crond:
        yield crond


def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose units go into the test's folder."""
    return environment(PYTHONPATH=str(ROOT), XDG_CONFIG_HOME=str(tmp_path / "config"))


def test_print_shows_the_line_and_touches_nothing(cron: Crond, tmp_path: Path) -> None:
    """The crontab is as before, and there is no store."""
    path = spec(tmp_path)
    before = sorted(tmp_path.iterdir())
    done = cron.cluster("schedule", path, "--cron", NIGHTLY, "--print", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{NIGHTLY} {sys.executable} -P -m cluster schedule {path} --start" in done.stdout
    assert cron.crontab() == ""
    assert [p for p in sorted(tmp_path.iterdir()) if p.name != "__pycache__"] == before


def test_the_crontab_gets_our_lines_and_loses_them_again(cron: Crond, tmp_path: Path) -> None:
    """Others stay as they are, a second time changes nothing, and so with taking away."""
    path, others = spec(tmp_path), "MAILTO=me\n# mine\n0 1 * * * /bin/true 50\\% \n"
    cron.run("crontab", "-", cwd=tmp_path, given=others)
    for _ in range(2):
        done = cron.cluster("schedule", path, "--cron", "5 22 * * *", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert cron.cluster("schedule", path, "--cron", NIGHTLY, cwd=tmp_path).returncode == 0
    lines = cron.crontab()
    assert lines.startswith(others)
    assert [line[:12] for line in lines.splitlines() if " --start " in line] == [NIGHTLY]
    for removed in (["cron"], []):
        done = cron.cluster("schedule", path, "--remove", "--json", cwd=tmp_path)
        assert json.loads(done.stdout)["removed"] == removed
        assert cron.crontab() == others


def test_an_empty_crontab_is_taken_away_whole(cron: Crond, tmp_path: Path) -> None:
    """As if there never had been one."""
    path = spec(tmp_path)
    assert cron.cluster("schedule", path, "--cron", "@daily", cwd=tmp_path).returncode == 0
    assert cron.cluster("schedule", path, "--remove", cwd=tmp_path).returncode == 0
    assert "no crontab for root" in cron.run("crontab", "-l", cwd=tmp_path).stderr


@pytest.mark.slow
def test_an_edit_in_between_is_not_lost(cron: Crond, tmp_path: Path) -> None:
    """Of many schedules that are written at once, each one's lines are there in the end."""
    paths = [spec(tmp_path).rename(tmp_path / f"s{number}.yaml") for number in range(6)]
    words = [sys.executable, "-m", "cluster", "schedule"]
    processes = [
        subprocess.Popen(
            cron.words([*words, path, "--cron", NIGHTLY], tmp_path),
            env=environment(PYTHONPATH=str(ROOT)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for path in paths
    ]
    assert [process.wait(60) for process in processes] == [0] * 6
    lines = cron.crontab()
    assert all(str(path) in lines for path in paths)


def test_the_bare_environment_of_cron_is_enough(cron: Crond, tmp_path: Path) -> None:
    """No HOME, two folders in PATH, no terminal, SIGINT ignored: the line runs, from any folder."""
    path = spec(tmp_path, "slow", params={"pause": 0.01}, name="a run: 100%", description="x")
    path = path.rename(tmp_path / "50% of 'it'.yaml")
    path.write_text(path.read_text().replace('name: "a run: 100%"', 'name: "night"'))
    assert cron.cluster("schedule", path, "--cron", "* * * * *", cwd=tmp_path).returncode == 0
    line = next(line for line in cron.crontab().splitlines() if " --start " in line)
    command = line.removeprefix("* * * * * ").replace(r"\%", "%")
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
        capture_output=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and None,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    run = api.runs(tmp_path / "runs")[0]
    assert run.state == "done"
    log = (tmp_path / "runs" / "logs" / f"{run.run}.log").read_text()
    assert "✓ night: 0.2" in log
    (early,) = (tmp_path / "runs" / "logs").glob("schedule-*.log")
    assert f"{run.run}.log" in early.read_text()


def test_what_fails_before_there_is_a_run_is_in_the_schedule_s_log(tmp_path: Path) -> None:
    """A spec that was broken since then."""
    path, log = spec(tmp_path), tmp_path / "log"
    path.write_text("kernel: nothing\n")
    words = ["schedule", path, "--start", "--folder", tmp_path, "--log", log]
    done = cluster(*words, cwd=Path("/"))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    assert "kernel" in log.read_text()


def test_a_start_that_finds_the_run_held_says_by_whom(tmp_path: Path) -> None:
    """In the log, and ends with 75."""
    path, log = spec(tmp_path, "slow", params={"pause": 60}), tmp_path / "log"
    run = json.loads(cluster("submit", path, "--detach", "--json", cwd=tmp_path).stdout)["run"]
    words = ["schedule", path, "--start", "--folder", tmp_path, "--log", log]
    assert cluster(*words, cwd=Path("/")).returncode == 75
    assert f"run {run} is held by process" in log.read_text()
    ask("stop", run, "--now", cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "by which scheduler?"),
        (["--cron", NIGHTLY, "--systemd"], "by which scheduler?"),
        (["--cron", NIGHTLY, "--at", "22:00"], "--at is for systemd"),
        (["--cron", "22:00"], "must be five fields"),
        (["--cron", "0 22 * * *; rm"], "must be five fields"),
        (["--cron", "0 25 * * *", "--print"], "the hour must be from 0 to 23, got '25'"),
        (["--slurm", "--at", "99 99 * * *", "--print"], "the minute must be from 0 to 59"),
        (["--start", "--print"], "--start runs the spec now"),
        (["--systemd"], "--at"),
        (["--systemd", "--slurm"], "by which scheduler?"),
        (["--cron", NIGHTLY, "--sbatch", "time=1"], "need --slurm"),
        (["--slurm", "--parts", "4"], "is for a sweep"),
        (["--slurm", "--sbatch", "signal=B:TERM@9"], "needs sbatch's option signal"),
        (["--slurm", "--at", "22:00"], "must be five fields"),
        (["--systemd", "--at", "a\nb"], "calendar event"),
        (["--cron", NIGHTLY, "--set", "samples=many"], "samples"),
        (["--cron", NIGHTLY, "--set", "kernel=kernels.py:nope"], "nope"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    """With 2, before anything is written."""
    done = cluster("schedule", spec(tmp_path), *arguments, cwd=tmp_path, env=home(tmp_path))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not (tmp_path / "config").exists()
    assert not list(tmp_path.glob("*.sbatch"))


@pytest.mark.parametrize("there", [True, False])
def test_systemd_is_asked_whether_it_knows_a_time(there: bool, tmp_path: Path) -> None:
    """Where it is not, the units are shown as they would be."""
    env = home(tmp_path)
    if there:
        need(shutil.which("systemd-analyze"), "systemd-analyze: apt install systemd")
    else:
        env["PATH"] = "/nonexistent"
    words = ["schedule", spec(tmp_path), "--systemd", "--print", "--at"]
    done = cluster(*words, "garbage", cwd=tmp_path, env=env)
    assert done.returncode == (2 if there else 0), done.stderr
    assert not there or "'garbage'" in done.stderr
    assert cluster(*words, "Mon..Fri 22:00", cwd=tmp_path, env=env).returncode == 0


def test_without_crontab_that_is_told(tmp_path: Path) -> None:
    """With 69, and what to install."""
    env = environment(PYTHONPATH=str(ROOT), PATH="/nonexistent")
    done = cluster("schedule", spec(tmp_path), "--cron", NIGHTLY, cwd=tmp_path, env=env)
    assert done.returncode == 69
    assert "apt install cron" in done.stderr


def test_a_crontab_that_does_not_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an error of the system's, with 69."""
    (tmp_path / "crontab").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "crontab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(EngineError, match=r"crontab -l gave no answer within 0\.5 s") as caught:
        remove("night", tmp_path / "night.yaml", 0.5)
    assert caught.value.code == 69


@pytest.mark.parametrize("folder", ["plain", '50% of $HOME\'s "it" \\ äß'])
def test_systemd_takes_the_units(folder: str, tmp_path: Path) -> None:
    """Its own verifier says so, also where a path has letters that mean something in units."""
    need(shutil.which("systemd-analyze"), "systemd-analyze: apt install systemd")
    place = tmp_path / folder
    place.mkdir()
    path = spec(place, schedule={"window": "22:00-06:00", "timezone": "Europe/Berlin"})
    done = cluster("schedule", path, "--systemd", "--json", cwd=place, env=home(tmp_path))
    made = ask_printed(path, place, tmp_path)
    service, timer = (Path(file["path"]) for file in made["files"])
    if done.returncode:  # the units are there, also where no systemd of the user's answers
        assert "the units are written" in done.stdout
    assert service.read_text() == made["files"][0]["text"]
    assert "OnCalendar=*-*-* 22:00:00 Europe/Berlin\n" in timer.read_text()
    verified = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(service), str(timer)],
        capture_output=True,
        text=True,
        env={**home(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    ours = [line for line in verified.stderr.splitlines() if "cluster-" in line]
    assert (verified.returncode, ours) == (0, [])
    for removed in (["systemd"], []):
        done = cluster("schedule", path, "--remove", "--json", cwd=place, env=home(tmp_path))
        assert json.loads(done.stdout)["removed"] == removed
        assert not service.exists()
        assert not timer.exists()


def ask_printed(path: Path, place: Path, tmp_path: Path) -> dict[str, list[dict[str, str]]]:
    """What would be given to systemd."""
    words = ["schedule", path, "--systemd", "--print", "--json"]
    made: dict[str, list[dict[str, str]]] = json.loads(
        cluster(*words, cwd=place, env=home(tmp_path)).stdout
    )
    return made


@pytest.mark.slow
@pytest.mark.fault(35)
def test_a_real_cron_starts_the_nightly_run(cron: Crond, tmp_path: Path) -> None:
    """Every minute: the first start computes it, the second finds it done."""
    for name in ("configs", "jobs", "cluster"):
        os.symlink(ROOT / name, tmp_path / name)
    path = tmp_path / "configs" / "nightly.yaml"
    always = ["--set", "schedule=null"]
    done = cron.cluster("schedule", path, "--cron", "* * * * *", *always, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cron.begin()

    def starts() -> list[str]:
        text = "".join(log.read_text() for log in tmp_path.glob("runs/logs/schedule-*.log"))
        return [line for line in text.splitlines() if line.startswith("== ")]

    wait_for(lambda: len(starts()) >= 2, seconds=150)
    (run,) = api.runs(tmp_path / "runs")
    wait_for(lambda: api.status(run.run, tmp_path / "runs").state == "done")
    assert shlex.quote(str(path)) in starts()[0]
    assert cron.cluster("schedule", path, "--remove", cwd=tmp_path).returncode == 0
