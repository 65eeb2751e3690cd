"""What only MPI has: a launcher here, and its daemons on the hosts."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cluster.backends.base import TABLE
from cluster.hosts.process_tree import descendants
from tests.conftest import need
from tests.lab.harness import Lab
from tests.lab.site import Site, await_no_orphans, pids


@pytest.mark.slow
@pytest.mark.fault(4, 17)
@pytest.mark.parametrize("killed", ["launcher", "daemon"])
def test_a_launcher_or_a_daemon_of_it_that_is_killed_costs_a_world(
    lab: Lab, tmp_path: Path, killed: str
) -> None:
    """Another world is launched, on all hosts; the ledger tells of it, and the digest is right."""
    entry = next(entry for entry in TABLE if entry.name == "mpi")
    need(entry.usable, f"mpi: {entry.install}")
    site = Site(tmp_path, lab, "mpi", blocks=600)
    run = site.start()
    run.await_words(r"h3: 1 slot")
    time.sleep(1)
    # The fence before each of them has their names in its own command line, too.
    found = pids(lab, "h2", "bin/prted") if killed == "daemon" else descendants(run.process.pid)
    names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in found}
    (victim,) = (pid for pid, name in names.items() if name in ("prted", "prterun"))
    os.kill(victim, signal.SIGKILL)
    run.await_words(r"(?s)h2: 0 slots.*h2: 1 slot", 30)
    result = run.result()
    assert (result["state"], result["digest"]) == ("done", site.digest)
    assert any("the MPI world was lost" in line for line in site.events())
    await_no_orphans(lab)
