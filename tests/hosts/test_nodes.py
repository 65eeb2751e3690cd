"""Nodes, node lists, host files, and what a scheduler gives."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from cluster.hosts import nodes
from cluster.hosts.nodes import (
    MAX_NODES,
    Defaults,
    HostCollection,
    HostFile,
    Node,
    NodeError,
    NodeList,
    parse,
    read_hostfile,
)

FULL = Node(
    "n1",
    slots=4,
    python="/opt/py/bin/python",
    user="me",
    port=2222,
    weight=2.5,
    env=(("A", "1"), ("B", "x y")),
    tags=("gpu", "lab"),
    cwd="/scratch",
)


def write(folder: Path, text: str, name: str = "hosts.txt") -> Path:
    """A host file."""
    file = folder / name
    file.write_text(text)
    return file


def test_a_node_and_a_list_survive_json() -> None:
    """What is written to JSON is read back equal."""
    files = (HostFile("hosts.txt", ("b",)),)
    defaults = Defaults(slots=2, env=(("A", "1"),))
    hosts = NodeList((FULL, Node("b")), 1, 5.0, files, defaults)
    assert Node.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL
    assert NodeList.from_json(json.loads(json.dumps(hosts.to_json()))) == hosts


def test_defaults_for_ssh_are_not_for_a_node_that_stands() -> None:
    """It has its own Python and user; what else is given holds for it, too."""
    defaults = Defaults(slots=2, python="/py", user="ada", port=23, cwd="/scratch")
    assert defaults.fill([Node("x"), Node("y", attach=9700)]) == (
        Node("x", slots=2, python="/py", user="ada", port=23, cwd="/scratch"),
        Node("y", slots=2, cwd="/scratch", attach=9700),
    )


@pytest.mark.fault(82, 83)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", ""),
        ("host", "-x"),
        ("slots", 0),
        ("slots", 100_000),
        ("python", "-c"),
        ("user", "a;b"),
        ("port", 65_536),
        ("weight", 0.0),
        ("weight", float("nan")),
        ("env", (("A B", "x"),)),
        ("env", (("A", "\0"),)),
        ("tags", ("two words",)),
        ("cwd", "a\nb"),
    ],
)
def test_a_node_refuses_what_it_cannot_be(key: str, value: Any) -> None:
    """A node that exists is safe to hand to ssh; the error names the key."""
    with pytest.raises(NodeError) as caught:
        Node(**{"host": "h", key: value})
    assert caught.value.key == key


def test_entries_of_every_form_are_one_tuple(tmp_path: Path) -> None:
    """Texts, mappings and a host file stand in one list."""
    write(tmp_path, "c slots=2\nd\n")
    entries: Any = [
        "a:4",
        {"host": "b[1-2]", "slots": 3, "tags": ["x"], "env": {"A": "1"}},
        "hosts.txt",
    ]
    found = parse(entries, tmp_path, {})
    assert [(node.host, node.slots) for node in found] == [
        ("a", 4),
        ("b1", 3),
        ("b2", 3),
        ("c", 2),
        ("d", None),
    ]
    assert found[1].env == (("A", "1"),)


def test_one_text_is_a_list_of_one_entry() -> None:
    """A single string needs no brackets."""
    assert [node.host for node in parse("a[1-2],b", Path(), {})] == ["a1", "a2", "b"]


def test_an_ipv6_address_as_a_key_needs_no_brackets() -> None:
    """Nothing can follow it in a mapping."""
    assert parse([{"host": "::1"}], Path(), {}) == (Node("::1"),)


@pytest.mark.fault(82)
@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["a", "b", "a"], r"entry 2: the host 'a' is listed twice, in entries \[0\] and \[2\]"),
        ("n[1-3],n2", r"is listed twice, in entry \[0\]"),
        ([], "names no host"),
        ([{"host": "a", "slot": 3}], "slot: unknown key; did you mean 'slots'"),
        ([{"slots": 3}], "needs a host"),
        ([{"host": "a:2", "slots": 3}], "slots in the host and as a key"),
        ([{"host": "u@a", "user": "v"}], "user in the host and as a key"),
        (["a", {"host": "n[2-1]"}], "entry 1: host: the range 2-1 runs backwards"),
    ],
)
def test_a_wrong_list_names_the_entry(entries: Any, words: str) -> None:
    """The message says which entry, and which other one where there are two."""
    with pytest.raises(NodeError, match=words):
        parse(entries, Path(), {})


@pytest.mark.fault(81)
def test_the_cap_holds_over_all_entries() -> None:
    """Two lists that each are short enough may be too long together."""
    with pytest.raises(NodeError, match=f"at most {MAX_NODES:,}"):
        parse(["a[1-60000]", "b[1-60000]"], Path(), {})


def test_a_roster_refuses_a_host_that_it_has() -> None:
    """Each host stands once, whichever entry brings it."""
    roster = HostCollection()
    roster.add(0, [Node("a")])
    with pytest.raises(NodeError, match="twice"):
        roster.add(1, [Node("a")])
    assert roster.close() == (Node("a"),)


@pytest.mark.parametrize("name", ["hosts.txt", "lab.hosts", "my_hostfile", "sub/machines"])
def test_a_text_that_looks_like_a_file_is_read_as_one(tmp_path: Path, name: str) -> None:
    """A slash, or one of the usual endings, makes it the name of a file."""
    (tmp_path / "sub").mkdir()
    write(tmp_path, "a:2\n", name)
    assert parse(name, tmp_path, {}) == (Node("a", slots=2),)


def test_a_plain_name_is_a_file_only_where_there_is_one(tmp_path: Path) -> None:
    """A file beside the spec wins over a host of the same name, save for this machine."""
    write(tmp_path, "a\n", "lab")
    write(tmp_path, "a\n", "localhost")
    assert parse(["lab", "other", "localhost"], tmp_path, {}) == (
        Node("a"),
        Node("other"),
        Node("localhost"),
    )


def test_a_host_file_of_open_mpi_and_of_mpich(tmp_path: Path) -> None:
    """Both forms, comments, empty lines and CRLF; lines of a host add up."""
    text = (
        "# lab\r\na slots=4 max_slots=8\r\n\r\nme@b:3  # big\r\nc ifname=ib0\nd max-slots=2\n"
        "a slots=1\nn[1-2] slots=5\ne\ne\n"
    )
    found = read_hostfile(write(tmp_path, text))
    slots = {node.host: node.slots for node in found}
    assert slots == {"a": 5, "b": 3, "c": None, "d": 2, "n1": 5, "n2": 5, "e": 2}
    assert found[1].user == "me"


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfa slots=4\r\n[fe80::1]:2\r\n",
        b"# caf\xe9\n\ta\tslots=4 # \xff\n[fe80::1] slots=2",
        b"a slots=3 max_slots=8\na\n\n[fe80::1]\n[fe80::1]\n",
        b"a slots = 4\n[fe80::1] slots= 2 max_slots =4\n",
        b"a:4\r[fe80::1]:2\r",
        b"2/a\n2/a\n2/[fe80::1]\n",
    ],
    ids=["byte order mark", "Latin-1 comment", "repeats", "blanks", "old line breaks", "parallel"],
)
def test_a_host_file_comes_from_any_editor_and_scheduler(tmp_path: Path, data: bytes) -> None:
    """Comments may be in any encoding, lines may end in any way."""
    (tmp_path / "hosts").write_bytes(data)
    assert read_hostfile(tmp_path / "hosts") == (Node("a", slots=4), Node("fe80::1", slots=2))


@pytest.mark.parametrize("text", ["hostfile_1", "lab.lst", "machines", "hosts.tx"])
@pytest.mark.parametrize("key", [False, True])
def test_a_host_file_that_lies_elsewhere_is_no_host(
    text: str, key: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the current folder, or under another name beside the spec: what was meant is told."""
    (tmp_path / "conf").mkdir()
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "conf", "a\n", "hosts.txt")
    typed = text == "hosts.tx"
    if not typed:
        write(tmp_path, "a\n", text)
    with pytest.raises(NodeError) as caught:
        nodes.read_beside(text, Path("conf")) if key else parse(text, Path("conf"), {})
    assert caught.value.fix
    assert ("did you mean 'hosts.txt'?" if typed else f"write ../{text}") in caught.value.fix
    assert parse([{"host": text}], Path("conf"), {}) == (Node(text),)


@pytest.mark.parametrize("text", ["hosts.lst", "hostfile_123", "nodes.csv", "my_hostlist", "x.ini"])
def test_a_file_that_is_not_there_is_not_a_host_instead(text: str, tmp_path: Path) -> None:
    """What is named as people name such files is one."""
    with pytest.raises(NodeError, match=f"no file .*{text}"):
        parse(text, tmp_path, {})


@pytest.mark.fault(84)
def test_a_name_in_other_letters_is_the_same_host() -> None:
    """No name server tells them apart."""
    for other in ("N1", "n1.", "N1."):
        with pytest.raises(NodeError, match="is listed twice"):
            parse(["n1", other], Path(), {})


@pytest.mark.fault(82, 83)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no host"),
        ("# nothing\n", "names no host"),
        ("a\n-oX\n", r":2: a host name may not start with '-'"),
        ("a slots=0", ":1: slots must be from 1"),
        ("a slots=", ":1: slots must be a whole number"),
        ("a:2 slots=3", ":1: slots are given twice"),
        ("a 4", ":1: '4' is not a setting"),
        ("a slot=4", ":1: 'slot=4' is not a setting"),
        ("u@a\nv@a", ":2: 'a' has another user"),
        ("a slots=4000\na slots=4000", ":2: the lines of 'a' add up"),
        ("a,4\nb,2", ":1: '4' is a number, not a host name; write slots as host:4"),
        (":\na", ":1: ':' means this machine in GNU parallel only; write localhost"),
        ("[lab]\na", r":1: '\[lab\]' is a section of an Ansible inventory; list only the hosts"),
        ("[lab:children]\na", r":1: '\[lab:children\]' is a section"),
        ("a ansible_host=10.0.0.1", ":1: 'ansible_host=10.0.0.1' is not a setting"),
        ("a,b,", ":1: a host name is missing; is there a comma too many"),
        ("a;4", ":1: 'a;4' is not a host name"),
    ],
)
def test_a_wrong_host_file_names_the_line(tmp_path: Path, text: str, words: str) -> None:
    """The file and the line are told."""
    with pytest.raises(NodeError, match=words):
        read_hostfile(write(tmp_path, text))


def test_the_entries_of_a_host_file_are_bounded(tmp_path: Path) -> None:
    """Lines that name the same hosts over and over do not take for ever."""
    with pytest.raises(NodeError, match=":3: more than 10 entries"):
        read_hostfile(write(tmp_path, "n[1-5]\n" * 3), most=10)


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder, a pipe, bytes that are no text, and too many of them."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"a\xff")
    (tmp_path / "huge").write_bytes(b"#" * (4 * 2**20 + 1))
    words = {".": "not a file", "pipe": "not a file", "none": "no file", "latin": "not UTF-8"}
    (tmp_path / "wide").write_bytes("a\n".encode("utf-16"))
    words["wide"] = "looks like UTF-16"
    for name, expected in {**words, "huge": "over 4 MiB"}.items():
        with pytest.raises(NodeError, match=expected):
            read_hostfile(tmp_path / name)


def test_auto_takes_the_allocation_of_slurm() -> None:
    """Tasks per node are slots, in Slurm's short form."""
    environ = {"SLURM_JOB_NODELIST": "n[1-3],m7", "SLURM_TASKS_PER_NODE": "2(x3),1"}
    found = parse("auto", Path(), environ)
    assert [(node.host, node.slots) for node in found] == [
        ("n1", 2),
        ("n2", 2),
        ("n3", 2),
        ("m7", 1),
    ]


def test_a_task_of_several_cpus_has_as_many_slots() -> None:
    """One task a host with all its CPUs is a common way to ask for whole hosts."""
    environ = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_TASKS_PER_NODE": "1(x2),2"}
    found = parse("auto", Path(), environ | {"SLURM_CPUS_PER_TASK": "4"})
    assert [node.slots for node in found] == [4, 4, 8]


def test_in_a_step_the_cpus_of_the_job_count() -> None:
    """There Slurm says the tasks of the step, not of the job."""
    environ = {
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_JOB_CPUS_PER_NODE": "2(x2),1",
        "SLURM_STEP_ID": "0",
        "SLURM_TASKS_PER_NODE": "1",
    }
    assert [node.slots for node in parse("auto", Path(), environ)] == [2, 2, 1]


def test_slurm_without_tasks_and_cpus_leaves_the_slots_open() -> None:
    """The hosts are asked then."""
    assert parse("auto", Path(), {"SLURM_NODELIST": "n1"}) == (Node("n1"),)


@pytest.mark.parametrize("tasks", ["2", "2(x3)", "x", "2(x0),1(x2)", "0(x2)", "2(x99999999999999)"])
def test_variables_of_slurm_that_do_not_fit_are_refused(tasks: str) -> None:
    """A count that is not the number of hosts is not stretched to it."""
    environ = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": tasks}
    with pytest.raises(NodeError):
        parse("auto", Path(), environ)


def test_auto_takes_the_allocation_of_pbs(tmp_path: Path) -> None:
    """PBS writes a host once for each of its slots."""
    file = write(tmp_path, "n1\nn1\nn2\n", "pbs")
    found = parse("auto", Path(), {"PBS_NODEFILE": str(file)})
    assert found == (Node("n1", slots=2), Node("n2", slots=1))


def test_auto_outside_of_a_job_is_refused() -> None:
    """Empty variables count as none; this machine is never taken in the place of a job's hosts."""
    environ = {"SLURM_JOB_NODELIST": "", "PBS_NODEFILE": ""}
    assert not nodes.has_allocation(environ)
    with pytest.raises(NodeError, match="in no job of Slurm or PBS") as refused:
        parse("auto", Path(), environ)
    assert "cluster schedule SPEC --slurm" in (refused.value.fix or "")


@pytest.mark.fault(84)
def test_this_machine_is_known_under_its_names() -> None:
    """Names that can only mean this machine do, and others do not."""
    own = socket.gethostname()
    assert all(
        map(nodes.is_local, ["localhost", "127.0.0.1", "127.0.1.1", "::1", own, own.upper()])
    )
    assert not any(map(nodes.is_local, ["128.0.0.1", "example.org", f"{own}x"]))


def fake_machine(root: Path, cgroup: str, mounts: str, files: dict[str, str]) -> Path:
    """A root folder with what usable_cores reads."""
    for name, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


V2 = "30 23 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n"
V1 = "33 32 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
CPU = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "cores"),
    [
        ("0::/a/b\n", V2, {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8),
        ("0::/a/b\n", V2, {"sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 2),
        ("0::/a/b\n", V2, {"sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 1),
        (
            "0::/a/b\n",
            V2,
            {
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "600000 100000",
            },
            3,
        ),
        ("0::/not/there\n", V2, {"sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        (
            "4:cpu,cpuacct:/job\n",
            V1,
            {f"{CPU}/job/cpu.cfs_quota_us": "500000\n", f"{CPU}/job/cpu.cfs_period_us": "100000\n"},
            5,
        ),
        (
            "4:cpu,cpuacct:/job\n",
            V1,
            {f"{CPU}/job/cpu.cfs_quota_us": "-1\n", f"{CPU}/job/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        ("", "", {}, 8),
        ("nonsense\n::\n", "a b\n - \n", {}, 8),
    ],
)
def test_usable_cores_heed_the_quota_of_every_group(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cgroup: str,
    mounts: str,
    files: dict[str, str],
    cores: int,
) -> None:
    """Both versions of cgroups, nested ones, and a container that sees the host's path."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    assert nodes.usable_cores(fake_machine(tmp_path, cgroup, mounts, files)) == cores


def test_usable_cores_heed_the_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is bound to three cores has three."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 4, 7})
    assert nodes.usable_cores(tmp_path) == 3
