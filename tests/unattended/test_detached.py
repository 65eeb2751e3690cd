"""Runs without a terminal: started, watched, waited for and stopped from other shells."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster import api
from cluster.common.errors import ClusterError, Locked
from cluster.hosts.process_tree import born, descendants, is_alive
from cluster.ledger import Ledger, Owner
from cluster.ledger.sessions import note_once
from cluster.unattended.detached import follow, halt
from tests.cli.shell import (
    COMMAND,
    ROOT,
    ask,
    cluster,
    counted,
    ended,
    environment,
    in_terminal,
    only_document,
    screen,
    spec,
    started,
    wait_for,
)


@pytest.fixture(autouse=True)
def _no_run_is_left(tmp_path: Path) -> Iterator[None]:
    """What a test started and did not end is ended, or it would work beside the other tests."""
    yield
    with suppress(ClusterError):
        for run in api.runs(tmp_path / "runs"):
            halt(run.run, tmp_path / "runs", now=True)


def detached(path: Path, *arguments: object, cwd: Path, code: int = 0) -> Any:
    """What ``submit --detach`` answers."""
    process = cluster("submit", path, "--detach", "--json", *arguments, cwd=cwd)
    assert process.returncode == code, process.stderr
    return only_document(process.stdout, "detached" if code in (0, 1, 3) else "error")


def lasting(folder: Path, samples: int = 1_000_000) -> Path:
    """A spec of blocks of a fifth of a second that lasts for minutes, unless samples are few."""
    return spec(folder, "slow", params={"pause": 0.2}, samples=samples)


def holder(run: str, cwd: Path) -> int:
    """The pid of the process that computes a run."""
    owner = api.status(run, cwd / "runs").holder
    assert owner
    return owner.pid


def alone(pid: int) -> bool:
    """Whether a process is the first of a session of its own, without a terminal."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[3] == str(pid) and fields[4] == "0"


def test_it_returns_at_once_and_the_run_ends_as_any_other(tmp_path: Path, unbroken: str) -> None:
    """With its id; its output is in the log, its digest the same."""
    path = spec(tmp_path, "slow")
    begun = time.monotonic()
    told = detached(path, cwd=tmp_path)
    assert time.monotonic() - begun < 10
    assert told["state"] in ("running", "done")  # it lasts a second
    result = ask("wait", told["run"], cwd=tmp_path)
    assert (result["state"], result["digest"]) == ("done", unbroken)
    log = ask("logs", told["run"], cwd=tmp_path)
    assert log["text"].startswith("== ")
    assert f"cluster submit {path}" in log["text"].partition("\n")[0]
    assert result["digest"] in log["text"]
    assert cluster("logs", told["run"], cwd=tmp_path).stdout == log["text"]
    assert Path(tmp_path / log["path"]).stat().st_mode & 0o777 == 0o600


@pytest.mark.fault(52)
def test_it_outlives_its_shell_and_its_terminal(tmp_path: Path) -> None:
    """It is a session of its own: a terminal that is hung up takes nothing of it along."""
    path = lasting(tmp_path)
    command = shlex.join([*COMMAND, "submit", str(path), "--detach", "--json"])
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        line = f"{command} > told; touch ready; sleep 60"
        os.execve("/bin/sh", ["sh", "-c", line], environment(PYTHONPATH=str(ROOT)))
    wait_for((tmp_path / "ready").exists)
    os.killpg(pid, signal.SIGHUP)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGHUP
    run = json.loads((tmp_path / "told").read_text())["run"]
    assert alone(holder(run, tmp_path))
    seen = counted(tmp_path)
    wait_for(lambda: counted(tmp_path) > seen)
    assert ask("status", run, cwd=tmp_path)["state"] == "running"
    ask("stop", run, "--now", cwd=tmp_path)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (["samples=many"], 2, "samples"),
        (["kernel=kernels.py:nope"], 2, "nope"),
        (["nodes=[{host: localhost, slots: 1, python: /no/python}]"], 69, "/no/python"),
    ],
)
def test_an_error_at_once_is_the_submitter_s(
    changes: list[str], code: int, words: str, tmp_path: Path
) -> None:
    """With its own exit code, in words and as a document; nothing is left running."""
    path = spec(tmp_path)
    sets = [word for change in changes for word in ("--set", change)]
    process = cluster("submit", path, "--detach", *sets, cwd=tmp_path)
    assert (process.returncode, process.stdout) == (code, "")
    assert words in process.stderr
    process = cluster("submit", path, "--detach", "--json", *sets, cwd=tmp_path)
    assert process.returncode == code
    document = only_document(process.stdout, "errors" if code == 2 else "error")
    assert words in json.dumps(document)


def test_a_kernel_that_fails_at_once_is_told(tmp_path: Path) -> None:
    """The state is failed, the exit code 1; its traceback is in the log."""
    path = spec(tmp_path, "other")
    told = detached(path, cwd=tmp_path, code=1)
    assert told["state"] == "failed"
    assert "returned float" in ask("logs", told["run"], cwd=tmp_path)["text"]
    assert ask("wait", told["run"], cwd=tmp_path, code=1)["state"] == "failed"


def test_a_mistake_in_the_command_is_told_before_anything_starts(tmp_path: Path) -> None:
    """As without --detach."""
    process = cluster("submit", "--detach", "--json", cwd=tmp_path)
    assert process.returncode == 2
    assert "SPEC" in only_document(process.stdout, "error")["error"]["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_resume_and_extend_detach_too(tmp_path: Path) -> None:
    """Their output follows in the same log."""
    run = ask("submit", spec(tmp_path), cwd=tmp_path)["run"]
    told = ask_detached("extend", run, "--samples", "80_000", cwd=tmp_path)
    assert told["run"] == run
    assert ask("wait", run, cwd=tmp_path)["samples"] == 80_000
    assert ask_detached("resume", run, cwd=tmp_path)["run"] == run
    text = ask("logs", run, cwd=tmp_path)["text"]
    assert [line.split(": ")[1].split()[1] for line in text.splitlines() if line[:3] == "== "] == [
        "extend",
        "resume",
    ]


def ask_detached(verb: str, *arguments: object, cwd: Path) -> Any:
    """The document of a verb with ``--detach``."""
    process = cluster(verb, *arguments, "--detach", "--json", cwd=cwd)
    assert process.returncode == 0, process.stderr
    return only_document(process.stdout, "detached")


def test_watching_shows_progress_and_disturbs_nothing(tmp_path: Path) -> None:
    """Two watch, one is killed, the other sees the end; the run notices neither."""
    run = detached(lasting(tmp_path, 120_000), cwd=tmp_path)["run"]
    first, second = (started("watch", run, cwd=tmp_path) for _ in range(2))
    assert first.stderr
    assert f"run {run} on processes" in first.stderr.readline()
    code, _, _ = ended(first, signal.SIGINT)
    assert code == 130
    code, out, err = ended(second)
    assert code == 0
    assert "of 120 blocks" in err
    assert "digest" in out
    result = ask("show", run, cwd=tmp_path)
    assert (result["state"], result["stopped_by"]) == ("done", "samples")
    assert all(
        "slots: " in event["text"] or "slot: " in event["text"] for event in result["events"]
    )


@pytest.mark.slow
def test_on_a_terminal_watching_is_a_bar(tmp_path: Path) -> None:
    """With a row a node, as for who submitted it; it is gone when the result comes."""
    run = detached(lasting(tmp_path, 60_000), cwd=tmp_path)["run"]
    code, received = in_terminal(["watch", run], tmp_path)
    assert code == 0
    assert "utilisation" in received.partition("digest")[0]
    shown = "\n".join(screen(received))
    assert shown.count("slow:") == 1
    assert "elapsed" not in shown


@pytest.mark.parametrize("verb", ["watch", "wait", "attach"])
def test_what_has_ended_is_answered_at_once(verb: str, tmp_path: Path) -> None:
    """With its result and its exit code."""
    until = {"half_width": 1e-3, "max_samples": 50_000}
    path = spec(tmp_path, samples=None, until=until, backend="threads")
    run = ask("submit", path, cwd=tmp_path, code=3)["run"]
    assert ask(verb, run, cwd=tmp_path, code=3)["state"] == "partial"


def test_stop_drains_however_often_it_is_asked(tmp_path: Path) -> None:
    """What was started is counted, and wait answers 143."""
    path = lasting(tmp_path)
    run = detached(path, cwd=tmp_path)["run"]
    wait_for(lambda: counted(tmp_path))
    waits = started("wait", run, "--json", cwd=tmp_path)
    stops = [started("stop", run, cwd=tmp_path) for _ in range(3)]
    assert [ended(stop)[0] for stop in stops] == [0, 0, 0]
    code, out, _ = ended(waits)
    result = only_document(out, "wait")
    assert (code, result["state"], result["stopped_by"]) == (143, "interrupted", "SIGTERM")
    assert result["drained"]
    assert ask("stop", run, cwd=tmp_path)["state"] == "interrupted"
    asked = [event for event in result["events"] if "asked to drain" in event["text"]]
    assert len(asked) == 1


def test_stop_now_leaves_what_was_started(tmp_path: Path) -> None:
    """A block of a minute is not waited for; no process is left."""
    run = detached(spec(tmp_path, "slow", params={"pause": 60}), cwd=tmp_path)["run"]
    pid = holder(run, tmp_path)
    workers = wait_for(lambda: descendants(pid))
    wait_for((tmp_path / "begun").exists)
    process = cluster("stop", run, "--timeout", "0.2", cwd=tmp_path)
    assert process.returncode == 75
    assert "is draining, and still held by process" in process.stderr
    begun = time.monotonic()
    assert ask("stop", run, "--now", cwd=tmp_path)["state"] == "interrupted"
    assert time.monotonic() - begun < 8
    assert cluster("wait", run, cwd=tmp_path).returncode == 143
    assert ask("show", run, cwd=tmp_path)["drained"] is False
    wait_for(lambda: not any(is_alive(each) for each in {pid, *workers}))


@pytest.mark.slow
def test_stop_now_kills_a_run_that_does_not_heed_it(tmp_path: Path) -> None:
    """One that stands still answers no signal but the last."""
    run = detached(spec(tmp_path, "slow", params={"pause": 60}), cwd=tmp_path)["run"]
    pid = holder(run, tmp_path)
    workers = wait_for(lambda: descendants(pid))
    os.kill(pid, signal.SIGSTOP)
    assert ask("stop", run, "--now", cwd=tmp_path)["state"] == "interrupted"
    wait_for(lambda: not any(is_alive(each) for each in {pid, *workers}))


def test_waiting_has_a_deadline(tmp_path: Path) -> None:
    """75, naming who holds the run."""
    run = detached(spec(tmp_path, "slow", params={"pause": 60}), cwd=tmp_path)["run"]
    with pytest.raises(Locked, match=f"held by process {holder(run, tmp_path)} on"):
        follow(run, tmp_path / "runs", timeout=0.1)
    process = cluster("wait", run, "--timeout", "0.1", "--json", cwd=tmp_path)
    assert process.returncode == 75
    only_document(process.stdout, "error")


@pytest.mark.parametrize("verb", ["wait", "stop"])
def test_a_deadline_that_is_no_number_is_refused(verb: str, tmp_path: Path) -> None:
    """It would never be over, or always."""
    process = cluster(verb, "night", "--timeout", "nan", "--json", cwd=tmp_path)
    assert process.returncode == 2
    error = only_document(process.stdout, "error")["error"]
    assert error["message"] == "--timeout must be a number of seconds, got nan"


def test_attach_passes_ctrl_c_on(tmp_path: Path) -> None:
    """The first one drains the run; attach then shows its result, with its exit code."""
    run = detached(lasting(tmp_path), cwd=tmp_path)["run"]
    process = started("attach", run, cwd=tmp_path)
    assert process.stderr
    process.stderr.readline()
    code, out, err = ended(process, signal.SIGINT)
    assert code == 143, err
    assert "interrupted: SIGTERM" in out
    assert ask("show", run, cwd=tmp_path)["drained"]


@pytest.mark.slow
def test_attach_passes_the_second_ctrl_c_on_too(tmp_path: Path) -> None:
    """A long block is not waited for then."""
    run = detached(spec(tmp_path, "slow", params={"pause": 60}), cwd=tmp_path)["run"]
    wait_for((tmp_path / "begun").exists)
    process = started("attach", run, cwd=tmp_path)
    assert process.stderr
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "asked to drain" in json.dumps(api.show(run, tmp_path / "runs").events))
    code, _, err = ended(process, signal.SIGINT)
    assert code == 143, err
    assert ask("show", run, cwd=tmp_path)["drained"] is False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_attach_goes_and_the_run_stays(number: int, tmp_path: Path) -> None:
    """A closed terminal is no wish to stop."""
    run = detached(lasting(tmp_path), cwd=tmp_path)["run"]
    process = started("attach", run, cwd=tmp_path)
    assert process.stderr
    process.stderr.readline()
    assert ended(process, number)[0] in (-number, 128 + number)
    assert ask("status", run, cwd=tmp_path)["state"] == "running"


def held(store: Path, run: str, owner: Owner) -> int:
    """Hold a run's lock in this process, in somebody's name; the descriptor."""
    path = store / "locks" / run
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, json.dumps(vars(owner)).encode())
    return descriptor


@pytest.mark.parametrize("wrong", ["pid", "host"])
def test_nobody_is_signalled_who_does_not_hold_the_run(wrong: str, tmp_path: Path) -> None:
    """A pid that was used again, and a process of another host: 75, and the bystander lives."""
    run = ask("submit", spec(tmp_path), cwd=tmp_path)["run"]
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        mine = Owner.here()
        host = "elsewhere" if wrong == "host" else mine.host
        begun = born(bystander.pid)
        assert begun
        owner = Owner(host, bystander.pid, mine.since, begun + (wrong == "pid"))
        descriptor = held(tmp_path / "runs", run, owner)
        with pytest.raises(ClusterError, match="out of reach") as caught:
            halt(run, tmp_path / "runs", now=True)
        os.close(descriptor)
        assert caught.value.code == 75
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_run_that_ends_just_before_it_is_signalled_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is gone and its lock free: there is nothing to ask, and that is no failure."""
    run = ask("submit", spec(tmp_path), cwd=tmp_path)["run"]
    ended_process = subprocess.Popen(["true"])
    ended_process.wait()
    mine = Owner.here()
    descriptor = held(tmp_path / "runs", run, Owner(mine.host, ended_process.pid, mine.since, 1))
    look = os.pidfd_open

    def too_late(pid: int) -> int:
        os.close(descriptor)
        return look(pid)

    monkeypatch.setattr(os, "pidfd_open", too_late)
    assert halt(run, tmp_path / "runs") == run


def test_a_wish_is_recorded_once_a_start(tmp_path: Path) -> None:
    """By whoever is first; a later start of the run is not meant."""
    run = ask("submit", spec(tmp_path), cwd=tmp_path)["run"]
    with Ledger(tmp_path / "runs") as ledger:
        row = ledger.run(run)
        begun = time.time()
        assert [note_once(ledger, row, "drain", begun) for _ in range(3)] == [True, False, False]
        assert note_once(ledger, row, "drain", time.time())


def test_a_run_in_a_terminal_has_no_log(tmp_path: Path) -> None:
    """That is told, with where to look instead."""
    run = ask("submit", spec(tmp_path), cwd=tmp_path)["run"]
    process = cluster("logs", run, cwd=tmp_path)
    assert process.returncode == 2
    assert f"cluster show {run}" in process.stderr


@pytest.mark.slow
def test_a_log_goes_with_its_run(tmp_path: Path) -> None:
    """Where gc removes the one, it removes the other."""
    run = detached(spec(tmp_path), cwd=tmp_path)["run"]
    assert ask("wait", run, cwd=tmp_path)["state"] == "done"
    path = Path(ask("logs", run, cwd=tmp_path)["path"])
    assert (tmp_path / path).exists()
    assert ask("gc", "--older-than", "0.1s", "--yes", cwd=tmp_path)["removed"] == [run]
    assert not (tmp_path / path).exists()
