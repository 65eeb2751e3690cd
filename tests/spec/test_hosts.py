"""Host files and defaults of a node list, as a run needs them later."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.backends.base import Options
from cluster.common.errors import SpecError, UsageError
from cluster.common.secret import Secret
from cluster.hosts.nodes import Defaults, HostFile, Node
from cluster.spec import Spec, hosts_of, parse

KERNEL = "kernel: k.py:f\nsamples: 1e3\nbackend: ssh\n"


def spec(folder: Path, text: str) -> Spec:
    """A spec beside two host files."""
    (folder / "one.txt").write_text("a slots=2\nb\n")
    (folder / "two.txt").write_text("c\n")
    return parse(KERNEL + text, "s.yaml", folder)


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("nodes: one.txt", [("one.txt", ("a", "b"))]),
        ("nodes: [z, two.txt]", [("two.txt", ("c",))]),
        ("nodes: {file: one.txt}", [("one.txt", ("a", "b"))]),
        (
            "nodes: {hosts: two.txt, file: one.txt}",
            [("two.txt", ("c",)), ("one.txt", ("a", "b"))],
        ),
        ("nodes: [a, b]", []),
    ],
)
def test_host_files_are_remembered_with_the_hosts_they_gave(
    tmp_path: Path, text: str, files: list[tuple[str, tuple[str, ...]]]
) -> None:
    """For every way to name a host file, and also after a round trip through the ledger."""
    made = spec(tmp_path, text)
    assert made.nodes.files == tuple(HostFile(*file) for file in files)
    assert Spec.from_json(made.to_json()).nodes == made.nodes


def test_overrides_of_hosts_take_the_files_away_and_others_do_not(tmp_path: Path) -> None:
    """A resume with other hosts uses only these."""
    made = spec(tmp_path, "nodes: one.txt")
    assert made.revised(["nodes.required=1"]).nodes.files == made.nodes.files
    assert made.revised(["backend=mpi"]).nodes.files == made.nodes.files
    for change in ("nodes=z", "nodes[0].slots=7", "nodes.file=two.txt"):
        assert HostFile("one.txt", ("a", "b")) not in made.revised([change]).nodes.files


def test_defaults_hold_for_hosts_that_say_nothing(tmp_path: Path) -> None:
    """Of the list and of a file; a host's own settings win."""
    made = spec(
        tmp_path,
        "nodes:\n  hosts: [x:3, {host: y, user: bob}]\n  file: two.txt\n"
        "  defaults: {slots: 2, user: ada, env: {A: '1'}}\n",
    )
    env = (("A", "1"),)
    assert made.nodes.hosts == (
        Node("x", slots=3, user="ada", env=env),
        Node("y", slots=2, user="bob", env=env),
        Node("c", slots=2, user="ada", env=env),
    )
    assert made.nodes.defaults == Defaults(slots=2, user="ada", env=env)
    assert Spec.from_json(made.to_json()).nodes == made.nodes
    assert made.revised(["nodes.wait=5"]).nodes.defaults == made.nodes.defaults


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{slot: 2}", "nodes.defaults.slot: unknown key; did you mean 'slots'?"),
        ("{slots: 0}", "nodes.defaults.slots: must be at least 1, got 0"),
        ("{python: -c}", "nodes.defaults"),
        ("[1]", "nodes.defaults: must be a mapping"),
    ],
)
def test_wrong_defaults_are_told_at_their_place(tmp_path: Path, text: str, words: str) -> None:
    """Even if no host needs the defaults."""
    with pytest.raises(SpecError) as caught:
        spec(tmp_path, f"nodes: {{hosts: [x], defaults: {text}}}")
    assert words in str(caught.value)


def test_hosts_of_options_are_texts_or_mappings() -> None:
    """As in a spec; an error names the option and the text."""
    assert hosts_of(["n[1-2]:4", "{host: z, user: ada}"], "--add") == (
        Node("n1", slots=4),
        Node("n2", slots=4),
        Node("z", user="ada"),
    )
    for text, words in (
        ("n[1", "'[' without ']' (column 2)"),
        ("{host: z, slots: none}", "slots: must be"),
        ("{slots: 2}", "host: this required key is missing"),
        ("{host: [z", "--add '{host: [z'"),
        ("-oProxyCommand=x", "may not start with '-'"),
    ):
        with pytest.raises(UsageError) as caught:
            hosts_of([text], "--add")
        assert words in str(caught.value)
        assert str(caught.value).startswith("--add ")


STANDS = "kernel: k.py:f\nsamples: 1e3\nbackend: dispy\nnodes: [{host: a, attach: 9701}]\n"


def test_a_stock_node_is_met_only_on_a_network_that_is_said_to_be_trusted(tmp_path: Path) -> None:
    """Nodes are sealed by default and then need a secret; trusted ones may do without."""
    sealed = parse(STANDS + "dispy: {secret: {env: S}}\n", "s.yaml", tmp_path)
    trusted = parse(STANDS + "dispy: {network: trusted}\n", "s.yaml", tmp_path)
    assert [Options.of(each).own for each in (sealed, trusted)] == [
        {"secret": Secret(env="S"), "network": "sealed"},
        {"secret": None, "network": "trusted"},
    ]
    for wrong in ("", "dispy: {}\n", "dispy: {network: sealed}\n"):
        with pytest.raises(SpecError, match="a node with attach needs a secret"):
            parse(STANDS + wrong, "s.yaml", tmp_path)
    with pytest.raises(SpecError, match="sealed"):
        parse(STANDS + "dispy: {network: open}\n", "s.yaml", tmp_path)
