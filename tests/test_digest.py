"""One digest, however it was computed: on any backend, with any slots, after a kill, on any Python.

The golden values are promised to all machines: counts are decided in integers, or in operations
that IEEE 754 defines to the last bit. ``scripts/pythons -m pythons`` asks each supported Python.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import cluster
from cluster import api
from tests.cli.shell import ask, interrupted

CONFIGS = Path(__file__).parents[1] / "configs"
# 30 blocks of the main job; 7 of the others.
PI = ["samples=5e8"]
GOLDEN = {
    ("pi", *PI): "c871504ace1fd5237a75b194fb17647df6cc58098402855f7a5a828f4210a496",
    ("ball", "samples=7e6"): "d8fc00c6e6ac73e219333e29668f1700f7e15b0bf3282e4f7cd262db683ee1dd",
    (
        "histogram",
        "samples=1.8e6",
    ): "ea286abd811ffd96bb6ff4b17ba7201c7a29c866db60cd2e779f8547258710e5",
    ("article", "samples=28e3"): "d3b124b8e69ab5d97096d43e1d853aa39f2bf8e8343c0a0007ae1964fe59e434",
}
LONG = "95f1074da4f8a50eb36294604bae739dcb8fe937f8e4b84435affbb861a240bd"  # 120 blocks of pi
PLACES = [
    ["backend=serial"],
    ["backend=threads", "nodes=localhost:3"],
    *(["backend=processes", f"nodes=localhost:{slots}"] for slots in (1, 2, 3, 7)),
]

pytestmark = pytest.mark.pythons


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def digest_of(name: str, *overrides: str) -> str:
    """The digest of a shipped spec with overrides, computed to its end."""
    result = cluster.submit(cluster.load(CONFIGS / f"{name}.yaml", overrides))
    assert result.state == "done"
    assert result.digest
    return result.digest


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_the_main_job_has_its_digest_in_every_place(place: list[str]) -> None:
    """Serial, three threads, and processes with 1, 2, 3 and 7 slots."""
    assert digest_of("pi", *PI, *place) == GOLDEN["pi", *PI]


@pytest.mark.parametrize("key", GOLDEN, ids=" ".join)
def test_counts_are_the_same_on_every_machine(key: tuple[str, ...]) -> None:
    """The counting kernels that are shipped, against the values recorded here."""
    assert digest_of(*key, "backend=threads", "nodes=localhost:2") == GOLDEN[key]


@pytest.mark.slow
@pytest.mark.fault(37)
def test_a_killed_and_resumed_run_has_it_too(tmp_path: Path) -> None:
    """Killed by signal 9 in the middle, and the rest drawn on another backend."""
    run = interrupted(
        CONFIGS / "pi.yaml", "--set", "samples=2e9", cwd=tmp_path, number=signal.SIGKILL
    )
    assert 0 < api.show(run).blocks < 120
    assert cluster.resume(run, overrides=["backend=threads"]).digest == LONG


def test_moments_are_the_same_in_every_place_of_one_machine() -> None:
    """Their sums are exact in any order; the values' last bits, of exp, are the machine's."""
    digests = {digest_of("option", *place) for place in PLACES[:4]}
    assert len(digests) == 1


def test_the_command_line_prints_it(tmp_path: Path) -> None:
    """What a person compares is what is promised."""
    result = ask("submit", CONFIGS / "pi.yaml", "--set", PI[0], cwd=tmp_path)
    assert result["digest"] == GOLDEN["pi", *PI]
