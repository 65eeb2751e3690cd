"""The main of every driver, in a process of its own."""

from __future__ import annotations

import os
import selectors
import sys
import time
from pathlib import Path
from typing import Any

from cluster.backends.driver import DriverProcess

DRIVER = """
import sys

from cluster.backends.kit.carry import carry
from cluster.common.errors import EngineError


def make(setup):
    raise EngineError("there is no world", fix="make one")


carry(make, close=lambda: open(sys.argv[1], "w").close())
"""


def test_what_is_wrong_is_told_with_its_cure_once_and_the_driver_closes(tmp_path: Path) -> None:
    """The dispatcher makes its own error of it: message and cure each have their place."""
    closed = tmp_path / "closed"
    with selectors.DefaultSelector() as selector:
        command = [sys.executable, "-c", DRIVER, str(closed)]
        driver = DriverProcess(command, os.environ, selector, 30.0)
        driver.say({"setup": {}})
        told: list[Any] = []
        deadline = time.monotonic() + 30
        while "it has ended" not in driver.fault and time.monotonic() < deadline:
            told += driver.messages()
            for key, mask in selector.select(0.1):
                key.data(mask)
        told += driver.messages()
        driver.close()
    wrong = {"wrong": "there is no world", "fix": "make one"}
    assert wrong in told
    assert closed.exists()
