"""Hosts on which the kernel comes out differently, fails or hangs, over agents on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import pytest

from cluster.backends.base import TABLE, NodeEvent, Options, create
from cluster.common.errors import NodesMissing
from cluster.hosts.nodes import Node
from cluster.testing import Script, work_of
from tests.backends.engines import HOSTED, parameters
from tests.conftest import need

ONE, TWO, *MORE = "localhost", "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"
# What is wrong with a host stands in its environment; LATE makes it come after the others.
KERNEL = """
import os, signal, time
from cluster import Hits, Moments
time.sleep(float(os.environ.get("LATE", "0")))
def f(rng, samples):
    wrong = os.environ.get("WRONG", "")
    if wrong == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if wrong == "hang":
        time.sleep(100)
    if wrong == "lack":
        import skimage
    if wrong == "chance":
        return Hits(int.from_bytes(os.urandom(2), "big") % samples, samples)
    if "ONLY" in KEYS and wrong != "no" and "ONLY" not in os.environ:
        raise OSError("no licence here")
    return Hits((rng.random(samples) < 0.25).sum() + wrong.startswith("bias"), samples)
"""
Wrongs = tuple[str, ...]


def nodes(*wrongs: str) -> list[Node]:
    """A host for each word of KERNEL; after a comma, how late it comes."""
    made = []
    for host, wrong in zip((ONE, TWO, *MORE), wrongs, strict=False):
        word, _, late = wrong.partition(",")
        env = {"WRONG": word, "LATE": late or "0", "ONLY": host}
        made.append(Node(host, slots=1, env=tuple(sorted(env.items()))))
    return made


def judged(
    hosts: Sequence[Node], options: Options, keys: str = "", backend: str = "ssh"
) -> dict[str, tuple[int, str]]:
    """The slots of each host, and the reason, once all are judged."""
    work = work_of(KERNEL.replace("KEYS", repr(keys)))
    found: dict[str, tuple[int, str]] = {}
    with (
        create(backend, hosts, options) as engine,
        closing(engine.run(work, Script(0, pauses=10**9))) as items,
    ):
        for item in items:
            if isinstance(item, NodeEvent):
                found[item.node] = item.slots, item.reason
            if len(found) == len(hosts) and any(slots for slots, _ in found.values()):
                break
    return found


OPEN = Options(tick=0.05, required=1)


@pytest.mark.parametrize("backend", parameters(HOSTED, default={"ssh"}, slow={"tcp"}))
@pytest.mark.parametrize("wrongs", [("bias", ",0.3"), ("bias,0.3", "")])
def test_a_host_that_counts_wrongly_is_refused_whenever_it_comes(
    wrongs: Wrongs, backend: str
) -> None:
    """Also as the first of two, one of which is enough: what this machine draws tells."""
    need(next(entry for entry in TABLE if entry.name == backend).usable, backend)
    told: list[tuple[int, str]] = []
    options = Options(tick=0.05, required=1, probed=lambda *each: told.append(each))
    found = judged(nodes(*wrongs), options, backend=backend)
    assert (found[ONE][0], found[TWO][0]) == (0, 1)
    assert "a few samples of the kernel came out differently there than here" in found[ONE][1]
    assert len(told) == 1


def test_where_this_machine_cannot_draw_most_hosts_tell() -> None:
    """The wrong one comes first, and one would be enough; that it was so is told, once."""
    found = judged(nodes("bias", ",0.3", ",0.3"), OPEN, "ONLY")
    assert "came out differently there than on 127.0.0.1 and 127.0.0.2" in found[ONE][1]
    words = [reason for slots, reason in found.values() if slots]
    assert len(words) == 2
    assert sum("no licence here; so hosts were held to what most" in each for each in words) == 1


def test_of_two_that_differ_with_nobody_to_judge_neither_is_used() -> None:
    """In words; the run does not begin, though one host would be enough."""
    with pytest.raises(NodesMissing) as caught:
        judged(nodes("bias", ""), OPEN, "ONLY")
    assert "nothing tells which is right: neither is used" in caught.value.message
    assert caught.value.message.startswith("0 of 1 required hosts are ready")


def test_two_hosts_that_agree_outvote_this_machine_which_is_told() -> None:
    """It may honestly be of another kind; one host alone does not."""
    found = judged(nodes("bias", "biased,0.1"), OPEN)
    assert [slots for slots, _ in found.values()] == [1, 1]
    assert sum("came out differently than on the hosts" in each for _, each in found.values()) == 1
    with pytest.raises(NodesMissing, match="came out differently there than here"):
        judged([*nodes("bias"), Node(TWO, slots=1, python="/nowhere")], OPEN)


def test_what_the_run_was_begun_with_wins_over_this_machine() -> None:
    """Also over all hosts together."""
    told: list[object] = []
    options = Options(tick=0.05, required=1, probes=("another",), probed=lambda *_: told.append(1))
    with pytest.raises(NodesMissing, match="than where the run was begun"):
        judged(nodes("", ""), options)
    assert not told


def test_a_host_where_the_probe_fails_is_refused_by_name() -> None:
    """Each with its reason, and the run goes on with the one that is well."""
    said = {
        "die": "the kernel failed: WorkerLost: its process was killed",
        "hang": "the kernel's probe did not come back within 4 s",
        "lack": "needs the module skimage, which is missing there .*pip install scikit-image",
        "chance": "the kernel draws from something else than its generator",
    }
    found = judged(nodes(*said, ""), replace(OPEN, probing=4.0))
    *wrong, (slots, _) = (found[host] for host in (ONE, TWO, *MORE))
    assert slots == 1
    for (slots, reason), words in zip(wrong, said.values(), strict=True):
        assert not slots
        assert re.search(words, reason)
