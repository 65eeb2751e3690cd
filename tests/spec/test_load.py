"""Reading a spec from its text: what is accepted, and the position of every problem."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.common.errors import SpecError
from cluster.hosts.nodes import Node, NodeList, local
from cluster.spec import Retry, Spec, Until, load, parse
from cluster.spec.request import resolve
from cluster.spec.values import OURS

GOOD = "kernel: k.py:f\nsamples: 1e6\n"


def read(text: str | bytes, *overrides: str) -> Spec:
    """The spec of a text, with overrides."""
    return parse(text, "s.yaml", Path("folder"), overrides, {})


def case(text: str, expected: str, *faults: int) -> ParameterSet:
    """A text, the message for it, and the cases of the catalogue that it belongs to."""
    return pytest.param(text, expected, marks=[pytest.mark.fault(fault) for fault in faults])


def problems(text: str | bytes, *overrides: str) -> list[str]:
    """The lines that a user sees."""
    with pytest.raises(SpecError) as caught:
        read(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


FULL = """\
name: full-1.2_x
description: |
  Two
  lines.
kernel: ../jobs/pi.py:pi
params: {d: 3, x: 1e-3, names: [a, [b]], deep: {on: no}, none: null, \u03c3: true}
block: 1e3
seed: 340282366920938463463374607431768211455
until:
  half_width: 1e-3
  rel_error: 1
  std_error: 0.5
  confidence: 0.99
  min_samples: 1e3
  max_samples: 1_000_000
  max_time: 1h30m
include: [helper.py, sub/other.dat]
backend: threads
nodes:
  hosts:
    - a:4
    - host: n[01-02]
      slots: 2
      python: /opt/bin/python
      user: me
      port: 2222
      weight: 2
      env: {OMP_NUM_THREADS: "1"}
      tags: [gpu]
      cwd: /scratch/me
  required: 2
  wait: 10m
retry: {attempts: 3, timeout: 2d}
store: ../runs
"""


LONG = "x" * 70_000


@pytest.mark.parametrize(
    "text",
    [
        f"kernel: k.py:{LONG}",
        f"kernel: {LONG}.py:k",
        f"kernel: k.py:k\nnodes: {LONG}",
        f"kernel: k.py:k\nnodes: [{LONG}, 'n[{LONG}]']",
        f"kernel: k.py:k\nnodes: k.py:{LONG}",
        f"kernel: k.py:k\nparams: {{{LONG[:900]}: 1}}",
        f"kernel: k.py:k\ninclude: [{LONG}]",
        f"kernel: k.py:k\nschedule: {{window: '22:00-06:00', timezone: {LONG}}}",
        "kernel: k.py:k\n" + "".join(f"key{number}: 1\n" for number in range(5000)),
        "kernel: k.py:k\nparams: {" + ", ".join(f"p{n}: 1" for n in range(5000)) + "}",
    ],
)
def test_an_error_is_no_longer_than_people_read(text: str, tmp_path: Path) -> None:
    """A long quotation is cut in its middle, and only the first of many problems are shown."""
    (tmp_path / "k.py").write_text("def k(rng, samples):\n    return 0\n")
    path = tmp_path / "long.yaml"
    path.write_text(f"{text}\nsamples: 1\n")
    with pytest.raises(SpecError) as caught:
        resolve(load(path))
    assert len(str(caught.value)) < 15_000
    assert all(len(problem.message) <= 700 for problem in caught.value.problems)


def test_a_spec_with_every_key_is_read() -> None:
    """Each key arrives with its meaning."""
    spec = read(FULL)
    assert spec.params == {
        "d": 3,
        "x": 1e-3,
        "names": ("a", ("b",)),
        "deep": {"on": "no"},
        "none": None,
        "\u03c3": True,
    }
    assert (spec.block, type(spec.block), spec.seed) == (1000, int, 2**128 - 1)
    assert spec.until == Until(
        half_width=1e-3,
        rel_error=1,
        std_error=0.5,
        confidence=0.99,
        min_samples=1000,
        max_samples=10**6,
        max_time=5400,
    )
    assert spec.include == ("helper.py", "sub/other.dat")
    assert (spec.backend, spec.store) == ("threads", "../runs")
    assert spec.retry == Retry(attempts=3, timeout=172_800)
    assert (spec.nodes.required, spec.nodes.wait) == (2, 600.0)
    assert [node.host for node in spec.nodes.hosts] == ["a", "n01", "n02"]
    assert spec.nodes.hosts[2] == Node(
        "n02",
        slots=2,
        python="/opt/bin/python",
        user="me",
        port=2222,
        weight=2.0,
        env=(("OMP_NUM_THREADS", "1"),),
        tags=("gpu",),
        cwd="/scratch/me",
    )


def test_a_short_spec_has_the_defaults() -> None:
    """A kernel and samples are enough; the name is the file's."""
    spec = read(GOOD)
    assert (spec.name, spec.samples, spec.block, spec.seed) == ("s", 10**6, "auto", None)
    assert (spec.until, spec.params, spec.include) == (None, {}, ())
    assert (spec.backend, spec.store, spec.retry) == ("processes", "runs", Retry())
    assert spec.retry.timeout == 3600
    assert spec.retry.memory is None
    assert spec.nodes == NodeList((local(),))
    assert (spec.path, spec.base, spec.overrides) == ("s.yaml", Path("folder"), ())


@pytest.mark.fault(85)
@pytest.mark.parametrize(
    ("file", "name"),
    [("a/my spec (2).yaml", "my-spec-2-"), ("-rf.yaml", "rf"), ("\u03c0.yaml", "run"), ("", "run")],
)
def test_a_file_s_name_becomes_a_safe_one(file: str, name: str) -> None:
    """Characters that a name cannot have are dropped."""
    assert parse(GOOD, file, Path(), (), {}).name == name


@pytest.mark.parametrize(
    "until", ["{max_time: 10}", "{max_time: 10, max_samples: 1e6}", "{rel_error: 1e-3}"]
)
def test_a_limit_or_a_target_stands_in_for_samples(until: str) -> None:
    """Each of them is enough to say when to stop."""
    assert read(f"kernel: k.py:f\nuntil: {until}").samples is None


def test_samples_go_with_a_time_limit() -> None:
    """Whichever comes first ends the run."""
    spec = read(GOOD + "until: {max_time: 8h, confidence: 0.9}")
    assert spec.until == Until(max_time=28_800, confidence=0.9)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90m", 5400),
        ("8h", 28_800),
        ("1h30m", 5400),
        ("45s", 45),
        ("2d", 172_800),
        ("1.5h", 5400),
        ("1h 30m", 5400),
        ("0.5", 0.5),
        ("1e3", 1000),
    ],
)
def test_a_time_is_a_number_of_seconds_or_has_units(text: str, seconds: float) -> None:
    """Days, hours, minutes and seconds, in this order."""
    until = read(GOOD, f"until.max_time={text}").until
    assert until is not None
    assert until.max_time == seconds


@pytest.mark.parametrize("kernel", ["pkg.mod:f", "k.py:f", "../j/k.py:_f1", "/a b/k.py:f"])
def test_a_kernel_is_a_module_or_a_file(kernel: str) -> None:
    """Whether the kernel exists is checked later."""
    assert read(f"kernel: {kernel}\nsamples: 1").kernel == kernel


NODES: list[tuple[str, list[tuple[str, int | None]]]] = [
    ("n[01-02]", [("n01", None), ("n02", None)]),
    ("a:4,b", [("a", 4), ("b", None)]),
    ("[4/a, 'b[1-2]']", [("a", 4), ("b1", None), ("b2", None)]),
    ("{hosts: a, required: 1}", [("a", None)]),
    ("[{host: a, slots: null}]", [("a", None)]),
    ("hosts.txt", [("c", 2)]),
    ("{file: hosts.txt}", [("c", 2)]),
    ("{hosts: [a], file: hosts.txt}", [("a", None), ("c", 2)]),
    ("auto", [("s1", 3)]),
]


@pytest.mark.parametrize(
    "nodes", ["auto", "[auto]", "{hosts: auto}", "{hosts: [auto], required: 3}"]
)
def test_a_spec_for_the_hosts_of_a_job_can_be_read_outside_of_one(nodes: str) -> None:
    """It can be scheduled outside a job; its hosts come with the job, even after an override."""
    spec = parse(f"{GOOD}nodes: {nodes}", "s.yaml", Path(), (), {})
    assert spec.nodes.hosts == ()
    assert spec.nodes.required == (3 if "required" in nodes else None)
    assert Spec.from_json(spec.to_json()).nodes == spec.nodes
    assert spec.revised(["samples=7"]).nodes == spec.nodes


def test_hosts_of_a_job_beside_others_need_the_job() -> None:
    """Otherwise the other hosts would silently be the only ones."""
    with pytest.raises(SpecError, match="in no job of Slurm or PBS"):
        parse(f"{GOOD}nodes: [auto, n1]", "s.yaml", Path(), (), {})


@pytest.mark.parametrize(("nodes", "expected"), NODES)
def test_nodes_may_be_written_in_many_ways(
    tmp_path: Path, nodes: str, expected: list[tuple[str, int | None]]
) -> None:
    """All are resolved when the spec is read."""
    (tmp_path / "hosts.txt").write_text("c slots=2\n")
    environ = {"SLURM_JOB_NODELIST": "s1", "SLURM_TASKS_PER_NODE": "3"}
    spec = parse(f"{GOOD}nodes: {nodes}", "s.yaml", tmp_path, (), environ)
    assert [(node.host, node.slots) for node in spec.nodes.hosts] == expected
    assert Spec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        case("samples: 0", "2:10: samples: must be at least 1, got 0", 77),
        case("samples: -5", "2:10: samples: must be at least 1, got -5", 77),
        case("samples: 1e30", "2:10: samples: must be at most 9223372036854775807, got 1e+30", 77),
        case(
            "samples: 1000000000000000000000000000000",
            "2:10: samples: must be at most 9223372036854775807, ",
            77,
        ),
        case("samples: .inf", "2:10: samples: must be finite, got .inf", 77),
        case("samples: .nan", "2:10: samples: must be a whole number, got .nan", 77),
        case("samples: 1.5", "2:10: samples: must be a whole number, got 1.5", 65),
        case("samples: 10**9", "2:10: samples: must be a whole number, got the text '10**9'", 65),
        case("samples: 1e9.5", "2:10: samples: must be a whole number, got the text '1e9.5'", 65),
        case(
            "samples: '1000'",
            "2:10: samples: must be a whole number, got the text '1000'; write it without quotes",
            65,
        ),
        case("samples: yes", "2:10: samples: must be a whole number, got the text 'yes'", 66),
        case("samples: true", "2:10: samples: must be a whole number, got true", 66),
        case("samples:", "2:9: samples: a value is missing; leave the key out for its default", 70),
        case("samples: [1]", "2:10: samples: must be a whole number, got a list", 70),
        case("samples: {a: 1}", "2:10: samples: must be a whole number, got a mapping", 70),
        case(
            "samples: 010",
            "2:10: samples: 010 could be decimal or octal; write 10, 0o10 for octal, or ",
            67,
        ),
    ],
)
def test_samples_that_cannot_be_meant(text: str, expected: str) -> None:
    """What was expected, what was found, and where."""
    (line,) = problems(f"kernel: k.py:f\n{text}\n")
    assert line.startswith(f"s.yaml:{expected}")


BAD_NAMES = ["../../x", "/abs", ".", "''", "x" * 300, '"a\\nb"', "-rf", "$(id)", '"\u202ea"']


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        case("block: 0", "3:8: block: must be at least 1, got 0", 77),
        ("block: Auto", "3:8: block: must be auto or a whole number, got the text 'Auto'"),
        case("seed: -1", "3:7: seed: must be at least 0, got -1", 77),
        ("seed: 1e30", "3:7: seed: is too large for an exponent; write all of its digits"),
        ("seed: abc", "3:7: seed: must be a whole number, got the text 'abc'"),
        ("params: 3", "3:9: params: must be a mapping, got 3; write it as name: value"),
        ("params: {a b: 3}", "3:10: params.'a b': 'a b' is not the name of a parameter"),
        ("params: {if: 3}", "3:10: params.if: 'if' is a keyword of Python"),
        ("params: {\ufb01: 3}", "3:10: params.\ufb01: '\ufb01' is not the name"),
        case("params: {a: [1, .nan]}", "3:17: params.a[1]: must be finite, got .nan", 77),
        ("until: 3", "3:8: until: must be a mapping, got 3"),
        ("until: 22:30", "3:8: until: must be a mapping, got the text '22:30'"),
        case("until: {max_time: 22:30}", "3:19: until.max_time: must be a time, got the text", 67),
        case("until: {max_time: 0}", "3:19: until.max_time: must be a time above 0", 77),
        ("until: {max_time: 0s}", "3:19: until.max_time: must be a time above 0"),
        ("until: {max_time: '90'}", "3:19: until.max_time: must be a time, got the text '90'"),
        ("until: {max_time: 30m1h}", "3:19: until.max_time: must be a time, got"),
        ("until: {max_time: .inf}", "3:19: until.max_time: must be a time above 0"),
        ("until: {max_time: 1, confidence: 1}", "3:34: until.confidence: must be below 1, got 1"),
        (
            "until: {max_time: 1, confidence: 0.9999999999999999}",
            "3:34: until.confidence: must be below 1 by at least",
        ),
        ("until: {max_time: 1, confidence: 0}", "3:34: until.confidence: must be above 0, got 0"),
        ("until: {max_time: 1, confidence: x}", "3:34: until.confidence: must be a number, got"),
        ("until: {max_time: 1, confidence: .nan}", "3:34: until.confidence: must be finite"),
        ("until: {min_samples: 3}", "3:22: until.min_samples: needs a precision target"),
        ("until: {max_samples: 3}", "3:22: until.max_samples: needs a precision target"),
        (
            "until: {half_width: 1}",
            "2:10: samples: cannot be combined with a target, until.half_width",
        ),
        ("include: a.py", "3:10: include: must be a list, got the text 'a.py'; write it as [a, b]"),
        ("include: [../a.py]", "3:11: include[0]: must stay below the kernel's folder"),
        ("include: [/a.py]", "3:11: include[0]: must be a file below the kernel's folder"),
        ("include: ['*.py']", "3:11: include[0]: must be a file below the kernel's folder"),
        ("include: [3]", "3:11: include[0]: must be text, got 3; quote it"),
        ("backend: process", "3:10: backend: unknown backend 'process'; it has serial"),
        ("backend: no", "3:10: backend: unknown backend 'no'; it has"),
        ("retry: {attempts: 0}", "3:19: retry.attempts: must be at least 1, got 0"),
        ("retry: {memory: 2 GX}", "3:17: retry.memory: must be a size, got the text '2 GX'; 500MB"),
        ("retry: {memory: 4}", "3:17: retry.memory: must be at least 128 MiB, got 4"),
        ("retry: {memory: true}", "3:17: retry.memory: must be a size, got true"),
        case("retry: {timeout: 0}", "3:18: retry.timeout: must be a time above 0", 77),
        case("store: $HOME/runs", "3:8: store: must be a folder, without $ and ~", 79),
        case("store: ~/runs", "3:8: store: must be a folder, without $ and ~", 79),
        ("store: ''", "3:8: store: must be one line of text that is not empty, got ''"),
        ("description: 3", "3:14: description: must be text, got 3; quote it"),
        ("name: 2024", "3:7: name: must be text, got 2024; quote it"),
        *(case(f"name: {name}", "3:7: name: must be ", 85) for name in BAD_NAMES),
        ("samplse: 3", "3:1: samplse: unknown key; did you mean 'samples'?"),
        case("until: {halfwidth: 3}", "3:9: until.halfwidth: unknown key; did you mean", 69),
        case("zzz: 3", "3:1: zzz: unknown key; the keys here are name, ", 69),
        case('"a\\n b": 3', "3:1: 'a\\n b': unknown key", 96),
        case("extends: base.yaml", "3:1: extends: unknown key; a spec has all of its keys", 80),
        case("imports: [a.yaml]", "3:1: imports: unknown key; a spec has all of its keys", 80),
        case("include: base.yaml", "3:10: include: lists files that the kernel imports", 80),
        case("nodes: !include b.yaml", "3:8: nodes: has the tag '!include'; YAML tags", 80),
        ("sweep: {a: 1}", "3:9: sweep.a: unknown key; the keys here are matrix, zip, include"),
        ("retry:", "3:7: retry: a value is missing"),
        ("nodes:\n  - host: a\n    port:", "5:10: nodes[0].port: a value is missing"),
        ("nodes: []", "3:8: nodes: names no host; leave nodes out to use this machine"),
        ("nodes: 3", "3:8: nodes: must be a host list, a list or a mapping, got 3"),
        ("nodes: [3]", "3:9: nodes[0]: must be a host or a mapping, got 3; write it as"),
        ("nodes: n[2-1]", "3:10: nodes: the range 2-1 runs backwards; write 1-2"),
        ("nodes: 'n[2-1]'", "3:11: nodes: the range 2-1 runs backwards; write 1-2"),
        ("nodes: {hosts: 'n[2-1]'}", "3:19: nodes.hosts: the range 2-1 runs backwards; write 1-2"),
        case("nodes:\n  - a\n  - -x", "5:5: nodes[1]: a host name may not start", 83),
        case("nodes:\n  - a\n  - b\n  - a", "6:5: nodes[2]: the host 'a' is listed twice, in", 82),
        ("nodes:\n  - host: n[2-1]", "4:13: nodes[0].host: the range 2-1 runs backwards"),
        ("nodes:\n  - host: a\n    slots: 0", "5:12: nodes[0].slots: must be at least 1, got 0"),
        ("nodes:\n  - host: a:1\n    slots: 1", "5:12: nodes[0].slots: slots in the host and as"),
        ("nodes:\n  - slots: 1", "4:5: nodes[0].host: this required key is missing"),
        ("nodes:\n  - host: a\n    slot: 1", "5:5: nodes[0].slot: unknown key; did you mean"),
        ("nodes: {host: a}", "3:9: nodes.host: unknown key; did you mean 'hosts'?"),
        ("nodes: [{host: a, env: {A: 1}}]", "3:28: nodes[0].env.A: must be text, got 1; quote it"),
        ("nodes: [{host: a, env: {A B: x}}]", "3:25: nodes[0].env.'A B': 'A B' is not the name"),
        ("nodes: [{host: a, env: x}]", "3:24: nodes[0].env: must be a mapping"),
        ("nodes: [{host: a, tags: [a b]}]", "3:25: nodes[0].tags: 'a b' is not one word"),
        ("nodes: [{host: a, user: a b}]", "3:25: nodes[0].user: 'a b' is not a user name"),
        ("nodes: {hosts: [a], required: 2}", "3:31: nodes.required: must be at most 1, the number"),
        ("nodes: {file: none.txt}", "3:15: nodes.file: no file folder/none.txt"),
        ("nodes: x/none", "3:8: nodes: no file folder/x/none"),
        ("? [a]\n: 1", "3:3: a key must be text, got a list or a mapping; write it as key: value"),
    ],
)
def test_each_problem_is_told_at_its_place(text: str, expected: str) -> None:
    """File, line, column, path, what was expected, what came, and the fix."""
    (line,) = problems(f"{GOOD}{text}\n")
    assert line.startswith(f"s.yaml:{expected}")
    assert len(line) < 250
    assert line.isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        case("samples: 3", "1:1: kernel: this required key is missing", 70),
        ("kernel: os\nsamples: 1", "1:9: kernel: must be module:function or file.py:function"),
        ("kernel: a.py\nsamples: 1", "1:9: kernel: must be module:function or"),
        ("kernel: a-b:f\nsamples: 1", "1:9: kernel: must be module:function or"),
        ("kernel: k.py:f", "1:1: nothing says when to stop; give samples, a target such as"),
        ("kernel: k.py:f\nuntil: {max_samples: 3}", "2:8: until: nothing says when to stop"),
        (
            "kernel: k.py:f\nuntil: {rel_error: 1, min_samples: 2, max_samples: 1}",
            "2:36: until.min_samples: must be at most until.max_samples, 1, got 2",
        ),
        case("- a", "1:1: a spec must be a mapping, got a list", 72),
        case("a", "1:1: a spec must be a mapping, got the text 'a'", 72),
        case("~", "1:1: a spec must be a mapping, got nothing", 72),
        case("# a", "1:1: the file is empty", 72),
    ],
)
def test_a_spec_that_is_none_is_told_so(text: str, expected: str) -> None:
    """The same for problems of the spec as a whole."""
    (line,) = problems(text)
    assert line.startswith(f"s.yaml:{expected}")


def test_all_problems_are_told_at_once_and_in_order() -> None:
    """Of the text, of the values, of the host list, and of the keys together."""
    text = (
        "samples: 0\nuntil: {half_width: 0, half_width: 1}\nsweep: 1\nblock: 010\n"
        "nodes: [a, 'b[2-1]', a, {host: c, slots: 0}]\nkernal: k.py:f\n"
    )
    places = [line.split(": ")[0] + " " + line.split(": ")[1] for line in problems(text)]
    assert places == [
        "s.yaml:1:1 kernel",
        "s.yaml:1:10 samples",
        "s.yaml:1:10 samples",
        "s.yaml:2:21 until.half_width",
        "s.yaml:2:24 until.half_width",
        "s.yaml:3:8 sweep",
        "s.yaml:4:8 block",
        "s.yaml:5:15 nodes[1]",
        "s.yaml:5:22 nodes[2]",
        "s.yaml:5:42 nodes[3].slots",
        "s.yaml:6:1 kernal",
    ]


def test_problems_are_objects_too() -> None:
    """`--json` has the parts that a line is made of."""
    with pytest.raises(SpecError) as caught:
        read(f"{GOOD}zzz: 1\nblok: 1")
    assert caught.value.code == 2
    assert caught.value.to_json()["errors"][1] == {  # type: ignore[index]
        "file": "s.yaml",
        "line": 4,
        "column": 1,
        "path": "blok",
        "message": "unknown key",
        "fix": "did you mean 'block'?",
    }


def test_no_wording_of_pydantic_comes_through() -> None:
    """Every type of error that the models can raise has a message of ours."""
    kinds = set()
    for value in [None, True, 3, 1.5, "x", [], [[]], {}, {"x": {}}, object()]:
        for key in Spec.model_fields:
            try:
                Spec.model_validate({"kernel": "k.py:f", key: value, "zzz": 1})
            except ValidationError as error:
                kinds |= {detail["type"] for detail in error.errors()}
    try:
        Spec.model_validate({})
    except ValidationError as error:
        kinds |= {detail["type"] for detail in error.errors()}
    assert kinds == {OURS, "missing", "extra_forbidden", "model_type", "tuple_type"}


def test_a_spec_is_deeply_immutable() -> None:
    """Neither a key, nor a section, nor a parameter can be changed."""
    spec = read(FULL)
    for target, key in ((spec, "seed"), (spec.until, "half_width"), (spec.retry, "timeout")):
        with pytest.raises(ValidationError):
            setattr(target, key, 1)
    changes: list[Callable[[Any], object]] = [
        lambda m: m.update(a=1),
        lambda m: m.pop("d"),
        lambda m: m.__setitem__("a", 1),
        lambda m: m.__delitem__("d"),
        lambda m: m.clear(),
    ]
    params: Any = spec.params
    for mapping in (params, params["deep"]):
        for change in changes:
            with pytest.raises(TypeError):
                change(mapping)


def test_a_spec_survives_json_and_copies() -> None:
    """The recorded spec of a run is read back equal, without its file."""
    spec = read(FULL, "samples=null", "nodes.required=1")
    again = Spec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert (again.path, again.base, again.overrides) == (spec.path, spec.base, spec.overrides)
    assert again.to_json() == spec.to_json()
    assert copy.deepcopy(spec) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert read(FULL, "seed=1") != spec


def test_a_recorded_spec_is_checked_when_it_is_read() -> None:
    """Editing the ledger by hand does not bypass the validation."""
    data = {**read(GOOD).to_json(), "samples": 0, "block": 0}
    with pytest.raises(SpecError) as caught:
        Spec.from_json(data)
    assert [problem.path for problem in caught.value.problems] == ["block", "samples"]
    assert [problem.line for problem in caught.value.problems] == [0, 0]


PLACES = """\
# A comment.
kernel: k.py:f
samples: 1
params: {d: 3, names: [a, [b]]}
nodes:
  hosts:
    - a:4
    - host: b
      slots: 2
store: runs
"""


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("kernel", "2:9"),
        ("params.d", "4:13"),
        ("params.names[1]", "4:27"),
        ("params.zz", "4:1"),
        ("nodes.hosts[0]", "7:7"),
        ("nodes[0]", "7:7"),
        ("nodes[1].slots", "9:14"),
        ("nodes[1].nothing", "8:7"),
        ("store", "10:8"),
        ("backend", "2:1"),
        ("", "2:1"),
        ("what is this", "2:1"),
    ],
)
def test_a_later_room_reports_at_the_key_s_place(path: str, place: str) -> None:
    """A key that is not in the text has the position of the nearest one above it."""
    problem = read(PLACES).problem(path, "m")
    assert str(problem).startswith(f"s.yaml:{place}: ")
    assert problem.message == "m"


def test_a_problem_of_a_key_that_was_set_names_the_option() -> None:
    """The problem is not in the text then."""
    spec = read(f"{GOOD}nodes: [a, b]\nparams: {{d: 1, e: 2}}", "params.d=3", "nodes[1].slots=2")
    assert str(spec.problem("params.d", "m", "f")) == "--set: params.d: m; f"
    assert str(spec.problem("params.e", "m")) == "s.yaml:4:19: params.e: m"
    assert spec.problem("nodes[1].slots", "m").file == "--set"
    assert (spec.problem("nodes[0]", "m").file, spec.problem("nodes[0]", "m").line) == ("s.yaml", 3)


def test_a_file_is_loaded(tmp_path: Path) -> None:
    """Its folder is the base, and errors name it as the user did."""
    file = tmp_path / "job.yaml"
    file.write_text(GOOD)
    spec = load(file, ["samples=5"])
    assert (spec.name, spec.samples, spec.base) == ("job", 5, tmp_path)
    assert (spec.path, spec.overrides) == (str(file), ("samples=5",))


def test_a_file_that_cannot_be_read_is_a_spec_error(tmp_path: Path) -> None:
    """A missing file with the nearest name, a folder, and an impossible name."""
    (tmp_path / "job.yaml").write_text(GOOD)
    for name, words in {
        "jobs.yaml": "No such file or directory; did you mean 'job.yaml'",
        "": "Is a directory",
        "a\0b": "null",
    }.items():
        with pytest.raises(SpecError, match=words):
            load(tmp_path / name)


@pytest.mark.fault(73)
def test_a_device_is_not_read_for_ever() -> None:
    """One byte over the limit is enough to refuse it."""
    with pytest.raises(SpecError, match="over 1 MiB"):
        load("/dev/zero")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["auto", "n[1-3]", "a:2", "k.py:f", "1h", "serial"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*Until.model_fields, "host", "hosts", "env"]), inner)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(Spec.model_fields)), VALUES))
def test_any_values_are_a_spec_or_a_spec_error(data: dict[str, Any]) -> None:
    """For any values: a spec that survives JSON, or problems in our words."""
    spec, lines = outcome(json.dumps({"kernel": "k.py:f", "samples": 1, **data}))
    if spec is not None:
        assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    for line in lines:
        assert "is not valid, got" not in line
        assert line.isprintable()


@given(st.binary(max_size=120) | st.text(max_size=120).map(lambda text: text.encode()))
def test_any_bytes_are_a_spec_or_a_spec_error(source: bytes) -> None:
    """No file has any other result."""
    spec, lines = outcome(source)
    assert (spec is None) == bool(lines)


@given(st.text(max_size=30) | st.text("abn[0].=,'\"{}: ", max_size=30))
def test_any_override_is_a_spec_or_a_spec_error(override: str) -> None:
    """No ``--set`` has any other result."""
    spec, lines = outcome(GOOD, override)
    assert (spec is None) == bool(lines)


def outcome(text: str | bytes, *overrides: str) -> tuple[Spec | None, list[str]]:
    """The spec, or the lines of its problems."""
    try:
        return read(text, *overrides), []
    except SpecError as error:
        return None, [str(problem) for problem in error.problems]


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("1.5 GB", 1_500_000_000), ("500MB", 500_000_000), (2**30, 2**30)],
)
def test_a_size_is_bytes_or_a_number_with_a_unit(text: object, size: int) -> None:
    """Decimal and binary units; a run records the number of bytes."""
    spec = parse(f"{GOOD}retry: {{memory: {text}}}\n", "spec.yaml", Path())
    assert spec.retry.memory == size


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("k.py", "its kernels: k.py:one, k.py:two"),
        ("k", "its kernels: k.py:one, k.py:two"),
        ("k.py:my-kernel", "its kernels: k.py:one, k.py:two"),
        ("k.py:one()", "its kernels: k.py:one, k.py:two"),
    ],
)
def test_a_kernel_that_is_not_named_in_full_is_told_those_of_its_file(
    tmp_path: Path, given: str, words: str
) -> None:
    """Naming only the file lists its kernels."""
    (tmp_path / "k.py").write_text(
        "def one(rng, samples): ...\ndef help(): ...\ndef two(stream, samples): ...\n"
    )
    with pytest.raises(SpecError, match="must be module:function or") as caught:
        parse(f"kernel: '{given}'\nsamples: 1\n", "s.yaml", tmp_path)
    assert str(caught.value).endswith(words)


@pytest.mark.parametrize("given", ["22:00-24:00", "9:00-17:00", "22-6"])
def test_a_window_that_is_none_is_told_how_midnight_is_written(given: str) -> None:
    """24:00 is a common mistake for 00:00."""
    lines = problems(f"kernel: a:b\nsamples: 1\nschedule: {{window: '{given}'}}\n")
    assert len(lines) == 1
    assert lines[0].startswith("s.yaml:3:20: schedule.window: must be a window such as 22:00-06:00")
    assert lines[0].endswith("; times are 00:00 to 23:59; midnight is 00:00, also as the end")
