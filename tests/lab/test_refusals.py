"""Hosts that cannot be used are refused by name before any block is sent; the doctor says why."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.harness import Lab
from tests.lab.site import Site, await_no_orphans

PACKAGES = "/opt/cluster/venv/lib/python*/site-packages"
KERNEL_WITH_MORE = """
import pytest  # which is here, and not on the hosts
from cluster import Hits

def f(rng, samples):
    return Hits((rng.random(samples) < 0.25).sum(), samples)
"""
# No connection but those of ssh is begun, in either direction.
WALL = "add table inet wall;" + ";".join(
    f"add chain inet wall {way} {{ type filter hook {way} priority 0; }};"
    f"add rule inet wall {way} tcp dport != 22 tcp flags & (syn | ack) == syn drop"
    for way in ("input", "output")
)
KERNEL_OF_A_KIND = """
import os, time
from cluster import Hits

time.sleep(float(os.environ.get("LATE", "0")))

def f(rng, samples):
    time.sleep(0.02)
    if os.environ.get("KIND") == "2":
        import pytest
    return Hits((rng.random(samples) < 0.25).sum() + int(os.environ.get("KIND", "0")), samples)
"""
Trouble = Callable[[Site], str]


def with_other(site: Site, package: str, file: str, text: str) -> None:
    """Give h2 an interpreter that finds a package of another version, and let the spec name it."""
    lines = f"""
        rm -rf /srv/other && mkdir /srv/other && cp -rs {PACKAGES}/{package} /srv/other/ || exit 1
        for libs in {PACKAGES}/{package}.libs; do ln -s "$libs" /srv/other/; done
        rm /srv/other/{package}/{file} && cp {PACKAGES}/{package}/{file} /srv/other/{package}/{file}
        echo '{text}' >>/srv/other/{package}/{file}
        printf '#!/bin/sh\\nPYTHONPATH=/srv/other exec {Lab.python} "$@"\\n' >/srv/python
        chmod +x /srv/python"""
    site.lab.exec("h2", "sh", "-c", lines)
    node(site)["python"] = "/srv/python"


def node(site: Site) -> dict[str, Any]:
    """h2 in the spec."""
    found: dict[str, Any] = site.spec["nodes"][1]
    return found


def another_cluster(site: Site) -> str:
    """A later version of this project."""
    with_other(site, "cluster", "common/version.py", '__version__ = "9.9.9"')
    return r"it differs in cluster:\n +here +h2\ncluster +[\d.]+ +9\.9\.9"


def another_numpy(site: Site) -> str:
    """Another version of numpy."""
    with_other(site, "numpy", "version.py", 'version = __version__ = "1.99.0"')
    return r"it differs in numpy:\n +here +h2\nnumpy +[\d.]+ +1\.99\.0"


def no_python(site: Site) -> str:
    """Nothing at the path that the spec names."""
    node(site)["python"] = "/nowhere/python"
    return r"there is no Python at /nowhere/python \(name the interpreter there"


def no_project(site: Site) -> str:
    """A Python that has not our package."""
    site.lab.exec("h2", Lab.python, "-m", "venv", "--without-pip", "/srv/bare")
    node(site)["python"] = "/srv/bare/bin/python"
    return r"cluster is not installed for its Python \(there: /srv/bare/bin/python -m pip install"


def no_such_name(site: Site) -> str:
    """A name that nobody knows."""
    node(site)["host"] = "no-such-host.invalid"
    return r"no-such-host\.invalid: its name does not resolve \(correct the name"


def no_way_in(site: Site) -> str:
    """A user who would be asked for a password."""
    node(site)["user"] = "guest"
    return r"it does not let us in \(set up a key without a password"


def no_sshd(site: Site) -> str:
    """Nothing listens on the port that the spec names."""
    node(site)["port"] = 2
    return r"nothing answers at its ssh port \(start sshd there"


REFUSED = [
    another_cluster,
    no_python,
    *(
        pytest.param(each, marks=pytest.mark.slow)
        for each in (another_numpy, no_project, no_such_name, no_way_in)
    ),
]


def refused(site: Site, said: str, **environment: str) -> None:
    """A run does not begin for want of that host, and the doctor says why as well."""
    site.write()
    error = site.start(environment=environment).result(69)["error"]
    assert error["message"].startswith("2 of 3 required hosts are ready; missing:\n")
    assert re.search(said, error["message"]), error["message"]
    assert error["fix"] == "mend them, or go on without them: --set nodes.required=2"
    run = site.start("doctor", "spec.yaml", environment=environment)
    (found,) = [
        each for each in run.result(69)["findings"] if each["status"] == "bad" and each["host"]
    ]
    name = node(site)["host"]
    assert (found["check"], found["host"]) == ("host", name)
    assert re.search(said, f"{name}: {found['message']} ({found['fix']})"), found
    await_no_orphans(site.lab)


@pytest.mark.fault(2, 19, 20, 95)
@pytest.mark.parametrize("trouble", REFUSED)
def test_a_host_that_cannot_be_used_is_named_with_the_reason(
    trouble: Trouble, lab: Lab, tmp_path: Path
) -> None:
    """At once, with what to do; nothing is computed on the others."""
    site = Site(tmp_path, lab, "ssh", blocks=10)
    refused(site, trouble(site))


@pytest.mark.fault(94)
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (False, r"its host key is not known here \(connect once by hand"),
        pytest.param(
            True,
            r"its host key is not the one that is known \(find out why",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_host_whose_key_is_not_the_known_one_is_refused(
    changed: bool, said: str, lab: Lab, tmp_path: Path
) -> None:
    """Unknown, or another than before: nobody is asked, and nothing is taken for granted."""
    known = (lab.folder / "known_hosts").read_text().splitlines()
    lines = [line for line in known if not line.startswith("h2,")]
    if changed:
        (own,) = set(known) - set(lines)
        other = next(line for line in lines if line.startswith("h1,"))
        lines.append(own.partition(" ")[0] + " " + other.partition(" ")[2])
    (tmp_path / "known").write_text("\n".join(lines) + "\n")
    settings = lab.ssh_config.read_text().replace(f"{lab.folder}/known_hosts", f"{tmp_path}/known")
    (tmp_path / "config").write_text(settings)
    (site_folder := tmp_path / "site").mkdir()
    site = Site(site_folder, lab, "ssh", blocks=10)
    refused(site, said, CLUSTER_SSH_CONFIG=str(tmp_path / "config"))


def test_a_kernel_that_cannot_be_imported_on_a_host_is_told(lab: Lab, tmp_path: Path) -> None:
    """With the error that it ends with there, and not after a wait."""
    site = Site(tmp_path, lab, "ssh", blocks=10, kernel=KERNEL_WITH_MORE)
    error = site.start().result(69, seconds=25)["error"]
    assert error["message"].startswith("0 of 3 required hosts are ready; missing:\nh1: no worker")
    assert "No module named 'pytest'" in error["message"]
    for host in lab.hosts:
        assert f"(ssh {host} {Lab.python} -m pip install pytest)" in error["message"]
    assert error["fix"] is None


@pytest.mark.slow
@pytest.mark.fault(1)
@pytest.mark.parametrize("trouble", [no_sshd, None])
def test_a_host_that_does_not_answer_is_waited_for_and_then_named(
    trouble: Trouble | None, lab: Lab, tmp_path: Path
) -> None:
    """It might come up within the launch deadline; the doctor tells after one attempt."""
    site = Site(tmp_path, lab, "ssh", blocks=10)
    if trouble is None:
        lab.cut("h2")
    refused(site, trouble(site) if trouble else r"it does not answer \(see whether it is up")


@pytest.mark.slow
@pytest.mark.fault(1)
def test_a_run_goes_on_with_the_hosts_that_are_required(lab: Lab, tmp_path: Path) -> None:
    """The one that is missing is named, on the screen and in the ledger."""
    site = Site(tmp_path, lab, "ssh", blocks=60)
    said = another_cluster(site)
    site.spec["nodes"] = {"hosts": site.spec["nodes"], "required": 2}
    site.write()
    run = site.start()
    result = run.result()
    assert (result["state"], result["digest"]) == ("done", site.digest)
    assert re.search("h2: 0 slots, it differs in cluster", run.told)
    assert any(re.search(f"h2: 0 slots: {said}", line) for line in site.events())
    samples = {row["node"]: row["samples"] for row in result["nodes"]}
    assert samples["h2"] == 0
    assert samples["h1"] > 0 < samples["h3"]
    findings = site.start("doctor", "spec.yaml").result(1)["findings"]
    assert findings[-1] == {
        "check": "hosts",
        "status": "ok",
        "message": "2 of 3 can be used",
        "fix": None,
        "host": None,
    }


@pytest.mark.fault(1)
def test_a_run_does_not_begin_with_fewer_hosts_than_are_required(lab: Lab, tmp_path: Path) -> None:
    """Who is missing is said, and with which number it would go on."""
    site = Site(tmp_path, lab, "ssh", blocks=10)
    for each in site.spec["nodes"][1:]:
        each["python"] = "/nowhere/python"
    site.spec["nodes"] = {"hosts": site.spec["nodes"], "required": 2}
    site.write()
    error = site.start().result(69)["error"]
    assert error["message"].startswith("1 of 2 required hosts are ready; missing:\nh2: there is no")
    assert "\nh3: there is no Python at /nowhere/python" in error["message"]
    assert error["fix"].endswith("--set nodes.required=1")
    result = site.run("submit", "spec.yaml", "--set", "nodes.required=1")
    assert (result["state"], result["digest"]) == ("done", site.digest)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("late", "required"), [("h3", 1), ("h2", 1), ("h3", 2), ("h2", 2), ("", 1)]
)
def test_a_host_that_counts_wrongly_is_not_believed_whenever_it_comes(
    late: str, required: int, backend: str, lab: Lab, tmp_path: Path
) -> None:
    """It is refused, for what this machine drew; where all are required the run does not begin."""
    site = Site(
        tmp_path,
        lab,
        backend,
        blocks=200,
        nap=0.01,
        kernel=KERNEL_OF_A_KIND,
        slots=dict.fromkeys(("h2", "h3"), 1),
    )
    for each in site.spec["nodes"]:
        host = each["host"]
        each["env"] |= {"KIND": str(int(host == "h2")), "LATE": str(1.5 * (host == late))}
    site.spec["nodes"] = {"hosts": site.spec["nodes"], "required": required}
    site.write()
    run = site.start()
    said = "a few samples of the kernel came out differently there than here (another type of CPU"
    if required > 1:
        assert f"h2: {said}" in run.result(69)["error"]["message"]
        return
    result = run.result()
    assert (result["state"], result["digest"]) == ("done", site.digest)
    assert f"h2: 0 slots, {said}" in run.told
    assert {row["node"]: row["samples"] for row in result["nodes"]}["h2"] == 0


@pytest.mark.slow
def test_a_host_without_a_module_of_the_kernel_is_refused_with_the_line_that_installs_it(
    lab: Lab, tmp_path: Path
) -> None:
    """By name; the run goes on with the others, and the doctor does not say that all is well."""
    site = Site(tmp_path, lab, "ssh", blocks=60, kernel=KERNEL_OF_A_KIND)
    node(site)["env"]["KIND"] = "2"
    site.spec["nodes"] = {"hosts": site.spec["nodes"], "required": 2}
    site.write()
    run = site.start()
    result = run.result()
    assert (result["state"], result["digest"], result["failures"]) == ("done", site.digest, [])
    said = "the kernel needs the module pytest, which is missing there"
    line = f"ssh h2 {Lab.python} -m pip install pytest"
    assert f"h2: 0 slots, {said} ({line})" in run.told
    found = site.start("doctor", "spec.yaml").result(1)["findings"]
    (bad,) = [each for each in found if each["status"] == "bad"]
    assert (bad["host"], bad["message"], bad["fix"]) == ("h2", said, line)
    probed = [each["host"] for each in found if "the kernel's probe runs" in each["message"]]
    assert probed == ["h1", "h3"]


@pytest.mark.slow
def test_a_resume_is_held_to_what_the_first_host_of_the_run_drew(lab: Lab, tmp_path: Path) -> None:
    """A host on which the kernel comes out differently is refused, though it is the only one."""
    site = Site(tmp_path, lab, "ssh", blocks=300, slots={"h1": 1}, kernel=KERNEL_OF_A_KIND)
    run = site.start()
    run.await_words("h1: 1 slot")
    time.sleep(1)
    run.process.send_signal(signal.SIGINT)
    begun = run.result(130)
    site.spec["nodes"][0].update(host="h2", env={"KIND": "1"})
    site.write()
    error = site.start("submit", "spec.yaml", "--resume").result(69)["error"]
    said = "h2: a few samples of the kernel came out differently there than where the run was begun"
    assert said in error["message"]
    site.spec["nodes"][0]["env"] = {}
    site.write()
    result = site.run("submit", "spec.yaml", "--resume")
    assert (result["run"], result["state"]) == (begun["run"], "done")
    assert 0 < begun["samples"] < result["samples"]


@pytest.mark.slow
@pytest.mark.fault(84)
def test_a_run_tells_of_one_machine_under_two_names(lab: Lab, tmp_path: Path) -> None:
    """Whose slots are more than its cores; nothing is said of hosts of their own."""
    site = Site(tmp_path, lab, "ssh", blocks=40)
    for each in site.spec["nodes"]:
        each["slots"] = 1
    node(site)["slots"] = 64
    site.spec["nodes"][2].update(host=lab.hosts["h2"])
    site.write()
    result = site.run("submit", "spec.yaml")
    assert result["state"] == "done"
    told = {e["node"]: e["text"] for e in result["events"] if "same machine" in e["text"]}
    assert told
    assert told.keys() <= {"h2", lab.hosts["h2"]}
    assert all(
        f"the same machine as {name}" in " ".join(told.values())
        for name in {"h2", lab.hosts["h2"]} - told.keys()
    )


@pytest.mark.fault(22, 84)
def test_the_doctor_finds_one_machine_under_two_names_and_too_many_slots(
    lab: Lab, tmp_path: Path
) -> None:
    """By machine-id; slots and threads are counted against the cores."""
    site = Site(tmp_path, lab, "ssh", blocks=10)
    node(site)["slots"] = 64
    site.spec["nodes"][2].update(host=lab.hosts["h2"], env={"OMP_NUM_THREADS": "64"})
    site.write()
    found = site.start("doctor", "spec.yaml").result()["findings"]
    warned = {each["check"]: each for each in found if each["status"] == "warn"}
    assert warned["machine"]["message"].startswith(f"h2 and {lab.hosts['h2']} have the machine-id")
    assert warned["cores"]["host"] == "h2"
    assert "64 slots on " in warned["cores"]["message"]
    assert "OMP_NUM_THREADS=64 in each of 1 slots" in warned["threads"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend", ["mpi", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dispy", "scoop"))]
)
def test_the_doctor_tries_the_connections_that_an_engine_makes(
    backend: str, lab: Lab, tmp_path: Path
) -> None:
    """A firewall on one host that lets in and out nothing but ssh is found."""
    site = Site(tmp_path, lab, backend, blocks=10)
    well = site.start("doctor", "spec.yaml").result()["findings"]
    assert {each["status"] for each in well if each["check"] == "ports"} == {"ok"}
    lab.exec("h2", "nft", WALL)
    try:
        found = site.start("doctor", "spec.yaml").result(69)["findings"]
    finally:
        lab.exec("h2", "nft", "delete table inet wall")
    bad = {each["host"]: each["message"] for each in found if each["status"] == "bad"}
    assert f"cannot reach us at {lab.dispatcher}: timed out" in bad["h2"]
    assert ("cannot be reached at" in bad["h2"]) == (backend != "scoop")
