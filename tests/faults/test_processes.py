"""Signals to whole trees of processes, and disks that fail under a real run."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.hosts.process_tree import is_alive
from tests.cli.shell import COMMAND, ROOT, ask, environment, spec
from tests.conftest import need
from tests.faults.battery import LOG, SAMPLES, Dispatcher, Site, wait_until_gone
from tests.ledger.stores import remount, small_disk

FORKS = f"""
import os, time
from cluster import Hits

def told(pid):
    log = os.open(os.environ["{LOG}"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log, f"{{pid}} begins\\n".encode())
    os.close(log)

def f(stream, samples):
    child = os.fork()
    if not child:
        if not os.fork():
            told(os.getpid())
        time.sleep(60)
    told(child)
    told(os.getpid())
    time.sleep(60)
"""


def wait_in_the_middle(site: Site, dispatcher: Dispatcher) -> None:
    """Until some blocks are counted, and a worker waits at a later one, until it is released."""
    site.hold(12)
    assert dispatcher.wait_for(lambda: site.rows() and site.waiting())


@pytest.mark.fault(17, 37)
def test_nothing_outlives_a_killed_dispatcher(tmp_path: Path) -> None:
    """Kill -9: its workers, and what their kernels forked, and what that forked, die with it."""
    site = Site(tmp_path)
    (tmp_path / "kernel.py").write_text(FORKS)
    dispatcher = site.submit()
    assert dispatcher.wait_for(lambda: len(site.drawing()) >= 6)
    grown = site.drawing() | dispatcher.workers()
    assert all(is_alive(pid) for pid in grown)
    dispatcher.process.kill()
    dispatcher.process.communicate()
    wait_until_gone(grown, patience=5)


@pytest.mark.fault(17)
def test_nothing_outlives_a_run_that_is_stopped_at_once(tmp_path: Path) -> None:
    """Two signals: the dispatcher ends what its kernels forked before it ends itself."""
    site = Site(tmp_path)
    (tmp_path / "kernel.py").write_text(FORKS)
    dispatcher = site.submit()
    assert dispatcher.wait_for(lambda: len(site.drawing()) >= 6)
    grown = site.drawing() | dispatcher.workers()
    for _ in range(2):
        dispatcher.process.send_signal(signal.SIGINT)
        time.sleep(1)  # two that come at once count as one
    dispatcher.process.communicate(timeout=20)
    assert dispatcher.process.returncode == 130
    wait_until_gone(grown, patience=5)


@pytest.mark.fault(39)
def test_a_term_to_every_process_of_the_job_drains(tmp_path: Path) -> None:
    """As systemd and Slurm send it: the workers leave it to the dispatcher, and all is counted."""
    site = Site(tmp_path)
    # More than may have been started when it comes.
    dispatcher = site.start("submit", "spec.yaml", "--set", f"samples={10 * SAMPLES}")
    wait_in_the_middle(site, dispatcher)
    for pid in (*dispatcher.workers(), dispatcher.process.pid):
        os.kill(pid, signal.SIGTERM)
    site.release()
    out, err = dispatcher.process.communicate(timeout=20)
    assert dispatcher.process.returncode == 143, err
    assert '"drained": true' in out
    assert '"failures": []' in out
    assert site.go_on().result()["state"] == "done"


@pytest.mark.fault(39)
def test_nohup_keeps_a_run_from_a_hangup(tmp_path: Path) -> None:
    """SIGHUP is ignored where it was ignored at the start; the run goes on to its end."""
    need(shutil.which("nohup"), "nohup (of the GNU core utilities)")
    site = Site(tmp_path, ("nohup", sys.executable, "-m", "cluster"))
    dispatcher = site.submit()
    wait_in_the_middle(site, dispatcher)
    dispatcher.process.send_signal(signal.SIGHUP)
    site.release()
    assert dispatcher.result()["state"] == "done"


@pytest.mark.fault(33)
def test_a_stopped_dispatcher_goes_on_where_it_was(tmp_path: Path) -> None:
    """Longer than a block's timeout: what the workers answered meanwhile is counted."""
    site = Site(tmp_path)
    dispatcher = site.start("submit", "spec.yaml", "--set", "retry.timeout=2s")
    wait_in_the_middle(site, dispatcher)
    dispatcher.process.send_signal(signal.SIGSTOP)
    site.release()
    time.sleep(4)
    dispatcher.process.send_signal(signal.SIGCONT)
    result = dispatcher.result()
    assert (result["state"], result["failures"]) == ("done", [])


@pytest.mark.fault(8)
def test_a_stopped_worker_is_replaced(tmp_path: Path) -> None:
    """Its block's time runs out, it is killed for that, and the block is drawn by another."""
    site = Site(tmp_path)
    whole = site.start("submit", "spec.yaml").result()
    shutil.rmtree(site.store)
    dispatcher = site.start("submit", "spec.yaml", "--set", "retry.timeout=1s")
    wait_in_the_middle(site, dispatcher)
    victim = min(site.waiting())
    os.kill(victim, signal.SIGSTOP)
    site.release()
    result = dispatcher.result()
    assert (result["state"], result["digest"]) == ("done", whole["digest"])
    assert not is_alive(victim)


@pytest.mark.fault(44)
def test_a_run_on_a_full_disk_is_74_with_the_command_that_goes_on(tmp_path: Path) -> None:
    """Nothing acknowledged is lost, and with space again it ends as if nothing had been."""
    unbroken = Site(_made(tmp_path / "unbroken")).submit().result()
    with small_disk(tmp_path / "disk", "size=2m") as disk:
        site = Site(disk)
        dispatcher = site.submit()
        wait_in_the_middle(site, dispatcher)
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            while _written(ballast.fileno()):
                pass
        site.release()
        out, _ = dispatcher.process.communicate(timeout=60)
        assert dispatcher.process.returncode == 74
        assert "free some space" in out
        assert f"cluster resume {site.run()}" in out
        kept = site.rows()
        assert kept
        remount(disk, "size=8m")
        assert site.go_on().result()["digest"] == unbroken["digest"]
        assert kept.items() <= site.rows().items()


@pytest.mark.fault(37, 52)
@pytest.mark.parametrize(
    "write",
    [
        pytest.param(3, marks=pytest.mark.slow),
        9,
        pytest.param(14, marks=pytest.mark.slow),
        "the end",
    ],
)
def test_an_extend_that_was_killed_is_sent_again_and_goes_on(
    tmp_path: Path, write: int | str
) -> None:
    """At whatever write it was killed, and where it had ended already: the digest is one."""
    need(shutil.which("strace"), "strace (apt install strace)")
    path = spec(tmp_path, backend="serial", nodes=None)
    run = ask("submit", path, cwd=tmp_path)["run"]
    calls = "fdatasync,fsync,pwrite64"
    kill = () if write == "the end" else ("-e", f"inject={calls}:signal=KILL:when={write}")
    traced = ["strace", "-o", "/dev/null", "-f", "-e", f"trace={calls}", *kill]
    probe = subprocess.run([*traced[:4], "true"], capture_output=True)
    need(probe.returncode == 0, "the right to trace a process (a container may lack it)")
    extend = ("extend", run, "--samples", "80e3")
    env = environment(PYTHONPATH=str(ROOT))
    subprocess.run([*traced, *COMMAND, *extend], cwd=tmp_path, env=env, capture_output=True)
    again = ask(*extend, cwd=tmp_path)
    assert (again["state"], again["samples"]) == ("done", 80_000)
    fresh = ask("submit", path, "--set", "samples=80e3", cwd=tmp_path)
    assert again["digest"] == fresh["digest"]


@pytest.mark.fault(45)
@pytest.mark.parametrize("when", ["1", "3", "5", "6", "5+"])
def test_a_disk_that_does_not_sync_is_74_and_nothing_is_believed(tmp_path: Path, when: str) -> None:
    """The n-th fsync fails, or all from there on: what could not be synced is not acknowledged.

    The first one is that of the folder in which the store's is made. SQLite itself may do without
    those that follow, which belong to the switch of the journal's mode.
    """
    need(shutil.which("strace"), "strace (apt install strace)")
    fault = f"inject=fsync,fdatasync:error=EIO:when={when}"
    traced = ("strace", "-o", "/dev/null", "-f", "-e", "trace=fsync,fdatasync", "-e", fault)
    probe = subprocess.run([*traced, "true"], capture_output=True)
    need(probe.returncode == 0, "the right to trace a process (a container may lack it)")
    site = Site(tmp_path)
    dispatcher = site.submit(command=(*traced, sys.executable, "-m", "cluster"))
    out, err = dispatcher.process.communicate(timeout=60)
    assert dispatcher.process.returncode == 74 or int(when[0]) < 5, out + err
    assert dispatcher.process.returncode == 0 or re.search("(disk I/O|Input/output) error", out)
    rows = site.rows()
    assert site.go_on().result()["state"] == "done"
    assert rows.items() <= site.rows().items()


@pytest.mark.fault(46)
def test_a_store_that_is_removed_under_a_run_is_74(tmp_path: Path) -> None:
    """``rm -rf`` in the middle: told, instead of a result that no ledger holds."""
    site = Site(tmp_path)
    dispatcher = site.submit()
    wait_in_the_middle(site, dispatcher)
    shutil.rmtree(site.store)
    site.release()
    out, err = dispatcher.process.communicate(timeout=60)
    assert dispatcher.process.returncode == 74, out
    assert "removed" in out
    assert "Traceback" not in err


@pytest.mark.fault(46)
@pytest.mark.parametrize("limit", [16, 24, 32, 48])
def test_too_few_descriptors_are_told_in_one_line(tmp_path: Path, limit: int) -> None:
    """EMFILE wherever it strikes: fewer slots, or an error with a code; never a traceback."""
    site = Site(tmp_path)
    process = subprocess.run(
        [sys.executable, "-m", "cluster", "submit", "spec.yaml", "--set", "nodes=localhost:8"],
        cwd=tmp_path,
        env=site.environment,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )
    assert process.returncode in (0, 69, 74), process.stderr
    assert "Traceback" not in process.stderr
    if process.returncode:
        assert "Too many open files" in process.stderr or "unable to open" in process.stderr


DESCRIPTORS = """
import resource
from cluster import Hits

def f(rng, samples):
    return Hits(resource.getrlimit(resource.RLIMIT_NOFILE)[0], samples)
"""


@pytest.mark.fault(46)
@pytest.mark.parametrize("backend", ["processes", "ssh"])
def test_descriptors_are_taken_as_far_as_they_go(tmp_path: Path, backend: str) -> None:
    """The soft limit is raised, and where the hard one is short there are fewer slots, in words.

    Kernels have the limit that the command was started with: a select() knows no more than 1,023.
    """
    site = Site(tmp_path)
    (tmp_path / "kernel.py").write_text(DESCRIPTORS)
    given = ("--set", f"backend={backend}", "--set", "nodes=localhost:12", "--json")
    process = subprocess.run(
        [sys.executable, "-m", "cluster", "submit", "spec.yaml", *given],
        cwd=tmp_path,
        env=site.environment,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 110)),
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert result["tally"]["hits"] == 40 * result["blocks"]
    assert any(
        re.match(r"[2-9] slots: 12 do not fit: .* 110 files", event["text"])
        for event in result["events"]
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _written(descriptor: int) -> int:
    """Fill a disk to its last byte."""
    for size in (1 << 16, 1 << 10, 1):
        try:
            return os.write(descriptor, bytes(size))
        except OSError:
            continue
    return 0
