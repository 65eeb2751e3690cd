"""Runs in several stores: exported, merged, verified, removed; by the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.base import Pause
from cluster.ledger import Counted
from cluster.lifecycle.verify import _Again, verify
from cluster.sampling.task import Task
from tests.cli.shell import ask, cluster, newest, spec
from tests.ledger.stores import damage
from tests.lifecycle.falsified import falsify

# Draws from a generator of its own; numbers of hits would be the same now and then.
IMPURE = """
import numpy as np
from cluster import Moments, kernel

@kernel(block=1000)
def quarter(rng, samples):
    return Moments.of(np.random.default_rng().random(samples))
"""
# Draws its last block only where there is no file of that name.
STALLS = """
import os, time
from cluster import Hits, kernel

@kernel(block=1000)
def quarter(stream, samples):
    time.sleep(60 if stream.block == 39 and os.path.exists("stall") else 0.02)
    return Hits((stream.generator().random(samples) < 0.25).sum(), samples)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run to its end; nobody changes it."""
    folder = tmp_path_factory.mktemp("whole")
    ask("submit", spec(folder, backend="threads"), cwd=folder)
    return folder


def shown(folder: Path, store: str = "runs") -> dict[str, Any]:
    """The result of a store's only run."""
    run = newest(folder, store)
    document: dict[str, Any] = ask("show", run, "--store", store, cwd=folder)
    return document


def shards(folder: Path, *spans: str) -> str:
    """Shards of a run, each computed in a store of its own; the run's id."""
    ask("submit", spec(folder, backend="threads"), cwd=folder)
    run = str(newest(folder))
    for span in spans:
        ask("export", run, "--blocks", span, "--to", span, cwd=folder)
        ask("resume", run, "--store", span, cwd=folder)
    return run


def test_shards_computed_apart_are_one_run_with_the_digest_of_an_unbroken_one(
    whole: Path, tmp_path: Path
) -> None:
    """Three shards, put together in a store that had nothing of the run."""
    shards(tmp_path, "0-9", "10-33", "34-39")
    part = shown(tmp_path, "10-33")
    assert (part["state"], part["blocks"], part["ranges"]) == ("done", 24, [[10, 34]])
    merged = ask("merge", "together", "0-9", "34-39", "10-33", cwd=tmp_path)
    assert [source["taken"] for source in merged["sources"]] == [10, 6, 24]
    result, unbroken = merged["result"], shown(whole)
    assert (result["state"], result["digest"]) == ("done", unbroken["digest"])
    assert result["nodes"][0]["samples"] == 40_000


def test_a_merge_of_some_goes_on_to_the_digest_of_an_unbroken_run(
    whole: Path, tmp_path: Path
) -> None:
    """What is missing is owed, and a resume draws it."""
    run = shards(tmp_path, "5-9", "30-39")
    merged = ask("merge", "together", "5-9", "30-39", cwd=tmp_path)
    assert (merged["result"]["state"], merged["result"]["blocks"]) == ("interrupted", 15)
    done = ask("resume", run, "--store", "together", cwd=tmp_path)
    assert done["digest"] == shown(whole)["digest"]


def test_a_shard_is_taken_back_into_a_run_that_is_there(whole: Path, tmp_path: Path) -> None:
    """A run is made of the first shard, and goes on with the second."""
    run = shards(tmp_path, "0-9", "10-39")
    assert ask("merge", "kept", "0-9", cwd=tmp_path)["result"]["blocks"] == 10
    done = ask("merge", f"kept/{run}", "10-39", cwd=tmp_path)["result"]
    assert (done["state"], done["digest"]) == ("done", shown(whole)["digest"])


def test_what_is_counted_twice_is_refused_or_compared(whole: Path, tmp_path: Path) -> None:
    """Refused without --verify, and nothing is made; compared with it, and counted once."""
    shards(tmp_path, "0-19", "10-39")
    refused = ask("merge", "together", "0-19", "10-39", cwd=tmp_path, code=2)["error"]
    assert "counted in another of these, too; nothing was merged" in refused["message"]
    assert "--verify" in refused["fix"]
    assert not (tmp_path / "together").exists()
    merged = ask("merge", "together", "0-19", "10-39", "--verify", cwd=tmp_path)
    second = merged["sources"][1]
    assert second["differing"] == []
    assert second["equal"] + second["unchecked"] + second["taken"] == 30
    done = ask("resume", merged["result"]["run"], "--store", "together", cwd=tmp_path)
    assert done["digest"] == shown(whole)["digest"]


def test_a_source_that_differs_is_named_and_left_out(tmp_path: Path, whole: Path) -> None:
    """The same blocks, of which one node computed some wrongly."""
    run = shards(tmp_path, "0-39")
    first, last, _ = falsify(tmp_path, "0-39")
    merged = ask("merge", "together", "runs/" + run, "0-39", "--verify", cwd=tmp_path, code=1)
    assert merged["sources"][1]["differing"] == [[first, last, "localhost", "localhost"]]
    assert merged["sources"][1]["taken"] == 0
    assert merged["result"]["digest"] == shown(whole)["digest"]


def test_a_damaged_row_is_replaced_by_the_whole_one_of_a_source(
    tmp_path: Path, whole: Path
) -> None:
    """It counts for nothing; so its blocks are owed, and a merge brings them."""
    run = shards(tmp_path, "0-39")
    damage(tmp_path / "runs", "tally", 0, b"{}")
    merged = ask("merge", f"runs/{run}", "0-39", "--verify", cwd=tmp_path)
    assert merged["sources"][0]["taken"] > 0
    done = ask("resume", run, cwd=tmp_path)
    assert (done["state"], done["digest"]) == ("done", shown(whole)["digest"])


def test_runs_that_compute_something_else_are_not_merged(whole: Path, tmp_path: Path) -> None:
    """It is said what sets them apart."""
    ask("submit", spec(tmp_path, backend="threads", seed=8), cwd=tmp_path)
    error = ask("merge", "out", "runs", whole / "runs", cwd=tmp_path, code=2)["error"]
    assert "do not compute the same: seed 8 and 7" in error["message"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("export", "RUN", "--blocks", "9", "--to", "out"), "--blocks must be a-b"),
        (("export", "RUN", "--blocks", "9-8", "--to", "out"), "--blocks must be a-b"),
        (("export", "RUN", "--blocks", "0-40", "--to", "out"), "has the blocks 0 to 39"),
        (("export", "RUN", "--blocks", "0-9", "--to", "runs"), "holds the run"),
        (("merge", "out", "nowhere"), "there is no store in nowhere"),
        (("verify", "RUN", "--fraction", "0"), "must be above 0 and at most 1"),
        (("gc",), "which runs?"),
        (("gc", "--older-than", "soon"), "must be a time"),
        (("gc", "--keep", "0"), "cannot ask for confirmation"),
    ],
)
def test_a_mistake_is_told(whole: Path, words: tuple[str, ...], told: str) -> None:
    """What is wrong, and nothing is done."""
    words = tuple(str(newest(whole)) if word == "RUN" else word for word in words)
    done = cluster(*words, cwd=whole)
    assert done.returncode in (2, 74), done.stderr
    assert told in done.stderr
    assert shown(whole)["blocks"] == 40


def test_a_right_run_is_verified(whole: Path) -> None:
    """All of its blocks, and some of them."""
    run = newest(whole)
    found = ask("verify", run, "--fraction", "1", cwd=whole)
    assert (found["blocks"], found["differing"], found["unchecked"]) == (40, [], [])
    some = ask("verify", run, "--fraction", "0.1", cwd=whole)
    assert 4 <= some["blocks"] < 40


def test_a_wrong_block_is_found_and_named(tmp_path: Path) -> None:
    """Exit code 1; the node that counted it, and the one that computed it again."""
    ask("submit", spec(tmp_path, backend="threads"), cwd=tmp_path)
    first, last, _ = falsify(tmp_path)
    found = ask("verify", newest(tmp_path), "--fraction", "1", cwd=tmp_path, code=1)
    wrong = {"first": first, "last": last, "node": "localhost", "again": "localhost"}
    assert found["differing"] == [wrong]
    assert found["impure"] == []
    told = cluster("verify", newest(tmp_path), "--fraction", "1", cwd=tmp_path).stdout
    assert "came out differently on localhost than when they were counted there: its lib" in told


def test_an_impure_kernel_is_told_from_a_node_that_computes_wrongly(tmp_path: Path) -> None:
    """What differs is drawn a second time on the same node, and then differs again."""
    path = spec(tmp_path, backend="threads")
    (tmp_path / "kernels.py").write_text(IMPURE)
    ask("submit", path, cwd=tmp_path)
    found = ask("verify", newest(tmp_path), "--fraction", "0.1", cwd=tmp_path, code=1)
    assert sorted(found["impure"]) == sorted(wrong["first"] for wrong in found["differing"])
    assert (found["unchecked"], found["blocks"] >= 4) == ([], True)
    told = cluster("verify", newest(tmp_path), "--fraction", "0.1", cwd=tmp_path).stdout
    assert "each time they were drawn on localhost: the kernel draws from something else" in told
    assert "computes wrongly" not in told


def test_what_was_compared_before_a_row_had_no_answer_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the differences; the row is unchecked, and it is said why."""
    monkeypatch.setattr("cluster.lifecycle.verify._PATIENCE", 2.0)
    monkeypatch.chdir(tmp_path)
    path = spec(tmp_path, backend="threads")
    (tmp_path / "kernels.py").write_text(STALLS)
    run = ask("submit", path, cwd=tmp_path)["run"]
    first, last, _ = falsify(tmp_path)
    (tmp_path / "stall").touch()
    found = verify(run, 1.0, tmp_path / "runs")
    assert [(wrong.first, wrong.last) for wrong in found.differing] == [(first, last)]
    ((first, last, why),) = found.unchecked
    assert first <= 39 <= last
    assert why.startswith("no answer for ")
    assert found.blocks == 40 - (last - first + 1)


def test_a_row_waits_for_another_node_from_when_the_first_one_is_there() -> None:
    """However long the engine takes to come up; then not for ever."""
    source = _Again([Counted(0, 1, "", "a", True)], several=True, elsewhere=0.2)
    time.sleep(0.3)
    assert source.take("a") is Pause.NOW
    time.sleep(0.3)
    assert isinstance(source.take("a"), Task)


def test_old_runs_that_are_done_are_removed_and_no_others(tmp_path: Path) -> None:
    """Two runs that are done go but the newest; one that can be resumed stays."""
    path = spec(tmp_path, backend="threads")
    for _ in range(3):
        ask("submit", path, cwd=tmp_path)
    ask(
        "submit",
        path,
        "--set",
        "until.max_time=0.001",
        "--set",
        "samples=1e8",
        cwd=tmp_path,
        code=3,
    )
    names = [row["run"] for row in ask("ls", cwd=tmp_path)]
    assert ask("gc", "--older-than", "1d", "--yes", cwd=tmp_path) == {"removed": []}
    removed = ask("gc", "--keep", "1", "--yes", cwd=tmp_path)["removed"]
    assert sorted(removed) == sorted(names[2:])
    assert [row["run"] for row in ask("ls", cwd=tmp_path)] == names[:2]
    for run in removed:
        assert f"no run {run!r}" in cluster("show", run, cwd=tmp_path).stderr


def test_runs_with_other_streams_are_told_apart(tmp_path: Path) -> None:
    """The one of a sweep with common streams has its own identity, though all else is equal."""
    path = spec(tmp_path, name="alone", params={"share": 0.2}, backend="serial")
    ask("submit", path, cwd=tmp_path)
    sweep = {"matrix": {"params.share": [0.2, 0.3]}, "streams": "common"}
    ask("submit", spec(tmp_path, name="swept", sweep=sweep, backend="serial"), cwd=tmp_path)
    error = ask("merge", "out", "runs/alone", "runs/swept/0", cwd=tmp_path, code=2)["error"]
    assert error["message"].endswith("do not compute the same: streams own and common")
