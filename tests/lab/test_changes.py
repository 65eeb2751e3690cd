"""Hosts that are added and drained while a run goes on, come late, or are set aside."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab.harness import Lab, wait
from tests.lab.site import BLOCK, Site, Submitted, await_no_orphans, pids

TWO = {"h1": 1, "h2": 1}
NAP = 0.03


def site(folder: Path, lab: Lab, backend: str, blocks: int, hosts: str = "", **keys: Any) -> Site:
    """A spec whose hosts have all keys by `defaults`; without `hosts`, they are in a host file."""
    made = Site(folder, lab, backend, blocks, **keys)
    made.spec["nodes"] = {
        **({"hosts": hosts} if hosts else {"file": "hosts.txt"}),
        "defaults": {"python": Lab.python, "env": {"NAP": str(NAP)}},
    }
    made.write()
    return made


def change(run: Submitted, *words: str) -> dict[str, Any]:
    """What `cluster nodes RUN` answers."""
    return run.site.start("nodes", name_of(run), *words).result()


def name_of(run: Submitted) -> str:
    """The id of a run that has begun."""
    words = run.listen().split()
    return words[words.index("run") + 1]


def shares(result: dict[str, Any]) -> dict[str, int]:
    """Counted samples by host."""
    return {node["node"]: node["samples"] for node in result["nodes"]}


def ended(at: Site, run: Submitted, *hosts: str) -> dict[str, Any]:
    """The digest of `serial`, no block lost or doubled, nothing left behind."""
    result = run.result()
    assert (result["state"], result["digest"]) == ("done", at.digest)
    assert sum(shares(result).values()) == result["samples"] == at.blocks * BLOCK
    assert set(shares(result)) == set(hosts)
    await_no_orphans(at.lab)
    return result


@pytest.mark.slow
def test_a_host_is_added_and_another_drained_while_it_runs(
    backend: str, lab: Lab, tmp_path: Path
) -> None:
    """Both are named; what the drained one had is counted, its agent ends, the others go on."""
    at = site(tmp_path, lab, backend, 900, "h[1-2]:1")
    run = at.start()
    run.await_words("h2: 1 slot")
    time.sleep(1.0)
    assert change(run, "--add", "h3:2", "--drain", "h2") == {
        "run": name_of(run),
        "added": ["h3"],
        "drained": ["h2"],
    }
    run.await_words(r"hosts: h3 added; h2 to be drained \(requested\)", 5)
    run.await_words(r"h2: 0 slots, drained", 10)
    wait("the agent's end", lambda: not pids(lab, "h2", "cluster"), 10)
    run.await_words("h3: 2 slots", 20)
    result = ended(at, run, "h1", "h2", "h3")
    assert all(shares(result).values())
    assert {node["node"]: node["slots"] for node in result["nodes"]} == {"h1": 1, "h2": 1, "h3": 2}
    assert result["failures"] == []
    told = at.events()
    assert {"h3: added: requested", "h2: to be drained: requested"} <= set(told)
    assert not any(line.startswith("h2: lost") for line in told)


@pytest.mark.slow
def test_a_drained_host_can_come_back(backend: str, lab: Lab, tmp_path: Path) -> None:
    """Drained and added again, with other slots, it works on."""
    at = site(tmp_path, lab, backend, 800, "h[1-2]:1")
    run = at.start()
    run.await_words("h2: 1 slot")
    change(run, "--drain", "h2")
    run.await_words("h2: 0 slots, drained", 10)
    change(run, "--add", f'{{host: h2, slots: 2, env: {{NAP: "{NAP}"}}}}')
    run.await_words("h2: 2 slots", 20)
    ended(at, run, "h1", "h2")


@pytest.mark.slow
def test_the_host_file_is_read_again_when_it_changes(
    backend: str, lab: Lab, tmp_path: Path
) -> None:
    """New hosts come, gone ones are drained; a broken file is told, and all stays."""
    at = site(tmp_path, lab, backend, 900)
    file = tmp_path / "hosts.txt"
    file.write_text("h1 slots=1\nh2 slots=1\n")
    run = at.start()
    run.await_words("h2: 1 slot")
    file.write_text("h1 slots=1\nh3 slots=many\n")
    run.await_words(r"ALARM: the hosts stay as they are: .*hosts\.txt:2: slots must be", 6)
    file.write_text("h1 slots=1\nh3 slots=1\n")
    run.await_words(r"hosts: h3 added; h2 to be drained \(\S*hosts.txt was changed\)", 6)
    run.await_words(r"h2: 0 slots, drained", 10)
    run.await_words(r"h3: 1 slot", 20)
    ended(at, run, "h1", "h2", "h3")


@pytest.mark.slow
def test_a_host_that_is_down_at_the_start_joins_when_it_is_up(
    backend: str, lab: Lab, tmp_path: Path
) -> None:
    """`nodes.required` lets the run begin without it; it is tried again and again."""
    at = site(tmp_path, lab, backend, 900, "h[1-2]:1")
    at.spec["nodes"]["required"] = 1
    at.write()
    lab.kill("h2")
    run = at.start()
    run.await_words("h1: 1 slot")
    run.await_words("h2: 0 slots, nothing answers at its ssh port", 20)
    time.sleep(3)
    assert run.listen().count("h2:") == 1
    lab.heal("h2")
    run.await_words("h2: 1 slot", 30)
    assert shares(ended(at, run, "h1", "h2"))["h2"] > 0


def test_a_host_without_which_the_run_can_do_is_set_aside(
    backend: str, lab: Lab, tmp_path: Path
) -> None:
    """Its environment makes the kernel raise, though the probe went well."""
    text = """
import os, time
from cluster import Hits

calls = 0

def f(rng, samples):
    global calls
    calls += 1
    time.sleep(float(os.environ.get("NAP", "0")))
    if "BAD" in os.environ and calls > 1:
        raise OSError("a library is broken here")
    return Hits((rng.random(samples) < 0.25).sum(), samples)
"""
    at = Site(tmp_path, lab, backend, 300, NAP, {"h1": 1, "h2": 1, "h3": 1}, text)
    at.spec["nodes"][1]["env"]["BAD"] = "1"
    # An engine that chooses the host itself may send a block to the bad one several times.
    at.spec["retry"] = {"attempts": 20 if backend == "scoop" else 3}
    at.write()
    run = at.start()
    run.await_words("set aside: others did 3 tasks that it had failed", 40)
    result = run.result()
    assert (result["state"], result["digest"]) == ("done", at.digest)
    assert {failure["node"] for failure in result["failures"]} == {"h2"}
    rows = {node["node"]: node for node in result["nodes"]}
    assert rows["h2"]["samples"] == 0
    # It fails faster than others draw; once it is set aside it fails nothing more.
    assert 3 <= rows["h2"]["failures"] == len(result["failures"]) < 40
    assert rows["h2"]["goodput"] == 0
    assert rows["h1"]["goodput"] == rows["h3"]["goodput"] == 1
    assert "h2: set aside: others did 3 tasks that it had failed" in at.events()
    await_no_orphans(lab)
