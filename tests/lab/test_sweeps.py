"""A sweep over the lab's hosts: agents and workers that draw for several runs, and kernels."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab.harness import Lab
from tests.lab.site import BLOCK, Site, await_no_orphans

SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
SWEPT = """
import os, time
from cluster import Hits

def f(rng, samples, share=0.25):
    time.sleep(float(os.environ.get("NAP", "0")))
    return Hits((rng.random(samples) < share).sum(), samples)

def g(rng, samples, share=0.25):
    return f(rng, samples, share / 2)
"""
MATRIX = {"params.share": SHARES, "kernel": ["kernel.py:f", "kernel.py:g"]}


def swept(folder: Path, lab: Lab, backend: str, blocks: int = 20, **keys: Any) -> Site:
    """A site whose spec is a sweep of twelve points and two kernels."""
    sweep = {"matrix": MATRIX}
    return Site(folder, lab, backend, blocks, kernel=SWEPT, sweep=sweep, **keys)


def digests(document: Any) -> list[str]:
    """Of the points, in their order."""
    return [point["digest"] for point in document["points"]]


def serial(site: Site) -> list[str]:
    """What they must be."""
    words = ["--set", "backend=serial", "--set", "nodes=localhost:1", "--store", "serial"]
    return digests(site.run("submit", "spec.yaml", *words))


def test_a_sweep_over_hosts_has_the_digests_of_serial(
    backend: str, lab: Lab, tmp_path: Path
) -> None:
    """Two kernels, six parameters, one pool; each host has a part, and nothing is left behind."""
    site = swept(tmp_path, lab, backend, nap=0.02)
    result = site.run()
    assert (result["state"], result["points_done"]) == ("done", 12)
    assert digests(result) == serial(site)
    assert {point["kernel"] for point in result["points"]} == {"kernel.py:f", "kernel.py:g"}
    nodes = {node["node"]: node for node in result["nodes"]}
    assert all(nodes[host]["samples"] for host in ("h1", "h2", "h3"))
    assert sum(node["samples"] for node in nodes.values()) == 12 * 20 * BLOCK
    await_no_orphans(lab)


@pytest.mark.slow
@pytest.mark.fault(3, 37)
def test_a_sweep_outlives_a_lost_host_and_a_killed_dispatcher(lab: Lab, tmp_path: Path) -> None:
    """Over ssh: a host is cut off in the middle, then the dispatcher is killed, then it goes on."""
    site = swept(tmp_path, lab, "ssh", blocks=250, nap=0.03)
    run = site.start()
    run.await_words(r"h3: 1 slot")
    time.sleep(1)
    lab.cut("h2")
    run.await_words(r"h2: 0 slots", 12)
    time.sleep(0.5)  # what is told is durable a moment later
    os.kill(run.process.pid, signal.SIGKILL)
    run.end()
    lab.heal("h2")
    result = site.run()
    assert result["state"] == "done"
    assert digests(result) == serial(site)
    assert "h2: 0 slots" in json.dumps([f"{e['node']}: {e['text']}" for e in result["events"]])
    await_no_orphans(lab)


@pytest.mark.slow
def test_the_hosts_of_a_sweep_change_while_it_runs(lab: Lab, tmp_path: Path) -> None:
    """By its name, by one of its points, and by its host file; each point tells of its hosts."""
    at = swept(tmp_path, lab, "ssh", blocks=120)
    at.spec["nodes"] = {
        "file": "hosts.txt",
        "defaults": {"python": lab.python, "env": {"NAP": "0.03"}},
    }
    at.write()
    file = tmp_path / "hosts.txt"
    file.write_text("h1 slots=1\n")
    run = at.start()
    run.await_words("h1: 1 slot")
    answer = at.run("nodes", "hosted", "--add", "h2:2")
    assert (answer["added"], answer["drained"]) == (["h2"], [])
    run.await_words("h2: 2 slots", 20)
    refused = at.start("nodes", "hosted/11", "--drain", "h3").result(2)["error"]
    assert refused["message"] == "h3 is no host of this run"
    file.write_text("h1 slots=1\nh3 slots=1\n")
    run.await_words(r"hosts: h3 added \(\S*hosts.txt was changed\)", 6)
    run.await_words("h3: 1 slot", 20)
    assert at.run("nodes", "hosted/11", "--drain", "h1")["run"].endswith(".11")
    run.await_words("h1: 0 slots, drained", 20)
    result = run.result()
    assert (result["state"], digests(result)) == ("done", serial(at))
    slots = {node["node"]: node["slots"] for node in result["nodes"]}
    assert slots == {"h1": 1, "h2": 2, "h3": 1}
    assert all(node["samples"] and node["utilisation"] for node in result["nodes"])
    assert sum(node["samples"] for node in result["nodes"]) == 12 * 120 * BLOCK
    last = {node["node"]: node["slots"] for node in result["points"][-1]["nodes"]}
    assert last["h2"] == 2
    told = [f"{event['node']}: {event['text']}" for event in result["events"]]
    assert {"h2: added: requested", "h1: to be drained: requested"} <= set(told)
    await_no_orphans(lab)


OF_A_KIND = """
import os, time
from cluster import Hits

def f(rng, samples, share=0.25):
    time.sleep(0.02)
    return Hits((rng.random(samples) < share).sum(), samples)

def g(rng, samples, share=0.25):
    kind = os.environ.get("KIND", "0")
    if kind == "none":
        import no_such_library
    return Hits((rng.random(samples) < share).sum() + int(kind), samples)
"""


@pytest.mark.slow
def test_each_kernel_of_a_sweep_is_probed_on_each_host(lab: Lab, tmp_path: Path) -> None:
    """A host on which a later one comes out differently, or fails, is refused; and by name."""
    sweep = {"matrix": {"kernel": ["kernel.py:f", "kernel.py:g"]}}
    site = Site(tmp_path, lab, "ssh", blocks=200, slots={"h1": 1}, kernel=OF_A_KIND, sweep=sweep)
    run = site.start()
    run.await_words("h1: 1 slot")
    time.sleep(1)
    run.process.send_signal(signal.SIGINT)
    assert sum(point["samples"] for point in run.result(130)["points"]) > 0
    said = {
        "1": "a few samples of the kernel kernel.py:g came out differently there than where the",
        "none": "the kernel kernel.py:g needs the module no_such_library, which is missing there",
    }
    for kind, words in said.items():
        site.spec["nodes"][0].update(host="h2", env={"KIND": kind})
        site.write()
        error = site.start().result(69)["error"]
        assert f"h2: {words}" in error["message"]
    site.spec["nodes"][0]["env"] = {}
    site.write()
    result = site.run("submit", "spec.yaml")
    assert (result["state"], digests(result)) == ("done", serial(site))
    again = site.run("verify", result["points"][1]["run"], "--fraction", "0.1")
    assert (again["differing"], again["unchecked"]) == ([], [])
    # Held to what was drawn where the run was begun: so it is not for chance who is right.
    nodes = json.dumps([{**site.spec["nodes"][0], "env": {"KIND": "1"}}])
    other = ["verify", result["points"][1]["run"], "--set", f"nodes={nodes}"]
    error = site.start(*other).result(69)["error"]
    assert "h2: a few samples of the kernel came out differently" in error["message"]
    await_no_orphans(lab)
