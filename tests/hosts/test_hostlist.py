"""Host lists as text: every form, and every way to get one wrong."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.hosts.nodes import MAX_NODES, Node, NodeError, expand


def hosts(text: str) -> list[str]:
    """The names that a host list stands for."""
    return [node.host for node in expand(text)]


@pytest.mark.fault(82)
@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", "n1"),
        ("n[01-03,20]", "n01 n02 n03 n20"),
        ("n[8-11]", "n8 n9 n10 n11"),
        ("n[08-11]", "n08 n09 n10 n11"),
        ("a[1-2],b3", "a1 a2 b3"),
        ("a[1-2], b3", "a1 a2 b3"),
        ("r[1-2]n[3-4]x", "r1n3x r1n4x r2n3x r2n4x"),
        ("[1-2].lab", "1.lab 2.lab"),
        ("10.0.0.[1-2]", "10.0.0.1 10.0.0.2"),
        ("[::1]", "::1"),
        ("[fe80::1%eth0]", "fe80::1%eth0"),
    ],
)
def test_a_host_list_names_its_hosts_in_order(text: str, names: str) -> None:
    """Ranges expand as Slurm expands them, leading zeros kept."""
    assert hosts(text) == names.split()


@pytest.mark.fault(82)
@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("h:4", Node("h", slots=4)),
        ("4/h", Node("h", slots=4)),
        ("me@h", Node("h", user="me")),
        ("2/me@h", Node("h", slots=2, user="me")),
        ("me@h:2", Node("h", slots=2, user="me")),
        ("[::1]:4", Node("::1", slots=4)),
        ("4/me@[::1]", Node("::1", slots=4, user="me")),
    ],
)
def test_slots_and_user_stand_beside_the_host(text: str, node: Node) -> None:
    """A number after ':' or before '/' is a number of slots."""
    assert expand(text) == (node,)


def test_slots_hold_for_every_host_of_the_entry() -> None:
    """A range with slots gives them to each host, and to no other entry."""
    assert [node.slots for node in expand("n[1-2]:3,m")] == [3, 3, None]


@pytest.mark.fault(82, 83)
@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 0, "missing"),
        ("a,", 2, "missing"),
        ("a,,b", 2, "missing"),
        ("n[16-01]", 2, "backwards"),
        ("n[1-2", 1, "without ']'"),
        ("x,[::1", 2, "without ']'"),
        ("n1]", 2, "without '['"),
        ("n[a-b]", 2, "not a number or a range"),
        ("n[]", 2, "not a number or a range"),
        ("n[1,]", 4, "not a number or a range"),
        ("n[1-2-3]", 2, "not a number or a range"),
        ("n[1[2]]", 3, "bracket inside a bracket"),
        ("n[1-2, node[a-b]", 11, "bracket inside a bracket"),
        ("h:0", 2, "from 1 to"),
        ("h:x", 2, "whole number"),
        ("h:", 2, "whole number"),
        ("0/h", 0, "from 1 to"),
        ("a,h:99999", 4, "from 1 to"),
        ("2/h:2", 4, "before and after"),
        ("me@h:22", 5, "looks like a port"),
        ("4", 0, "'4' is a number, not a host name"),
        ("n1,4", 3, "'4' is a number, not a host name (column 4); write slots as host:4"),
        ("[1-4]", 0, "'[1-4]' is a number"),
        ("n1..n4", 0, "'n1..n4' is not a host name (column 1); write a range as n[01-16]"),
        ("n{1..4}", 0, "write a range as n[01-16]"),
        ("n1 n2", 0, "'n1 n2' is not a host name (column 1); separate hosts by commas"),
        ("127.1", 0, "not an IPv4 address"),
        ("10.0.0.256", 0, "not an IPv4 address"),
        ("10.0.0.[08-09]", 0, "not an IPv4 address"),
        ("0x7f000001", 0, "not an IPv4 address"),
        (":", 0, "means this machine in GNU parallel only (column 1); write localhost"),
        ("a,4/:", 4, "means this machine in GNU parallel only (column 5); write 4/localhost"),
        ("::1", 0, "not a host name"),
        ("[::g]", 1, "not an IPv6 address"),
        ("[::1%$(id)]", 1, "not an IPv6 address"),
        ("-oProxyCommand=x", 0, "may not start with '-'"),
        ("a,-x", 2, "may not start with '-'"),
        ("me@-x", 3, "may not start with '-'"),
        ("-l@h", 0, "not a user name"),
        ("a b", 0, "not a host name"),
        ("a;id", 0, "not a host name"),
        ("$(id)", 0, "not a host name"),
        ("a`id`", 0, "not a host name"),
        ("a\nb", 0, "not a host name"),
        ("\u0430", 0, "not a host name"),
        ("n[1-9999999999999999999]", 2, "digits"),
        ("n[\u0661-\u0662]", 2, "not a number or a range"),
        ("h" * 300, 0, "not a host name"),
    ],
)
def test_a_bad_host_list_points_at_the_column(text: str, column: int, words: str) -> None:
    """What is wrong is named, with its place in the text."""
    with pytest.raises(NodeError) as caught:
        expand(text)
    assert words in str(caught.value)
    assert caught.value.column == column


@pytest.mark.fault(82)
@pytest.mark.parametrize("user", ["", "me@"])
@pytest.mark.parametrize("host", ["n1", "n[1-4]", "[::1]"])
def test_what_looks_like_a_port_is_asked_about(user: str, host: str) -> None:
    """With a user and without; both that can be meant have a way to be written."""
    with pytest.raises(NodeError, match="':22' is 22 slots here, and looks like a port") as caught:
        expand(f"{user}{host}:22", ports=True)
    assert caught.value.fix
    assert caught.value.fix.endswith(f"or 22/{user}{host} for 22 slots")
    assert "port: 22}" in caught.value.fix
    assert {node.slots for node in expand(f"22/{user}{host}", ports=True)} == {22}
    assert {node.slots for node in expand(f"{host}:22")} == {22}  # as MPICH's host files have it


@pytest.mark.fault(81)
@pytest.mark.parametrize(
    "text", ["n[1-100001]", "n[1-999999999999]", "n[0-99999],m", "n" + "[0-999]" * 9]
)
def test_a_list_that_is_too_long_is_refused_at_once(text: str) -> None:
    """The size is computed, not counted out."""
    start = time.perf_counter()
    with pytest.raises(NodeError, match="at most 100,000"):
        expand(text)
    assert time.perf_counter() - start < 1


def test_a_list_of_the_largest_size_is_taken() -> None:
    """The cap is the last size that is allowed."""
    assert len(expand("n[1-100000]")) == MAX_NODES


@pytest.mark.fault(82, 83)
@given(st.text(max_size=40) | st.text("n[]01-,:/@ .", max_size=40))
def test_any_text_is_hosts_or_a_node_error(text: str) -> None:
    """No text gives anything else, and no host begins with '-'."""
    column, nodes = outcome(text)
    assert column is None or 0 <= column <= len(text)
    assert not any(node.host.startswith("-") or " " in node.host for node in nodes)


def outcome(text: str) -> tuple[int | None, tuple[Node, ...]]:
    """The column of the error, and the nodes."""
    try:
        return None, expand(text)
    except NodeError as error:
        return error.column, ()
