"""What is special to SCOOP's broker, which the hosts must reach."""

from __future__ import annotations

import os
import shlex
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.backends.base import TABLE
from cluster.hosts.process_tree import descendants
from tests.conftest import need
from tests.lab.harness import Lab
from tests.lab.site import Site, Submitted, await_no_orphans


def listening(run: Submitted) -> set[str]:
    """The addresses at which processes of a run listen on this machine."""
    sockets = set()
    for pid in descendants(run.process.pid):
        with suppress(OSError):
            sockets |= {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                # An IPv4 address is the last word there in both tables, in this machine's order.
                word = bytes.fromhex(fields[1].partition(":")[0])[-4:]
                found.add(socket.inet_ntoa(word[::-1]))
    return found


@pytest.mark.slow
def test_this_machine_and_hosts_work_together(lab: Lab, tmp_path: Path) -> None:
    """The broker listens at the address at which each of them sees it, and nowhere else."""
    need(all(entry.usable for entry in TABLE if entry.name == "scoop"), "scoop")
    site = Site(tmp_path, lab, "scoop", blocks=600, slots={"h1": 1, "h2": 1})
    site.spec["nodes"].insert(0, {"host": "localhost", "slots": 1, "env": {"NAP": "0.03"}})
    site.write()
    run = site.start()
    for host in ("localhost", "h1", "h2"):
        run.await_words(rf"{host}: 1 slot")
    assert listening(run) == {"127.0.0.1", lab.dispatcher}
    result = run.result()
    assert result["digest"] == site.digest
    assert all(node["samples"] for node in result["nodes"])
    await_no_orphans(lab)


@pytest.mark.slow
def test_a_host_that_sees_this_machine_under_another_address_is_refused(
    lab: Lab, tmp_path: Path
) -> None:
    """As behind NAT: the broker cannot listen there, and what to do is told."""
    need(all(entry.usable for entry in TABLE if entry.name == "scoop"), "scoop")
    behind = f"#!/bin/sh\nSSH_CONNECTION='192.0.2.1 1 192.0.2.2 22' exec {Lab.python} \"$@\"\n"
    lab.do("exec", "h1", "sh", "-c", f"printf %s {shlex.quote(behind)} > nat; chmod +x nat")
    site = Site(tmp_path, lab, "scoop", slots={"h1": 1, "h2": 1})
    site.spec["nodes"][0]["python"] = f"{lab.exec('h1', 'pwd').strip()}/nat"
    site.write()
    try:
        error = site.start().result(69)["error"]
    finally:
        lab.do("exec", "h1", "rm", "nat")
    assert "h1: it sees this machine as 192.0.2.1, where SCOOP's broker cannot" in error["message"]
    assert "backend ssh" in error["message"]
    await_no_orphans(lab)
