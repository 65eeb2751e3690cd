"""scripts/lab does what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import cluster
from scripts import lab as verbs
from scripts.lab_base import (
    SWITCH,
    LabError,
    all_keepers,
    is_abandoned,
    keepers,
    lock,
    number,
    own_name,
)
from scripts.lab_base import Lab as Named
from scripts.lab_pace import limit
from tests.lab.harness import (
    ROOT,
    Lab,
    dwellers,
    machine,
    namespaces,
    need_lab,
    own_lab,
    traces,
    wait,
)

# The part of half a second for which a process that never waits has a CPU.
SHARE = """
import time
begun, used = time.monotonic(), time.process_time()
while time.monotonic() - begun < 0.5:
    pass
print((time.process_time() - used) / (time.monotonic() - begun))
"""
ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 7777))
print("listening", flush=True)
client, _ = server.accept()
while data := client.recv(100):
    client.sendall(data)
"""


@pytest.fixture
def spare() -> Iterator[Lab]:
    """Another lab's name, of which nothing stands before and after the test."""
    need_lab()
    lab = own_lab("s")
    assert traces(lab.name) == []
    yield lab
    lab.down()


def reachable(address: str, seconds: float = 0.4) -> bool:
    """Whether this machine can connect to sshd at the address."""
    try:
        socket.create_connection((address, 22), seconds).close()
    except OSError:
        return False
    return True


def sees(lab: Lab, host: str, other: str) -> bool:
    """Whether one host can connect to sshd of another."""
    script = f"import socket; socket.create_connection(({other!r}, 22), 0.4)"
    return lab.ask("exec", host, lab.python, "-c", script).returncode == 0


def share(lab: Lab, host: str) -> float:
    """The part of a CPU that a busy process on the host gets."""
    return float(lab.exec(host, lab.python, "-c", SHARE))


def settles(measure: Callable[[], float], low: float, high: float) -> bool:
    """Whether one of a few measurements is between the limits: a machine may be busy at times."""
    return any(low <= measure() <= high for _ in range(6))


# -- what a host is --------------------------------------------------------------------------------


def test_a_host_has_its_own_name_home_and_tmp(lab: Lab) -> None:
    """What one host writes is seen neither by another nor here; and each has its own name."""
    for host in ("h1", "h2"):
        lab.exec(host, "sh", "-c", f"echo {host} | tee ~/mine /tmp/mine-{lab.name} /dev/shm/mine")
        said = lab.exec(host, "sh", "-c", "hostname; pwd; echo $HOME; cat ~/mine /dev/shm/mine")
        assert said.split() == [host, "/root", "/root", host, host]
    assert not Path(f"/tmp/mine-{lab.name}").exists()
    assert lab.ask("exec", "h3", "cat", "mine").returncode == 1


def test_a_host_has_no_view_of_the_checkout(lab: Lab) -> None:
    """Neither the checkout is there, nor the folder with the lab's keys."""
    for place in (ROOT / "cluster", ROOT / "setup.cfg", lab.folder, Path("/run/cluster-lab")):
        assert lab.ask("exec", "h1", "test", "-e", str(place)).returncode == 1
    mounts = lab.exec("h1", "cut", "-d ", "-f2", "/proc/mounts")
    assert str(ROOT) not in mounts.split()


def test_a_host_has_only_its_own_processes_and_interfaces(lab: Lab) -> None:
    """ps, ip and /sys show what is on the host."""
    processes = lab.exec("h1", "ps", "-eo", "comm=").split()
    assert sorted(each for each in processes if each not in ("sh", "ps"))[1:] == ["sshd"]
    assert lab.exec("h1", "ls", "/sys/class/net").split() == ["eth0", "lo"]
    assert f"inet {lab.hosts['h1']}/24" in lab.exec("h1", "ip", "address", "show", "eth0")


def test_the_project_is_installed_on_a_host_from_its_wheel(lab: Lab) -> None:
    """Python there imports this version of the project, with its data files and its command."""
    script = "import cluster, numpy; print(cluster.__version__, cluster.__file__)"
    version, file = lab.exec("h1", lab.python, "-c", script).split()
    assert version == cluster.__version__
    assert file.startswith("/opt/cluster/venv/lib/")
    command = "/opt/cluster/venv/bin/cluster"
    assert cluster.__version__ in lab.ssh("h2", f"{command} --version").stdout
    schema = Path(file).parent / "spec.schema.json"
    text = (ROOT / "cluster" / "spec.schema.json").read_text()
    assert lab.exec("h3", "cat", str(schema)) == text


def test_what_is_installed_on_a_host_can_be_changed_there_alone(lab: Lab) -> None:
    """A host with another version of a package is made by writing into its environment."""
    find = "import cluster; print(cluster.__file__)"
    file = lab.exec("h1", lab.python, "-c", find).strip()
    before = lab.exec("h2", "cat", file)
    lab.exec("h1", "cp", file, "/tmp/kept")
    lab.exec("h1", "sh", "-c", f"echo '__version__ = \"9.9.9\"' >> {file}")
    asking = "import cluster; print(cluster.__version__)"
    assert lab.exec("h1", lab.python, "-c", asking) == "9.9.9\n"
    lab.exec("h1", "cp", "/tmp/kept", file)
    assert lab.exec("h2", "cat", file) == before


def test_every_host_knows_the_others_and_the_dispatcher_by_name(lab: Lab) -> None:
    """/etc/hosts has the addresses, and they answer."""
    assert sees(lab, "h1", "h2")
    assert lab.exec("h3", "getent", "hosts", "dispatcher").split()[0] == lab.dispatcher
    with socket.create_server((lab.dispatcher, 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; socket.create_connection(('dispatcher', {port}), 5)"
        lab.exec("h2", lab.python, "-c", script)


def test_run_gives_a_command_here_the_names_of_the_hosts(lab: Lab) -> None:
    """A program that looks names up by itself finds them; this machine's own stay as they are."""
    found = lab.do("run", "sh", "-c", "getent hosts h2; ssh h3 hostname; echo $LAB")
    assert found.split() == [lab.hosts["h2"], "h2", "h3", lab.name]
    assert lab.name not in Path("/etc/hosts").read_text()
    assert " h2" not in Path("/etc/hosts").read_text()


# -- ssh -------------------------------------------------------------------------------------------


def test_ssh_comes_in_as_root_and_as_a_plain_user(lab: Lab) -> None:
    """Both have the lab's key; each is at home."""
    assert lab.ssh("h1", "hostname; id -un; pwd").stdout.split() == ["h1", "root", "/root"]
    said = lab.ssh("lab@h2", "hostname; id -un; pwd").stdout
    assert said.split() == ["h2", "lab", "/home/lab"]
    assert lab.ssh("lab@h2", f"{lab.python} -c 'import cluster'").returncode == 0


def test_ssh_answers_by_address_and_on_a_second_port(lab: Lab) -> None:
    """The keys are known for every way to call a host."""
    assert lab.ssh(lab.hosts["h3"], "hostname").stdout == "h3\n"
    assert lab.ssh("h3", "hostname", "-p", "2222").stdout == "h3\n"


def test_ssh_of_the_environment_is_the_labs(lab: Lab) -> None:
    """With what `env` exports, plain `ssh h1` works; nothing of the person's own is read."""
    words = ["ssh", "-G", "h1"]
    said = subprocess.run(words, env=lab.environment, capture_output=True, text=True, check=True)
    lines = said.stdout.splitlines()
    assert f"userknownhostsfile {lab.folder}/known_hosts" in lines
    assert "stricthostkeychecking true" in lines
    assert [line for line in lines if line.startswith("identityfile")] == [
        f"identityfile {lab.folder}/key"
    ]


def test_a_user_without_a_key_is_refused(lab: Lab) -> None:
    """The guest would be asked for a password; in batch mode ssh ends at once."""
    refused = lab.ssh("guest@h1", "hostname")
    assert refused.returncode == 255
    assert "Permission denied (publickey,password)" in refused.stderr


def test_a_wrong_host_key_is_refused(lab: Lab, tmp_path: Path) -> None:
    """A host that shows another key than the known one is not talked to."""
    lines = (lab.folder / "known_hosts").read_text().splitlines()
    keys = {line.partition(",")[0]: line.split()[-1] for line in lines}
    known = tmp_path / "known_hosts"
    known.write_text("\n".join(lines).replace(keys["h1"], keys["h2"]) + "\n")
    refused = lab.ssh("h1", "hostname", "-o", f"UserKnownHostsFile={known}")
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr
    known.write_text("")
    unknown = lab.ssh("h1", "hostname", "-o", f"UserKnownHostsFile={known}")
    assert "Host key verification failed" in unknown.stderr


# -- faults ----------------------------------------------------------------------------------------


def test_a_cut_host_is_out_of_reach_until_it_is_healed(lab: Lab) -> None:
    """Neither this machine nor another host reaches it, nor it them; healed, all do at once."""
    address = lab.hosts["h1"]
    assert reachable(address)
    lab.cut("h1")
    assert not reachable(address)
    assert not sees(lab, "h2", "h1")
    assert not sees(lab, "h1", "h2")
    assert lab.state("h1") == "cut"
    assert lab.exec("h1", "hostname") == "h1\n"
    lab.heal("h1")
    assert reachable(address)
    assert sees(lab, "h2", "h1")
    assert lab.state("h1") == "up"


def test_a_cut_connection_ends_for_neither_side(lab: Lab) -> None:
    """No FIN and no reset tells of a cut; what was sent meanwhile arrives after it."""
    address = lab.hosts["h2"]
    server = lab.start("exec", "h2", lab.python, "-c", ECHO, address)
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    with socket.create_connection((address, 7777)) as client:
        client.settimeout(0.5)
        lab.cut("h2")
        client.sendall(b"meanwhile")
        with pytest.raises(TimeoutError):
            client.recv(100)
        lab.heal("h2")
        client.settimeout(20)
        assert client.recv(100) == b"meanwhile"
    server.communicate(timeout=10)


@pytest.mark.parametrize("way", ["from", "to"])
def test_a_host_can_be_cut_one_way(lab: Lab, way: str) -> None:
    """Packets of the other direction still come through."""
    address = lab.hosts["h1"]
    assert reachable(address)
    lab.cut("h1", way)
    assert not reachable(address)
    receiver, sender = (lab.dispatcher, "h1") if way == "to" else (address, None)
    hear = "import socket,sys; s=socket.socket(type=2); s.settimeout(5); s.bind((sys.argv[1],7))"
    hear += "; print('bound', flush=True); print(s.recv(9))"
    send = f"import socket; socket.socket(type=2).sendto(b'heard', ({receiver!r}, 7))"
    if sender:
        with socket.socket(type=socket.SOCK_DGRAM) as here:
            here.settimeout(5)
            here.bind((receiver, 7))
            lab.exec(sender, lab.python, "-c", send)
            assert here.recv(9) == b"heard"
        return
    there = lab.start("exec", "h1", lab.python, "-c", hear, receiver)
    assert there.stdout is not None
    assert there.stdout.readline() == "bound\n"
    with socket.socket(type=socket.SOCK_DGRAM) as here:
        here.sendto(b"heard", (receiver, 7))
    assert there.communicate(timeout=10)[0] == "b'heard'\n"


def test_a_lossy_host_loses_so_many_packets_in_a_hundred(lab: Lab) -> None:
    """At random, and of one direction alone where that is wanted; healed, none."""
    send = "import socket; s = socket.socket(type=2)\nfor _ in range(150): "
    send += f"s.sendto(b'', ({lab.dispatcher!r}, 7))"

    def arrived() -> int:
        with socket.socket(type=socket.SOCK_DGRAM) as here:
            here.settimeout(0.3)
            here.bind((lab.dispatcher, 7))
            lab.exec("h1", lab.python, "-c", send)
            count = 0
            with suppress(TimeoutError):
                while True:
                    here.recv(1)
                    count += 1
        return count

    # So that who is who is known: the question would be lost as other packets are.
    assert reachable(lab.hosts["h1"])
    lab.lossy("h1", 30)
    assert lab.state("h1") == "lossy"
    # Within seven standard deviations of the binomial distribution.
    assert 65 < arrived() < 145
    lab.lossy("h1", 30, "to")
    assert arrived() == 150
    lab.lossy("h1", 99, "from")
    assert arrived() < 20
    lab.lossy("h1", 0)
    assert (arrived(), lab.state("h1")) == (150, "up")


def test_a_narrow_host_carries_so_many_bits_a_second_each_way(lab: Lab) -> None:
    """100 kB take 0.8 s at 1 Mbit/s; healed, next to none."""
    sent = f"'{lab.python}' -c 'print(end=chr(0) * 100_000)'"

    def seconds(*command: str, given: str = "") -> float:
        words = ["ssh", "-F", str(lab.ssh_config), "-o", "BatchMode=yes", "h1", *command]
        begun = time.monotonic()
        done = subprocess.run(words, input=given, capture_output=True, text=True, check=True)
        assert len(done.stdout + given) == 100_000
        return time.monotonic() - begun

    wide = min(seconds(sent) for _ in range(2))
    lab.narrow("h1", 1000)
    assert lab.state("h1") == "narrow"
    assert seconds(sent) > 0.75
    assert seconds("cat > /dev/null", given=chr(0) * 100_000) > 0.75
    lab.heal("h1")
    assert lab.state("h1") == "up"
    assert settles(lambda: seconds(sent), 0, max(0.7, 2 * wide))


def test_a_slow_host_is_slower_by_the_factor(lab: Lab) -> None:
    """A busy process has a fifth of a CPU, by ssh as by exec; a factor of 1 undoes it."""
    lab.slow("h1", 5)
    assert settles(lambda: share(lab, "h1"), 0.15, 0.25)
    command = f"{lab.python} -c '{SHARE}'"
    assert settles(lambda: float(lab.ssh("h1", command).stdout), 0.15, 0.25)
    assert lab.state("h1") == "slow"
    lab.slow("h1", 1)
    assert settles(lambda: share(lab, "h1"), 0.4, 1.1)
    assert lab.state("h1") == "up"


def test_a_slow_host_has_so_much_for_each_busy_process(lab: Lab) -> None:
    """Of two processes, where two were said to be busy, each has its fifth."""

    def shares() -> float:
        both = [lab.start("exec", "h1", lab.python, "-c", SHARE) for _ in range(2)]
        return sum(float(each.communicate(timeout=30)[0]) for each in both)

    lab.slow("h1", 5, cores=2)
    assert settles(shares, 0.3, 0.5)


@pytest.mark.slow
def test_without_control_groups_a_host_is_slowed_by_stopping_it(spare: Lab) -> None:
    """Where nothing limits CPU time, its processes stand still for a part of the time."""
    # Lazily: a mount that is still in use for a moment would else stay for one of the calls.
    hide = '! mountpoint -q /sys/fs/cgroup || umount --lazy /sys/fs/cgroup && exec "$@"'
    plain = Lab(spare.name, ["unshare", "--mount", "sh", "-c", hide, "sh"])
    plain.up(1)
    plain.slow("h1", 5)
    # The brake needs the CPU as well, and shares what is left with everything else on the machine.
    assert settles(lambda: share(plain, "h1"), 0.02, 0.35)
    assert plain.ssh("h1", "hostname").stdout == "h1\n"
    assert plain.state("h1") == "slow"
    plain.slow("h1", 1)
    assert settles(lambda: share(plain, "h1"), 0.4, 1.1)
    plain.slow("h1", 5)
    plain.down()
    assert traces(plain.name) == []


def test_a_lab_whose_switch_has_died_is_listed_and_brought_up_anew(spare: Lab) -> None:
    """Its hosts have no network; other labs are listed as ever."""
    spare.up(1)
    os.kill(keepers(Named(spare.name))[SWITCH], signal.SIGKILL)
    wait("the switch to die", lambda: SWITCH not in keepers(Named(spare.name)))
    assert spare.state("h1") == "cut"
    spare.up(1)
    assert spare.state("h1") == "up"


def test_a_limit_is_written_as_either_version_of_control_groups_has_it(tmp_path: Path) -> None:
    """Version 2 has one file for both numbers, version 1 two; without a limit it says so."""
    (tmp_path / "cpu.max").touch()
    assert limit(tmp_path, 20_000)
    assert (tmp_path / "cpu.max").read_text() == "20000 100000"
    assert limit(tmp_path, None)
    assert (tmp_path / "cpu.max").read_text() == "max 100000"
    (tmp_path / "cpu.max").unlink()
    assert limit(tmp_path, 20_000)
    assert (tmp_path / "cpu.cfs_quota_us").read_text() == "20000"
    assert limit(tmp_path, None)
    assert (tmp_path / "cpu.cfs_quota_us").read_text() == "-1"
    assert not limit(tmp_path / "none", 20_000)


def test_a_frozen_host_answers_nobody_until_it_thaws(lab: Lab) -> None:
    """Its kernel accepts a connection, and no process says anything."""
    lab.freeze("h3")
    assert lab.state("h3") == "frozen"
    with socket.create_connection((lab.hosts["h3"], 22), 5) as client:
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(100)
        lab.thaw("h3")
        client.settimeout(10)
        assert client.recv(100).startswith(b"SSH-")
    assert lab.state("h3") == "up"


def test_a_killed_host_has_no_process_until_it_is_healed(lab: Lab) -> None:
    """Everything ends at once, also what was started in a session of its own; its disk is kept."""
    lab.ssh("h2", "echo kept > kept; setsid sleep 1000 >/dev/null 2>&1 & sleep 1001 &>/dev/null &")
    lab.kill("h2")
    assert lab.exec("h2", "ps", "-eo", "comm=").split().count("sleep") == 0
    assert not reachable(lab.hosts["h2"])
    assert lab.state("h2") == "without sshd"
    lab.heal("h2")
    assert lab.ssh("h2", "cat kept").stdout == "kept\n"


def test_a_frozen_host_can_be_killed(lab: Lab) -> None:
    """A stopped process cannot hold out."""
    lab.freeze("h2")
    lab.kill("h2")
    lab.heal("h2")
    assert lab.ssh("h2", "hostname").stdout == "h2\n"


def test_a_full_host_can_write_nothing_until_it_is_freed(lab: Lab) -> None:
    """In /tmp and at home the disk is full; the other hosts' disks are not."""
    lab.fill("h1")
    for place in ("/tmp/file", "~/file", "~lab/file"):
        failed = lab.ssh("h1", f"echo text > {place}")
        assert "No space left on device" in failed.stderr
    assert lab.ssh("h2", "echo text > /tmp/file").returncode == 0
    lab.free("h1")
    assert lab.ssh("h1", "echo text > /tmp/file && cat /tmp/file").stdout == "text\n"


# -- up and down -----------------------------------------------------------------------------------


def test_up_again_brings_up_only_what_does_not_stand(spare: Lab) -> None:
    """Standing hosts are left alone, with what runs on them; more hosts join them."""
    spare.up(1)
    before = keepers(Named(spare.name))
    spare.exec("h1", "touch", "/tmp/kept")
    assert "nothing came up; 1 stand" in spare.ask("up", "1").stderr
    assert "h2 came up; 2 stand" in spare.ask("up", "2").stderr
    assert keepers(Named(spare.name))["h1"] == before["h1"]
    spare.exec("h1", "test", "-e", "/tmp/kept")
    assert sees(spare, "h1", "h2")
    assert spare.ssh("h2", "hostname").stdout == "h2\n"


def test_two_labs_do_not_meet(lab: Lab, spare: Lab) -> None:
    """Each has a subnet, keys and processes of its own."""
    spare.up(1)
    assert spare.hosts["h1"] != lab.hosts["h1"]
    assert not sees(spare, "h1", lab.hosts["h2"])
    config = f"UserKnownHostsFile={spare.folder}/known_hosts"
    assert lab.ssh("h1", "hostname", "-o", config).returncode == 255
    spare.down()
    assert lab.ssh("h1", "hostname").stdout == "h1\n"


def test_down_leaves_nothing(spare: Lab) -> None:
    """No process, namespace, interface, mount, group or file, whatever ran and was done there."""
    before = machine()
    spare.up(2)
    spare.ssh("h1", "setsid sleep 1000 >/dev/null 2>&1 &")
    spare.cut("h1", "from")
    spare.lossy("h1", 30)
    spare.narrow("h1", 1000)
    spare.slow("h1")
    spare.freeze("h2")
    spaces = namespaces(list(keepers(Named(spare.name)).values()))
    assert len(spaces) > 8
    assert len(traces(spare.name)) > 5
    spare.down()
    assert traces(spare.name) == []
    assert dwellers(spaces) == []
    assert machine() == before


def test_down_of_nothing_is_no_error(spare: Lab) -> None:
    """It can be called at any time, any number of times."""
    spare.down()
    spare.down()
    assert traces(spare.name) == []


def folder_is_there(lab: Lab) -> bool:
    """The first thing that `up` makes."""
    return lab.folder.exists()


def link_is_there(lab: Lab) -> bool:
    """The dispatcher's interface."""
    return Path(f"/sys/class/net/lab-{lab.name}").exists()


def a_host_is_there(lab: Lab) -> bool:
    """A keeper, which may be building its host still."""
    return any((name, host) == (lab.name, "h2") for name, host, _ in all_keepers())


def a_host_is_ready(lab: Lab) -> bool:
    """The first host has its sshd; the others do not."""
    return (lab.folder / "h1" / "ready").exists()


STAGES = [folder_is_there, link_is_there, a_host_is_there, a_host_is_ready]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_down_after_a_killed_up_leaves_nothing(spare: Lab, stage: Callable[[Lab], bool]) -> None:
    """Wherever `up` was when kill -9 struck, `down` finds all there is, and `up` works again."""
    before = machine()
    process = spare.start("up", "3")
    wait(stage.__name__, lambda: stage(spare))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    spare.down()
    assert traces(spare.name) == []
    assert machine() == before


def test_up_after_a_killed_up_mends_what_is_there(spare: Lab) -> None:
    """What came up half is built again."""
    process = spare.start("up", "2")
    wait("a host", lambda: a_host_is_there(spare))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    spare.up(2)
    assert [spare.ssh(host, "hostname").stdout for host in ("h1", "h2")] == ["h1\n", "h2\n"]


def test_up_brings_back_a_host_that_is_gone(spare: Lab) -> None:
    """A host whose keeper was killed comes up new; the other one stays."""
    spare.up(2)
    before = keepers(Named(spare.name))
    os.kill(before["h1"], signal.SIGKILL)
    assert "h1 came up; 2 stand" in spare.ask("up", "2").stderr
    assert keepers(Named(spare.name))["h2"] == before["h2"]
    assert spare.ssh("h1", "hostname").stdout == "h1\n"
    assert sees(spare, "h2", "h1")


def test_nothing_of_the_persons_own_ssh_is_touched(spare: Lab, tmp_path: Path) -> None:
    """A new home is as empty after a lab as before it."""
    process = spare.start("up", "1", HOME=str(tmp_path))
    assert process.communicate(timeout=600)[1].endswith("1 stand\n")
    assert list(tmp_path.iterdir()) == []


# -- words -----------------------------------------------------------------------------------------


def test_env_prints_what_a_shell_can_evaluate(lab: Lab) -> None:
    """After it, ssh h1 works in that shell, and programs know where the hosts are."""
    lines = lab.do("env") + "ssh -o BatchMode=yes h1 hostname; echo $LAB_HOSTS; echo $LAB_PYTHON"
    said = subprocess.run(["sh", "-c", lines], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["h1", "h1 h2 h3", lab.python]


def test_a_program_of_a_plain_user_runs_whatever_the_umask_was(spare: Lab) -> None:
    """What is made for the hosts can be read by all who come in."""
    closed = Lab(spare.name, ["sh", "-c", 'umask 077; exec "$@"', "sh"])
    closed.up(1)
    script = f"{closed.python} -c 'import cluster'; touch /tmp/mine; cat /etc/hosts"
    assert closed.ssh("lab@h1", script).stderr == ""


def test_the_exit_status_of_a_command_on_a_host_is_told(lab: Lab) -> None:
    """As ssh does."""
    assert lab.ask("exec", "h1", "sh", "-c", "exit 7").returncode == 7


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["exec", "h7", "true"], 1, "h7 is no host of lab"),
        (["cut", "h7"], 1, "h7 is no host of lab"),
        (["up", "99"], 2, "ask for 1 to 20"),
        (["exec", "h1"], 2, "no command"),
        (["slow", "h1", "0.5"], 2, "a factor from 1 to 100"),
        (["lossy", "h1", "100"], 2, "take 0 to 99"),
        (["narrow", "h1", "1"], 2, "take 8 to 10000000, or 0"),
        (["--name", "Not_A_Name", "list"], 2, "small letters and digits"),
    ],
)
def test_what_cannot_be_meant_is_refused(lab: Lab, words: list[str], code: int, said: str) -> None:
    """In one line, with a way out."""
    refused = lab.ask(*words)
    assert refused.returncode == code
    assert said in refused.stderr
    assert refused.stderr.startswith("error: ")
    assert "\nfix: " in refused.stderr


def test_env_of_a_lab_that_does_not_stand_says_what_to_do(spare: Lab) -> None:
    """Not with variables that point nowhere."""
    refused = spare.ask("env")
    assert refused.returncode == 1
    assert "fix: scripts/lab up 3" in refused.stderr
    assert refused.stdout == ""


def test_only_root_makes_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody else hears so at once, before anything is tried."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="only root") as refused:
        verbs.check()
    assert refused.value.code == 69


def test_a_missing_tool_is_told_with_the_package_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And with the command that installs it."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(verbs, "which", lambda tool: None if tool == "sshd" else tool)
    with pytest.raises(LabError, match="not installed: openssh-server") as refused:
        verbs.check()
    assert refused.value.fix == "scripts/lab install"


def test_install_does_nothing_where_all_is_there() -> None:
    """It asks no package index then."""
    need_lab()
    done = Lab("lab").ask("install")
    assert (done.returncode, done.stdout) == (0, "")
    assert "installing" not in done.stderr or re.search(
        "nftables|procps|slurm|munge|pmix", done.stderr
    )


@pytest.mark.parametrize("name", ["h0", "h21", "h01", "x1", "h1 ", "-h1"])
def test_only_h1_to_h20_are_hosts(name: str) -> None:
    """The number in a name is the last one of the address."""
    with pytest.raises(LabError):
        number(name)
    assert number("h20") == 20


def test_the_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    """The second one waits, and says for what it waited when its time is over."""
    with lock(tmp_path), pytest.raises(LabError, match="another lab"), lock(tmp_path, 0.05):
        pass
    with lock(tmp_path, 0.05):
        pass


def test_only_labs_of_processes_that_have_ended_are_abandoned() -> None:
    """No lab that a person may have named is; and the longest process id fits into a name."""
    with subprocess.Popen(["true"]) as process:
        pass
    assert is_abandoned(f"zzt{process.pid}")
    assert not is_abandoned(own_name("t"))
    assert Named(f"zzb{1 << 22}").link == f"lab-zzb{1 << 22}"
    for name in (verbs.DEFAULT, "t2024", "s1", "u7", "bench12345", f"t{process.pid}"):
        assert not is_abandoned(name)
