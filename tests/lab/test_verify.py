"""Blocks computed again on another host than the one that counted them."""

from __future__ import annotations

from pathlib import Path

from tests.lab.harness import Lab
from tests.lab.site import Site
from tests.lifecycle.falsified import falsify


def test_blocks_are_verified_on_another_host_and_a_wrong_one_is_named(
    lab: Lab, tmp_path: Path
) -> None:
    """All blocks, each by another host; then again, after one host's row was falsified."""
    site = Site(tmp_path, lab, "ssh", blocks=60)
    run = site.run()["run"]
    found = site.run("verify", run, "--fraction", "1")
    assert (found["blocks"], found["elsewhere"]) == (60, 60)
    assert found["differing"] == found["unchecked"] == []
    first, last, node = falsify(tmp_path)
    (wrong,) = site.start("verify", run, "--fraction", "1").result(1)["differing"]
    assert (wrong["first"], wrong["last"], wrong["node"]) == (first, last, node)
    assert wrong["again"] != node
