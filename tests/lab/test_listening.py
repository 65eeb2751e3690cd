"""Who listens where while a run goes on, and what a stranger in the network can do to it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from cluster.backends.base import TABLE
from cluster.family import descendants
from tests.conftest import need
from tests.lab.harness import Lab
from tests.lab.site import Site, Submitted, await_no_orphans

# It connects to every port that it is given, and says what nobody there understands.
STRANGER = """
import os, pickle, socket, sys

class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/ran",)

words = (
    os.urandom(4096), pickle.dumps(Evil()), b'[1,0,1,1,0.0]\\n', b'{"end":true}\\n',
    b"GET / HTTP/1.0\\r\\n\\r\\n", b"",
)
for place in sys.argv[1:]:
    address, _, port = place.rpartition(":")
    for word in words:
        try:
            with socket.create_connection((address, int(port)), 3) as one:
                one.sendall(word)
                one.settimeout(0.2)
                one.recv(100)
        except OSError:
            pass
"""


@pytest.fixture(params=("ssh", "mpi"))
def backend(request: pytest.FixtureRequest) -> str:
    """Each of these that is installed here."""
    entry = next(entry for entry in TABLE if entry.name == request.param)
    need(entry.usable, f"{entry.name}: {entry.install}")
    return entry.name


def listening(text: str) -> set[str]:
    """The places of a listing of ``ss``, as ``address:port``."""
    return {line.split()[4] for line in text.splitlines() if line.strip()}


def of_hosts(lab: Lab) -> dict[str, set[str]]:
    """What h1 and h2 listen on, less what their sshd does, by host."""
    found = {host: listening(lab.do("exec", host, "ss", "-tulnH")) for host in ("h1", "h2")}
    return {
        host: {place for place in places if not re.search(r":(22|2222)$", place)}
        for host, places in found.items()
    }


def of_ours(run: Submitted) -> set[str]:
    """What the dispatcher and its processes listen on, on this machine."""
    done = subprocess.run(["ss", "-tulnpH"], capture_output=True, text=True, check=True)
    ours = {run.process.pid, *descendants(run.process.pid)}
    lines = [line for line in done.stdout.splitlines()
             if any(int(pid) in ours for pid in re.findall(r"pid=(\d+)", line))]  # fmt: skip
    return listening("\n".join(lines))


def is_of(place: str, address: str) -> bool:
    """Whether a place is of that address, or only within the machine."""
    host = place.rpartition(":")[0].strip("[]")
    return host == address or host.startswith("127.") or host == "::1"


def test_nothing_listens_elsewhere_and_a_stranger_is_not_heard(
    backend: str, lab: Lab, tmp_path: Path
) -> None:
    """Only on the hosts' own network; h3, which is not of the run, says things to every port."""
    site = Site(tmp_path, lab, backend, blocks=600, slots={"h1": 2, "h2": 1})
    run = site.start()
    run.await_words(r"(?s)h1: 2 slots.*h2: 1 slot|h2: 1 slot.*h1: 2 slots")
    there, here = of_hosts(lab), of_ours(run)
    for host, places in there.items():
        assert all(is_of(place, lab.hosts[host]) for place in places), places
    assert all(is_of(place, lab.dispatcher) for place in here), here
    open_ports = [place for place in sorted({*here, *there["h1"], *there["h2"]})
                  if not place.startswith(("127.", "[::1]"))]  # fmt: skip
    assert bool(open_ports) == (backend != "ssh")
    lab.do("exec", "h3", lab.python, "-c", STRANGER, *open_ports)
    result = run.result()
    assert (result["state"], result["digest"]) == ("done", site.digest)
    assert {node["node"] for node in result["nodes"]} == {"h1", "h2"}
    await_no_orphans(lab)  # nor is there a file that a pickle made
    assert not Path("/tmp/ran").exists()
