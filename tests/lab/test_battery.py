"""Random faults on three hosts: nothing lost, nothing doubled, nothing left, the same digest.

``scripts/chaos --hosts`` runs as many schedules as are asked for. A failure names its seed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.backends.base import TABLE
from tests.conftest import need
from tests.lab.harness import need_lab
from tests.lab.site import IN_FULL

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("CHAOS_SEED", "0"))
SCHEDULES = int(os.environ.get("CHAOS_HOSTS_SCHEDULES", "50"))
SECONDS = 60.0 * SCHEDULES + 120


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.fault(3, 4, 5, 7, 8, 12, 25, 28, 29, 37, 44)
def test_whatever_happens_to_hosts_the_digest_is_that_of_serial() -> None:
    """Each backend has a lab of its own, and they go side by side: most of it is waiting."""
    need_lab()
    for entry in TABLE:
        need(entry.usable, f"{entry.name}: {entry.install}")
    words = [sys.executable, "-m", "tests.lab.battery"]
    running = {
        name: subprocess.Popen(
            [*words, name, str(SEED), str(SCHEDULES)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for name in IN_FULL
    }
    end = time.monotonic() + SECONDS
    try:
        told = {
            name: battery.communicate(timeout=end - time.monotonic())[0]
            for name, battery in running.items()
        }
    finally:
        for battery in running.values():
            if battery.poll() is None:
                battery.send_signal(signal.SIGINT)
                battery.wait(60)
    sys.stdout.write("".join(told.values()))
    assert {name: battery.returncode for name, battery in running.items()} == dict.fromkeys(
        IN_FULL, 0
    )
