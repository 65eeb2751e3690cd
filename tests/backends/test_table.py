"""Backends by name, and the environment of a slot."""

from __future__ import annotations

import os
import sys

import pytest

from cluster.backends.base import create, kernels_at_home
from cluster.common.errors import UsageError
from cluster.hosts.nodes import Node
from cluster.hosts.worker_pool import slot_environment

HERE = (Node("localhost", slots=1),)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """A typo: did you mean; anything else: the known ones."""
    with pytest.raises(UsageError) as caught:
        create("proceses", HERE)
    assert caught.value.fix == "did you mean 'processes'?"
    with pytest.raises(UsageError) as caught:
        create("xyz", HERE)
    assert "serial, threads, processes" in str(caught.value.fix)


@pytest.mark.fault(22)
def test_thread_pools_are_held_to_the_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread each, whatever our own environment says; the node's own variables win."""
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    environment = slot_environment(Node("localhost", env=(("MKL_NUM_THREADS", "2"), ("X", "y"))))
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
    assert (environment["MKL_NUM_THREADS"], environment["X"]) == ("2", "y")


def test_a_kernel_at_home_cannot_write_into_our_output(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its prints and its writes to descriptor 1 go to stderr; ours come back afterwards."""
    _write("before")
    with kernels_at_home():
        _write("printed")
        os.write(1, b"written\n")
    _write("after")
    out, err = capfd.readouterr()
    assert out.split() == ["before", "after"]
    assert sorted(err.split()) == ["printed", "written"]
    with kernels_at_home():
        sys.stdout.close()
    _write("still there")
    assert capfd.readouterr().out == "still there\n"


def _write(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()
