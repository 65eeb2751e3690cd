"""The functions of the Python interface take a run or a sweep, and treat a sweep as one thing."""

from __future__ import annotations

from pathlib import Path

import pytest

import cluster
from cluster.common.errors import UsageError
from tests.lifecycle.folder import SHARES, Folder

SEVERAL = len(SHARES)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is the test's."""
    monkeypatch.chdir(tmp_path)


def swept(folder: Path, **keys: object) -> cluster.Result:
    """The result of a small sweep, sent from Python."""
    Folder(folder, backend="serial", **keys)
    return cluster.submit(cluster.load("s.yaml"))


def test_a_sweep_has_members_and_a_run_has_none(tmp_path: Path) -> None:
    """What is told of a sweep is told of all its points together."""
    result = swept(tmp_path)
    assert (result.state, len(result.members), result.done) == ("done", SEVERAL, SEVERAL)
    assert result.samples == sum(member.result.samples for member in result.members) == 640 * 5
    assert (result.estimate, result.digest) == (None, None)
    alone = cluster.show(f"{result.run}/0")
    assert alone.members == ()
    assert alone.digest == result.members[0].result.digest


def test_show_status_runs_and_compare_take_either(tmp_path: Path) -> None:
    """By the id, the name or the beginning of either."""
    result = swept(tmp_path)
    alone = cluster.submit(cluster.load("s.yaml", ["sweep=null", "name=one"]))
    assert cluster.show(result.run).to_json() == result.to_json()
    assert cluster.status("swept").points_done == SEVERAL
    assert cluster.status(alone.run).points is None
    assert {standing.run for standing in cluster.runs()} == {alone.run, result.run}
    assert len(cluster.compare(result.run, result.run)) == SEVERAL
    assert cluster.plan(cluster.load("s.yaml"), seconds=0).to_json()["points"] == SEVERAL


def test_a_sweep_is_extended_as_a_run_is(tmp_path: Path) -> None:
    """Each point draws only what is new, and ends with the digest of a fresh one."""
    first = swept(tmp_path)
    more = cluster.extend(first.run, overrides=["samples=1280"])
    assert more.run == first.run
    assert {member.result.samples for member in more.members} == {1280}
    fresh = cluster.submit(cluster.load("s.yaml", ["samples=1280"]), store="fresh")
    digests = [member.result.digest for member in more.members]
    assert digests == [member.result.digest for member in fresh.members]
    again = cluster.extend(first.run, overrides=["samples=1280"])
    assert [member.result.digest for member in again.members] == digests
    with pytest.raises(UsageError, match="nothing to extend: the sweep"):
        cluster.extend(first.run, overrides=["samples=640"])


def test_a_point_that_another_sweep_has_too_is_not_extended(tmp_path: Path) -> None:
    """What the other one was asked for, and has, would be undone."""
    first = swept(tmp_path)
    swept(tmp_path, name="other")
    with pytest.raises(UsageError, match="is a point of another sweep too"):
        cluster.extend(first.run, overrides=["samples=1280"])


def test_the_table_of_a_sweeps_nodes_has_their_failures(tmp_path: Path) -> None:
    """As that of a run has: how many attempts failed, and what part of the work was of use."""
    result = swept(tmp_path, kernel="kernel.py:breaks", retry={"attempts": 2})
    (node,) = result.nodes
    point = next(member for member in result.members if member.result.state == "failed")
    assert node.failures == sum(each.failures for each in point.result.nodes) == 2
    assert node.goodput is not None
    assert 0.8 < node.goodput < 1
