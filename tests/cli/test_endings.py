"""How a command can end: its exit code, its state, and one document in every case."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from tests.cli.shell import (
    arguments,
    ask,
    cluster,
    counted,
    ended,
    interrupted,
    newest,
    only_document,
    spec,
    started,
    wait_for,
)

BACKENDS = ["serial", "threads", "processes"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_done_is_0_whatever_the_kernel_prints(backend: str, tmp_path: Path) -> None:
    """A kernel's own output never reaches stdout, which is data."""
    path = spec(tmp_path, "loud", backend=backend)
    result = ask("submit", path, cwd=tmp_path)
    assert (result["state"], result["stopped_by"], result["samples"]) == ("done", "samples", 40_000)


@pytest.mark.fault(14)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_kernel_that_raises_is_1(backend: str, tmp_path: Path) -> None:
    """The failure has its block and traceback, and the report says how to try it here."""
    path = spec(tmp_path, "breaks", backend=backend)
    process = cluster("submit", path, "--store", "other store", cwd=tmp_path)
    assert process.returncode == 1
    assert "out of cheese" in process.stderr
    assert process.stdout.count("Traceback") == 1
    run = ask("ls", "--store", "other store", cwd=tmp_path)[0]["run"]
    place = "--store 'other store'"
    assert f"cluster repro {run} --block 3 {place}" in process.stdout
    assert f" submit {path} {place}; a resume repeats the kernel" in process.stdout
    result = ask("show", run, "--store", "other store", cwd=tmp_path)
    assert f"cluster resume {run} {place}" in result["resume"]
    assert (result["state"], result["failures"][0]["block"]) == ("failed", 3)


def test_a_kernel_that_returns_no_tally_is_1(tmp_path: Path) -> None:
    """The message says what came and what may come."""
    result = ask("submit", spec(tmp_path, "other", backend="threads"), cwd=tmp_path, code=1)
    assert (result["samples"], result["estimate"], result["digest"]) == (0, None, None)
    assert "returned float, not Hits" in result["failures"][0]["message"]


def test_max_time_is_3_and_a_resume_goes_on(tmp_path: Path) -> None:
    """Everything that was started is counted; a resume draws for that long again."""
    path = spec(tmp_path, "slow", samples=None, until={"max_time": 0.3}, backend="threads")
    result = ask("submit", path, cwd=tmp_path, code=3)
    assert (result["state"], result["stopped_by"], result["drained"]) == (
        "partial",
        "max_time",
        True,
    )
    again = ask("resume", result["run"], cwd=tmp_path, code=3)
    assert again["samples"] > result["samples"] > 0


def test_max_samples_is_3_and_the_command_that_goes_on_works(tmp_path: Path) -> None:
    """A target that was not met in time: what is named is an extend, since a resume has no more."""
    until = {"half_width": 1e-3, "max_samples": 50_000}
    path = spec(tmp_path, samples=None, until=until, backend="threads")
    result = ask("submit", path, cwd=tmp_path, code=3)
    assert (result["state"], result["stopped_by"]) == ("partial", "max_samples")
    assert f"cluster extend {result['run']} --set until.max_samples=" in result["resume"]
    more = ask(*arguments(result["resume"]), cwd=tmp_path, code=3)
    assert (more["samples"], more["run"]) == (100_000, result["run"])


@pytest.mark.fault(1)
def test_a_node_without_a_usable_slot_is_69(tmp_path: Path) -> None:
    """The message says why, once, and nothing is counted."""
    nodes = [{"host": "localhost", "slots": 1, "python": "/nowhere/python"}]
    path = spec(tmp_path, nodes=nodes)
    process = cluster("submit", path, "--json", cwd=tmp_path)
    assert process.returncode == 69
    document = only_document(process.stdout, "error")
    assert "/nowhere/python" in document["error"]["message"]
    assert process.stderr.count("ALARM") == 1
    assert ask("ls", cwd=tmp_path)[0]["state"] == "interrupted"


@pytest.mark.fault(46)
@pytest.mark.parametrize("verb", ["submit", "ls", "show", "doctor"])
def test_a_store_that_cannot_be_is_74(verb: str, tmp_path: Path) -> None:
    """A file stands where the folder should be; doctor tells it as a finding instead."""
    path = spec(tmp_path)
    arguments: list[object] = [path] if verb == "submit" else ["run"] if verb == "show" else []
    process = cluster(verb, *arguments, "--store", "kernels.py", "--json", cwd=tmp_path)
    if verb == "doctor":
        findings = only_document(process.stdout, "doctor")["findings"]
        bad = [finding["check"] for finding in findings if finding["status"] == "bad"]
        assert (process.returncode, bad) == (1, ["store"])
        return
    assert process.returncode == 74
    assert "kernels.py" in str(only_document(process.stdout, "error")["error"])


def test_no_store_is_told_with_the_way_to_one(tmp_path: Path) -> None:
    """Looking makes nothing."""
    process = cluster("ls", cwd=tmp_path)
    assert (process.returncode, process.stdout) == (74, "")
    assert "submit" in process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(48)
def test_a_run_that_is_held_is_75(tmp_path: Path) -> None:
    """The message names the process that holds it."""
    path = spec(tmp_path, backend="threads")
    run = ask("submit", path, cwd=tmp_path)["run"]
    lock = os.open(tmp_path / "runs" / "locks" / run, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    for verb, more in (("resume", []), ("extend", ["--samples", "1e5"])):
        process = cluster(verb, run, *more, "--json", cwd=tmp_path)
        assert process.returncode == 75
        assert run in only_document(process.stdout, "error")["error"]["message"]
    os.close(lock)
    assert ask("resume", run, cwd=tmp_path)["state"] == "done"


@pytest.mark.fault(38, 39)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_drains_and_a_resume_ends_as_an_unbroken_run(
    number: int, code: int, tmp_path: Path, unbroken: str
) -> None:
    """What was started is counted, the command that goes on is named, and it works."""
    path = spec(tmp_path, "slow")
    process = started("submit", path, "--json", cwd=tmp_path)
    wait_for(lambda: counted(tmp_path))
    got, out, err = ended(process, number)
    assert got == code, err
    result = only_document(out, "submit")
    name = signal.Signals(number).name
    assert (result["state"], result["stopped_by"], result["drained"]) == (
        "interrupted",
        name,
        True,
    )
    assert name in err
    assert 0 < result["samples"] < 40_000
    resumed = ask(*arguments(result["resume"]), cwd=tmp_path)
    assert resumed["digest"] == unbroken
    assert (resumed["run"], resumed["resume"]) == (result["run"], None)


@pytest.mark.fault(38)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_sigint_stops_at_once(backend: str, tmp_path: Path) -> None:
    """Blocks that were started are named, what was counted is safe, and stdout is one document."""
    path = spec(tmp_path, "slow", params={"pause": 2}, backend=backend)
    process = started("submit", path, "--json", cwd=tmp_path)
    wait_for((tmp_path / "begun").exists)
    got, out, err = ended(process, signal.SIGINT, signal.SIGINT)
    assert got == 130, err
    result = only_document(out, "submit")
    assert (result["state"], result["stopped_by"]) == ("interrupted", "SIGINT")
    assert "Traceback" not in err


@pytest.mark.parametrize("verb", ["plan", "repro"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_verb_that_has_nothing_to_drain(
    verb: str, number: int, code: int, tmp_path: Path
) -> None:
    """Also where the kernel runs in the same process, which must not take it for its own error."""
    path = spec(tmp_path, "slow", params={"pause": 20}, backend="serial")
    run = interrupted_at_once(path, tmp_path) if verb == "repro" else ""
    arguments: list[object] = [path] if verb == "plan" else [run, "--block", 0]
    process = started(verb, *arguments, "--json", cwd=tmp_path)
    wait_for((tmp_path / "begun").exists)
    got, out, err = ended(process, number)
    assert got == code, err
    name = signal.Signals(number).name
    assert name in only_document(out, "error")["error"]["message"]


@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_the_plan_of_a_kernel_that_hangs_ends(backend: str, tmp_path: Path) -> None:
    """After retry.timeout, and says which block had no answer; nothing of it is left."""
    changes = {"params": {"pause": 60}, "retry": {"timeout": 1}}
    path = spec(tmp_path, "slow", backend=backend, **changes)
    done = cluster("plan", path, "--json", cwd=tmp_path)
    assert done.returncode == 69, done.stderr
    error = only_document(done.stdout, "error")["error"]
    assert error["message"].startswith("the kernel hangs: block 0 had no answer within")


def interrupted_at_once(path: Path, cwd: Path) -> str:
    """A run that was stopped in its first block."""
    process = started("submit", path, "--quiet", cwd=cwd)
    wait_for((cwd / "begun").exists)
    ended(process, signal.SIGINT, signal.SIGINT)
    (cwd / "begun").unlink()
    run = newest(cwd)
    assert run
    return run


@pytest.mark.fault(37)
def test_kill_9_and_resume_is_an_unbroken_run(tmp_path: Path, unbroken: str) -> None:
    """The state is interrupted, nobody holds the run, and the digest is that of a fresh one."""
    path = spec(tmp_path, "slow")
    run = interrupted(path, cwd=tmp_path)
    shown = ask("show", run, cwd=tmp_path)
    assert (shown["state"], shown["stopped_by"], shown["drained"]) == ("interrupted", None, None)
    assert ask("status", run, cwd=tmp_path)["holder"] is None
    assert "cluster resume" in cluster("show", run, cwd=tmp_path).stdout
    assert ask("resume", run, cwd=tmp_path)["digest"] == unbroken


def test_a_signal_before_anything_began_is_one_document(tmp_path: Path) -> None:
    """Python's own words for a Ctrl-C while it imports are no answer."""
    process = started("ls", "--json", cwd=tmp_path)
    wait_for(lambda: process.poll() is not None or caught(process.pid, signal.SIGTERM))
    got, out, err = ended(process, signal.SIGTERM)
    if got == 74:  # it was quicker than we
        return
    assert got == 143
    only_document(out, "error")
    assert "Traceback" not in err


def caught(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) & (1 << (number - 1)))
