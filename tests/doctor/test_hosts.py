"""What the doctor says of hosts, from what was seen there."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.base import TABLE, Entry, Options
from cluster.doctor.diagnosis import diagnosis, exit_code
from cluster.doctor.finding import Finding
from cluster.doctor.hosts import Visit, checkup, findings
from cluster.doctor.there import TokenServer, reached, versions
from cluster.hosts.fingerprint import failed
from cluster.hosts.nodes import Node, NodeList
from cluster.report import text
from cluster.report.layout import plain
from cluster.testing import work_of

SSH, SCOOP, MPI = (
    next(row for row in TABLE if row.name == name) for name in ("ssh", "scoop", "mpi")
)
HELLO = {
    "python": "3.12",
    "numpy": "2.0",
    "cluster": "1.0",
    "cores": 4,
    "interpreter": "/opt/python",
    "machine": "a",
}
ONE, TWO = "localhost", "127.0.0.1"
KERNELS = """
import os
from cluster import Hits
def f(rng, samples):
    return Hits(1, samples)
def g(rng, samples):
    if BROKEN:
        import skimage
    return Hits(2, samples)
"""
FACTS: dict[str, Any] = {
    "cache": "/c",
    "free": 10**10,
    "writable": True,
    "threads": {"OMP_NUM_THREADS": "1"},
    "modules": {"numba": "1.0"},
    "root": False,
    "deaf": "",
    "port": 1,
    "word": "w",
}
WELL = Visit(Node("h1", slots=4), hello=HELLO, clock=(0.001, 0.002), facts=FACTS)


def seen(entry: Entry = SSH, required: int | None = None, **changed: Any) -> list[Finding]:
    """What is found where one thing is other than well."""
    return findings([replace(WELL, **changed)], entry, required)


def troubles(**changed: Any) -> list[Finding]:
    """What is not well, less the summary of all hosts."""
    return [finding for finding in seen(**changed) if finding.status != "ok" and finding.host]


def test_a_host_that_is_well_has_no_trouble() -> None:
    """And the exit code is 0."""
    assert troubles() == []
    assert exit_code(seen()) == 0


@pytest.mark.fault(22, 32)
@pytest.mark.parametrize(
    ("changed", "check", "status", "said"),
    [
        ({"trouble": ("its name does not resolve", "correct it")}, "host", "bad", "not resolve"),
        ({"node": Node("h1", slots=5)}, "cores", "warn", "5 slots on 4 usable cores"),
        ({"clock": (-90.0, 0.2)}, "clock", "warn", "90.000 s behind ours"),
        ({"facts": {}}, "answers", "bad", "no program"),
        ({"facts": FACTS | {"free": 1}}, "disk", "warn", "0.0 GB free"),
        ({"facts": FACTS | {"writable": False}}, "disk", "bad", "/c is not writable"),
        ({"facts": FACTS | {"threads": {"OMP_NUM_THREADS": "2"}}}, "threads", "warn", "4 slots"),
        ({"facts": FACTS | {"modules": {"numba": None}}}, "numba", "warn", "slower"),
        ({"facts": FACTS | {"root": True}}, "user", "warn", "root"),
        ({"facts": FACTS | {"threads": {"OMP_NUM_THREADS": ""}}}, "threads", "warn", "choose"),
        ({"probe": failed("OSError: no disk")}, "host", "bad", "probe failed: OSError: no disk"),
        ({"remark": "here it came out differently"}, "probe", "warn", "differently"),
    ],
)
def test_each_trouble_is_told_with_its_cure(
    changed: dict[str, Any], check: str, status: str, said: str
) -> None:
    """By the host's name."""
    (found,) = troubles(**changed)
    assert (found.check, found.status, found.host) == (check, status, "h1")
    assert said in found.message
    assert found.fix


@pytest.mark.parametrize("probe", ["", failed("OSError"), '{"hits":1}'])
def test_the_probe_is_said_to_run_where_it_was_drawn(probe: str) -> None:
    """Not where it failed, nor where nobody saw it."""
    said = any("the kernel's probe runs" in each.message for each in seen(probe=probe))
    assert said == probe.startswith("{")


@pytest.mark.parametrize(
    ("broken", "said", "fix"),
    [
        (
            'os.environ.get("LACK")',
            "the kernel kernels.py:g needs the module skimage, which is missing there",
            f"{sys.executable} -m pip install scikit-image",
        ),
        ("True", "needs the module skimage", "-m pip install scikit-image"),
    ],
    ids=["on one host", "on all"],
)
def test_a_kernel_that_cannot_run_on_a_host_is_told(
    broken: str, said: str, fix: str, tmp_path: Path
) -> None:
    """Of each kernel of a sweep; on one host, or on all."""
    (tmp_path / "kernels.py").write_text(KERNELS.replace("BROKEN", broken))
    spec = {
        "kernel": "kernels.py:f",
        "samples": 100,
        "block": 10,
        "backend": "ssh",
        "nodes": [{"host": ONE, "slots": 1, "env": {"LACK": "1"}}, {"host": TWO, "slots": 1}],
        "sweep": {"matrix": {"kernel": ["kernels.py:f", "kernels.py:g"]}},
    }
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    found = diagnosis(tmp_path / "spec.yaml", (), tmp_path / "runs")
    hosts = {each.host: each for each in found if each.check == "host"}
    assert hosts[ONE].status == "bad"
    assert said in hosts[ONE].message
    assert fix in (hosts[ONE].fix or "")
    well = broken != "True"
    assert (hosts[TWO].status == "ok") is well
    assert ("the kernel's probe runs" in hosts[TWO].message) is well


def test_a_connection_that_nobody_tried_is_not_said_to_work() -> None:
    """For want of an answer, or of another host to reach."""
    facts = FACTS | {"modules": {"numba": "1", **dict(versions(MPI.needs))}}
    (found,) = troubles(entry=MPI, facts=facts, untried={"from"})
    assert (found.check, found.status) == ("ports", "warn")
    (ports,) = (f for f in seen(MPI, facts=facts, untried={"between"}) if f.check == "ports")
    assert ports.message == "it reaches us, we reach it on free ports"


def test_another_version_of_scoop_is_bad_for_its_backend_refuses_it() -> None:
    """Others work with the version of their neighbours, and are only warned of."""
    facts = FACTS | {"modules": {"numba": "1.0", "scoop": "0.7.1"}}
    (found,) = (each for each in seen(SCOOP, facts=facts) if each.check == "scoop")
    assert (found.status, found.host) == ("bad", "h1")
    facts = FACTS | {"modules": {"numba": "1.0", "mpi4py": "1.0"}}
    (found,) = (each for each in seen(MPI, facts=facts) if each.check == "mpi")
    assert found.status == "warn"


def test_mpi_without_an_mpirun_is_bad_before_any_host_is_visited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the cure, and the exit code of what is wrong."""
    monkeypatch.setenv("CLUSTER_MPIRUN", "/nowhere/mpirun")
    first, *_ = checkup(NodeList((Node("localhost", slots=1),)), work_of(), MPI, Options())
    assert (first.check, first.status) == ("mpirun", "bad")
    assert "/nowhere/mpirun" in first.message
    assert exit_code([first]) == 1


def test_threads_that_fit_the_cores_are_no_trouble() -> None:
    """One slot with four threads on four cores."""
    threads = FACTS | {"threads": {"OMP_NUM_THREADS": "4"}}
    assert troubles(node=Node("h1", slots=1), facts=threads) == []


def test_slots_that_are_left_out_are_the_cores() -> None:
    """Nothing to warn of."""
    assert any("4 usable cores, and as many slots" in f.message for f in seen(node=Node("h1")))


def test_a_clock_is_no_further_off_than_was_measured() -> None:
    """Within half the round trip it is as ours; what may be under a second is no trouble."""
    assert troubles(clock=(5.0, 4.5)) == []
    assert any(f.message == "equal to ours within 0.300 s" for f in seen(clock=(0.2, 0.3)))


@pytest.mark.fault(84)
def test_one_machine_under_two_names_is_named() -> None:
    """By its machine-id."""
    two = [WELL, replace(WELL, node=Node("h2", slots=4))]
    (found,) = [each for each in findings(two, SSH, None) if each.status == "warn"]
    assert found.message.startswith("h1 and h2 have the machine-id a")


def test_what_an_engine_lacks_there_is_told_with_the_command_that_brings_it() -> None:
    """Or that it is another version than here."""
    (found,) = troubles(entry=MPI, facts=FACTS | {"modules": {"numba": "1", "mpi4py": None}})
    assert (found.check, found.status) == ("mpi", "bad")
    assert found.fix == f"there: {MPI.install}"
    (found,) = troubles(entry=MPI, facts=FACTS | {"modules": {"numba": "1", "mpi4py": "0.1"}})
    assert (found.check, found.status) == ("mpi", "warn")
    assert found.message.startswith("mpi4py 0.1, here ")


def test_a_connection_that_is_blocked_is_named_both_ways() -> None:
    """Where to, why, and what to do; for ssh none is needed."""
    blocked = [("from", "10.0.0.9", "timed out"), ("between", "h2", "Connection refused")]
    facts = FACTS | {"modules": {"numba": "1", **dict(versions(MPI.needs))}}
    (found,) = troubles(entry=MPI, facts=facts, blocked=blocked)
    said = "cannot reach us at 10.0.0.9: timed out; cannot reach h2: Connection refused"
    assert (found.check, found.status, found.message) == ("ports", "bad", said)
    assert "let TCP through" in (found.fix or "")
    assert any("opens no port" in each.message for each in seen())


def test_the_exit_code_is_what_a_run_would_come_to() -> None:
    """69 with too few hosts; 1 where one is missed that is not required."""
    lost = replace(WELL, node=Node("h2"), trouble=("gone", "fix it"))
    few = findings([WELL, lost], SSH, None)
    assert exit_code(few) == 69
    assert few[-1].message == "1 of 2 required hosts can be used; missing: h2"
    assert few[-1].fix == "fix them, or continue without them: --set nodes.required=1"
    enough = findings([WELL, lost], SSH, 1)
    assert exit_code(enough) == 1
    assert enough[-1].message == "1 of 2 can be used"


def test_the_page_has_a_part_for_each_host_and_tables_as_they_are() -> None:
    """A difference of versions is a table of several lines below its finding."""
    lost = replace(WELL, node=Node("h2"), trouble=("it differs in numpy:\n       here  h2", "do"))
    document = {"findings": [each.to_json() for each in findings([WELL, lost], SSH, None)]}
    page = plain(text.doctor(document))
    assert "\nh1\n" in page
    assert "✗  host   it differs in numpy; do\n         here  h2\n" in page


def test_a_server_is_recognized_by_its_token() -> None:
    """A server that sends another token, or none, is reported as a problem."""
    server = TokenServer("127.0.0.1")
    place = ("127.0.0.1", server.port, server.token)
    assert reached([place, ("127.0.0.1", server.port, "other")]) == [
        "",
        "something else answers there",
    ]
    server.close()
    assert reached([place]) == ["Connection refused"]
