"""Random faults on three hosts: nothing lost, nothing doubled, nothing left, the same digest.

``scripts/chaos --hosts`` runs as many schedules as are asked for. A failure names its seed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from cluster.backends.base import TABLE
from tests.backends.engines import HOSTED
from tests.conftest import need
from tests.lab.harness import need_lab

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("CHAOS_SEED", "0"))
# Of a schedule, while those of several backends run beside it.
SECONDS = 60.0


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS + 180)
@pytest.mark.fault(3, 4, 5, 7, 8, 12, 25, 28, 29, 37, 44)
def test_a_few_schedules_of_faults_leave_the_digest_that_of_serial() -> None:
    """The battery in short: three schedules, with ssh and with the kit."""
    all_go_well({"ssh", "tcp"}, 3)


@pytest.mark.soak
@pytest.mark.timeout(50 * SECONDS + 180)
@pytest.mark.fault(3, 4, 5, 7, 8, 12, 25, 28, 29, 37, 44)
def test_whatever_happens_to_hosts_the_digest_is_that_of_serial() -> None:
    """Fifty schedules with every backend."""
    all_go_well(HOSTED, 50)


def all_go_well(names: Collection[str], schedules: int) -> None:
    """Each backend has a lab of its own, and they go side by side: most of it is waiting."""
    need_lab()
    for entry in TABLE:
        need(entry.usable, f"{entry.name}: {entry.install}")
    words = [sys.executable, "-m", "tests.lab.battery"]
    running = {
        name: subprocess.Popen(
            [*words, name, str(SEED), str(schedules)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for name in names
    }
    end = time.monotonic() + SECONDS * schedules + 120
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
    codes = {name: battery.returncode for name, battery in running.items()}
    assert codes == dict.fromkeys(names, 0)
