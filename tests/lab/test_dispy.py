"""What is special to dispy on real hosts: its driver, its ports, and nodes that stand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.backends.base import TABLE
from cluster.hosts.process_tree import descendants
from tests.conftest import need
from tests.lab.harness import Lab, wait
from tests.lab.site import Site, Submitted, await_no_orphans, pids

ENTRY = next(entry for entry in TABLE if entry.name == "dispy")
PORT = 9700
SECRET = "a secret of the lab and of nobody else"


@pytest.fixture(autouse=True)
def dispy() -> None:
    """It is installed."""
    need(ENTRY.usable, f"dispy: {ENTRY.install}")


def ends_right(site: Site, run: Submitted) -> None:
    """The digest of `serial`, and every sample counted once."""
    result = run.result()
    assert (result["state"], result["digest"]) == ("done", site.digest)
    assert sum(node["samples"] for node in result["nodes"]) == result["samples"]


@pytest.mark.slow
@pytest.mark.fault(4, 17)
def test_a_killed_driver_is_replaced(lab: Lab, tmp_path: Path) -> None:
    """Kill -9 of the process that dispy's client lives in: told, and the run goes on."""
    site = Site(tmp_path, lab, "dispy", blocks=400)
    run = site.start()
    for host in ("h1", "h2", "h3"):
        run.await_words(f"{host}: [12] slot")
    drivers = [pid for pid in descendants(run.process.pid) if "dispy.driver" in _line(pid)]
    assert len(drivers) == 1
    os.kill(drivers[0], signal.SIGKILL)
    run.await_words(r"h1: 0 slots, the engine's driver was lost", 12)
    run.await_words(r"(?s)h1: 0 slots.*h1: 2 slots", 30)
    ends_right(site, run)
    await_no_orphans(lab)


@pytest.mark.slow
@pytest.mark.fault(102)
def test_nothing_listens_elsewhere_and_a_stranger_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    """A host that knows no secret sends noise and pickles to every port of the run."""
    site = Site(tmp_path, lab, "dispy", blocks=400, slots={"h1": 1, "h2": 1})
    run = site.start()
    run.await_words("h1: 1 slot")
    run.await_words("h2: 1 slot")
    ours = {pid for pid in descendants(run.process.pid) if "dispy.driver" in _line(pid)}
    here = subprocess.run(["ss", "-Hltunp"], capture_output=True, text=True, check=True).stdout
    open_here = [row for row in _rows(here) if row.pids & ours]
    ports = [(row.address, row.port) for row in open_here]
    assert {address for address, _ in ports} == {lab.dispatcher}
    for name in ("h1", "h2"):
        rows = _rows(lab.exec(name, "ss", "-Hltunp"))
        assert {row.address for row in rows} == {lab.hosts[name]}, rows
        assert all(row.kind == "tcp" for row in rows)
        ports += [(row.address, row.port) for row in rows if "sshd" not in row.text]
    assert len(ports) == 3
    mark = f"/tmp/stranger-{os.getpid()}"
    for address, port in ports:
        lab.exec("h3", Lab.python, "-c", _STRANGER, address, str(port), mark)
    assert run.process.poll() is None
    ends_right(site, run)
    for name in ("h1", "h2", "h3"):
        assert lab.exec(name, "ls", "/tmp").split() == []
    assert not Path(mark).exists()
    await_no_orphans(lab)


_STRANGER = """
import os, pickle, socket, struct, sys

class Bomb:
    def __reduce__(self):
        return os.mkdir, (sys.argv[3],)

def messages():
    yield os.urandom(5000)
    yield b"GET / HTTP/1.0\\r\\n\\r\\n"
    for kind in (b"PING:", b"PONG:", b"COMPUTE:", b"JOB:", b"JOB_REPLY:", b"PULSE:", b"CLOSE:"):
        text = kind + pickle.dumps(Bomb())
        yield b"x" * 40 + struct.pack(">L", len(text)) + text
        yield struct.pack(">L", len(text)) + text

for message in messages():
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as stranger:
        stranger.settimeout(1)
        try:
            stranger.sendall(message)
            stranger.recv(1000)
        except OSError:
            pass
"""


@pytest.mark.slow
def test_a_node_that_stands_works_beside_a_host_of_ssh(lab: Lab, tmp_path: Path) -> None:
    """h1 over ssh, h3 by its standing node, which is killed and started again in the middle."""
    with standing(lab, "h3"):
        site = _mixed(lab, tmp_path, blocks=600)
        run = site.start()
        run.await_words(rf"{lab.hosts['h3']}: 1 slot")
        for pid in pids(lab, "h3", "cluster node"):
            os.kill(pid, signal.SIGKILL)
        run.await_words(rf"{lab.hosts['h3']}: 0 slots", 12)
    with standing(lab, "h3"):
        run.await_words(rf"(?s){lab.hosts['h3']}: 0 slots.*{lab.hosts['h3']}: 1 slot", 40)
        ends_right(site, run)
    await_no_orphans(lab)


@pytest.mark.slow
@pytest.mark.fault(28, 25)
def test_a_node_that_stands_and_is_cut_off_works_on(lab: Lab, tmp_path: Path) -> None:
    """Cut for 40 s, so long that both sides give up: it lets the same run in again."""
    with standing(lab, "h3"):
        site = _mixed(lab, tmp_path, blocks=2600)
        address = lab.hosts["h3"]
        run = site.start()
        run.await_words(rf"{address}: 1 slot")
        lab.cut("h3")
        run.await_words(rf"{address}: 0 slots", 10)
        wait("the agent's end", lambda: not pids(lab, "h3", "cluster.hosts.agent"), 40)
        lab.heal("h3")
        run.await_words(rf"(?s){address}: 0 slots.*{address}: 1 slot", 40)
        ends_right(site, run)
    await_no_orphans(lab)


@contextmanager
def standing(lab: Lab, host: str) -> Iterator[None]:
    """A node that stands on a host, as a person starts it there."""
    lab.exec(host, "sh", "-c", f"umask 077; echo '{SECRET}' > secret")
    words = ["node", "--port", str(PORT), "--secret-file", "secret", "--slots", "1"]
    with lab.start("exec", host, Lab.python, "-P", "-m", "cluster", *words) as process:
        try:
            assert process.stdout
            assert process.stdout.readline().startswith(f"listening at {lab.hosts[host]} port")
            yield
        finally:
            for pid in pids(lab, host, "cluster node"):
                os.kill(pid, signal.SIGTERM)
            process.communicate(timeout=20)


def _mixed(lab: Lab, folder: Path, blocks: int) -> Site:
    """A run on h1, and on h3 without ssh."""
    site = Site(folder, lab, "dispy", blocks=blocks, slots={"h1": 1})
    env = site.spec["nodes"][0]["env"]
    site.spec["nodes"].append({"host": lab.hosts["h3"], "attach": PORT, "env": env})
    site.spec["dispy"] = {"secret": {"file": "secret"}}
    (folder / "secret").write_text(SECRET + "\n")
    (folder / "secret").chmod(0o600)
    site.write()
    return site


class _Row:
    """A line of ``ss -Hltunp``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.kind, place = text.split(maxsplit=1)[0], text.split()[4]
        self.address, _, port = place.rpartition(":")
        self.port = int(port)
        self.pids = {int(pid) for pid in re.findall(r"pid=(\d+)", text)}

    def __repr__(self) -> str:
        return self.text


def _rows(text: str) -> list[_Row]:
    return [_Row(line) for line in text.splitlines()]


def _line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
