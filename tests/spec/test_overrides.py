"""``--set key=value``: YAML values at dotted places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.common.errors import SpecError
from cluster.spec import Spec, parse

GOOD = "kernel: k.py:f\nsamples: 1e6\n"


def read(text: str, *overrides: str) -> Spec:
    """The spec of a text, with overrides."""
    return parse(text, "s.yaml", Path(), overrides, {})


def hosts(spec: Spec) -> list[tuple[str, int | None]]:
    """Names and slots."""
    return [(node.host, node.slots) for node in spec.nodes.hosts]


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("samples=1e3", "samples", 1000),
        ("samples = 1_000", "samples", 1000),
        ("name=on", "name", "on"),
        ("name='10'", "name", "10"),
        ("description=a, b", "description", "a, b"),
        ("include=[a.py, b.py]", "include", ("a.py", "b.py")),
        ("params.x=[1, 2]", "params", {"x": (1, 2)}),
        ("params={x: 1}", "params", {"x": 1}),
        ("params.x.y=1", "params", {"x": {"y": 1}}),
        ("params.x=null", "params", {"x": None}),
        ("params.x='a, b'", "params", {"x": "a, b"}),
        ("seed=null", "seed", None),
    ],
)
def test_a_value_is_set_by_the_rules_of_the_spec(override: str, key: str, expected: Any) -> None:
    """The text after '=' is one YAML value; missing mappings are created."""
    spec = read(GOOD, override)
    assert getattr(spec, key) == expected
    assert spec.overrides == (override,)


def test_the_last_of_two_overrides_holds() -> None:
    """They are applied in turn."""
    assert read(GOOD, "samples=1", "samples=2").samples == 2


def test_null_takes_a_key_out() -> None:
    """So a target can take the place of samples."""
    spec = read(GOOD, "samples=null", "until.half_width=1e-3")
    assert spec.samples is None
    assert spec.until is not None


@pytest.mark.parametrize(
    ("nodes", "overrides", "expected", "required"),
    [
        ("[a, b]", ["nodes[1].slots=4"], [("a", None), ("b", 4)], None),
        ("[a, {host: b}]", ["nodes[1].slots=4"], [("a", None), ("b", 4)], None),
        ("[a, b]", ["nodes.required=1"], [("a", None), ("b", None)], 1),
        ("a", ["nodes.required=1", "nodes[0].slots=2"], [("a", 2)], 1),
        ("{hosts: a, required: 1}", ["nodes[0].slots=2"], [("a", 2)], 1),
        ("{hosts: [a]}", ["nodes.hosts[0].slots=2"], [("a", 2)], None),
        ("[a, b]", ["nodes[1]=c:3"], [("a", None), ("c", 3)], None),
        ("[a, b]", ["nodes=n[1-2],m"], [("n1", None), ("n2", None), ("m", None)], None),
    ],
)
def test_nodes_are_set_in_whatever_form_they_stand(
    nodes: str, overrides: list[str], expected: list[tuple[str, int | None]], required: int | None
) -> None:
    """A text becomes a mapping where it needs keys, and a list where it needs entries."""
    spec = read(f"{GOOD}nodes: {nodes}", *overrides)
    assert hosts(spec) == expected
    assert spec.nodes.required == required


def test_without_nodes_the_first_entry_is_this_machine() -> None:
    """So the slots of a run on one machine can be set."""
    assert hosts(read(GOOD, "nodes[0].slots=3")) == [("localhost", 3)]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("x", "--set: 'x' is not of the form key=value; write samples=1e6"),
        ("=1", "--set: '=1' is not of the form key=value"),
        ("a b=1", "--set: 'a b=1' is not of the form key=value"),
        ("samples=", "--set: samples: has no value; write key=null"),
        ("samples=0", "--set: samples: must be at least 1, got 0"),
        ("samples=010", "--set: samples: 010 could be decimal or octal"),
        ("samples=[", "--set: samples: a value is missing before the end"),
        ("samples=# 1", "--set: samples: the value is empty"),
        ("samples.x=1", "--set: samples: is 1000000.0, so it has no key 'x'"),
        ("samplse=1", "--set: samplse: unknown key; did you mean 'samples'?"),
        ("samplse=null", "--set: samplse: is not in the spec, so it cannot be removed"),
        ("until.half_width=0", "--set: until.half_width: must be above 0, got 0"),
        ("params.x={a: 1, a: 2}", "--set: params.x: a: duplicate key"),
        ("include[0]=a.py", "--set: include: is not in the spec, so it has no entries to set"),
        ("nodes[1].slots=4", "--set: nodes[1]: the list has 1 entry, counted from 0"),
        ("sweep.a=1", "--set: sweep.a: unknown key; the keys here are matrix, zip, include"),
        ("retry.attempts=1,2", "--set: retry.attempts: several values make a sweep, and a sweep"),
        ("params.d=1,,2", "--set: params.d: "),
        ("params.d=1],[2", "--set: params.d: "),
        (".".join(["params"] * 40) + "=1", "--set: params: nested deeper than 32 levels"),
    ],
)
def test_a_wrong_override_names_the_option(override: str, expected: str) -> None:
    """Its problems have no line, and name the option."""
    with pytest.raises(SpecError) as caught:
        read(GOOD, override)
    assert any(str(problem).startswith(expected) for problem in caught.value.problems)


def test_all_wrong_overrides_are_told_at_once() -> None:
    """Together with the problems of the text."""
    with pytest.raises(SpecError) as caught:
        read("kernel: x\nsamples: 1\n", "a", "retry.attempts=1,2", "block=0")
    assert len(caught.value.problems) == 4


def test_a_spec_is_revised_without_its_file() -> None:
    """A resume may change where a run works, and an extension its goal."""
    spec = read(f"{GOOD}nodes: [a, b]", "seed=3")
    there = spec.revised(["nodes.required=1", "backend=serial"])
    assert (there.nodes.required, there.backend, there.seed) == (1, "serial", 3)
    assert hosts(there) == [("a", None), ("b", None)]
    assert there.overrides == ("seed=3", "nodes.required=1", "backend=serial")
    further = spec.revised(["until.rel_error=1e-4"], without=["samples"])
    assert (further.samples, further.params) == (None, spec.params)
    with pytest.raises(SpecError, match="--set: samples: must be at least 1"):
        spec.revised(["samples=0"])
    assert spec.problem("seed", "m").file == "--set"
