"""The table of the hosts, on hosts whose numbers are known: sleeping kernels of known lengths."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.lab.harness import Lab
from tests.lab.site import BLOCK, Site

NAPS = {"h1": 0.02, "h2": 0.04, "h3": 0.02}
# What a sleep of this machine, shared by all hosts, may take longer.
SLACK = 1.35
# Seconds that a task and its answer may be on their way, on a machine that others use too.
LOST = 0.3


@pytest.mark.slow
def test_each_number_of_a_host_is_right(backend: str, lab: Lab, tmp_path: Path) -> None:
    """By host: tasks, samples, share, seconds, speed, utilisation, lost, failures, goodput."""
    site = Site(tmp_path, lab, backend, 360, slots={"h1": 2, "h2": 1, "h3": 1})
    for node in site.spec["nodes"]:
        node["env"]["NAP"] = str(NAPS[node["host"]])
    del site.spec["nodes"][2]["slots"]  # then they are the host's cores
    site.write()
    late = {""}
    for store in ("first", "second", "third"):
        # So long that none is given ahead of its need, and none waits in a queue.
        result = site.run("submit", "spec.yaml", "--task-blocks", "20", "--store", store)
        rows = {row["node"]: row for row in result["nodes"]}
        late = {
            host
            for host, row in rows.items()
            if row["lost_s"] >= row["tasks"] * LOST
            or row["busy_s"] >= row["samples"] / BLOCK * NAPS[host] * SLACK + 0.2
        }
        if not late:
            break
    assert not late, "three times in a row, which was no pause of this machine"
    tasks = tasks_of(tmp_path / store)
    assert set(rows) == set(NAPS)
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    assert (rows["h1"]["slots"], rows["h2"]["slots"]) == (2, 1)
    assert rows["h3"]["slots"] == int(lab.exec("h3", "nproc"))
    for host, row in rows.items():
        blocks = row["samples"] // BLOCK
        assert (row["tasks"], blocks) == tasks[host]
        assert row["share"] == pytest.approx(blocks / 360)
        assert row["busy_s"] >= blocks * NAPS[host]
        assert row["cpu_s"] < row["busy_s"] / 2
        assert row["samples_per_s"] == pytest.approx(row["samples"] / row["busy_s"])
        had = row["slots"] * result["wall_s"]
        assert row["utilisation"] == pytest.approx(row["busy_s"] / had)
        assert row["utilisation"] <= 1
        assert row["lost_s"] > 0
        assert (row["failures"], row["goodput"]) == (0, 1)


def tasks_of(store: Path) -> dict[str, tuple[int, int]]:
    """Tasks and blocks by host, as the ledger's rows have them."""
    with sqlite3.connect(store / "ledger.sqlite") as db:
        rows = db.execute("SELECT node, count(*), sum(stop - first) FROM outcome GROUP BY node")
        return {node: (tasks, blocks) for node, tasks, blocks in rows}
