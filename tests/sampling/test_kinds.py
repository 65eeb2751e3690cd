"""What people write as a kernel: accepted if valid, else an error with its place and a fix."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import cli
from cluster.common.errors import SpecError
from cluster.sampling.kernels import load
from cluster.sampling.streams import Stream
from cluster.spec import parse
from cluster.spec.request import Request, resolve

HEAD = """\
import dataclasses, datetime, decimal, enum, fractions, functools, math, pathlib, types
import numpy as np
from cluster import Hits, Moments, kernel
"""
EVIL = """\
class M:
    def __getattr__(self, name): raise ValueError("no")
    def __call__(self, rng, samples): ...
k = M()
"""
BODY = "    return Hits(int((rng.random(samples) < 0.5).sum()), samples)\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of this test's own, and no kernel loaded before or after."""
    monkeypatch.setenv("CLUSTER_CACHE", str(tmp_path / "cache"))
    load.cache_clear()
    yield
    load.cache_clear()


def request_of(folder: Path, text: str, more: str = "") -> Request:
    """The request of a spec with a kernel ``k`` in such a file."""
    (folder / "k.py").write_text(HEAD + text)
    spec = f"kernel: k.py:k\nsamples: 1e3\nblock: 1e3\nseed: 1\n{more}"
    return resolve(parse(spec, "k.yaml", folder))


def told(folder: Path, text: str, more: str = "") -> str:
    """The one problem that such a spec has."""
    with pytest.raises(SpecError) as caught:
        request_of(folder, text, more)
    assert len(caught.value.problems) == 1
    assert caught.value.code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("default", "recorded"),
    [
        ("None", None),
        ("3", 3),
        ("0.5", 0.5),
        ("'x'", "x"),
        ("np.int64(3)", 3),
        ("np.uint8(3)", 3),
        ("np.float64(0.5)", 0.5),
        ("np.float32(0.1)", 0.10000000149011612),
        ("np.bool_(True)", True),
        ("np.str_('x')", "x"),
        ("(1, 2.0)", [1, 2.0]),
        ("[np.int64(1), np.float64(2)]", [1, 2.0]),
        ("{'a': (1, np.int32(2))}", {"a": [1, 2]}),
        ("types.MappingProxyType({'a': 1})", {"a": 1}),
        ("enum.IntEnum('E', 'A B').B", 2),
        ("10**400", 10**400),
        ("math.inf", math.inf),
    ],
)
def test_a_default_is_recorded_as_the_spec_would_say_it(
    tmp_path: Path, default: str, recorded: Any
) -> None:
    """Numbers of numpy become Python's, and tuples lists; these are sent and recorded."""
    params = request_of(tmp_path, f"def k(rng, samples, p={default}):\n{BODY}").params
    assert params == {"p": recorded}
    assert type(params["p"]) is type(recorded)
    assert json.loads(json.dumps(params)) == params


def test_a_numpy_default_has_the_identity_of_the_number(tmp_path: Path) -> None:
    """A spec that gives the default's value requests the same run as one that does not."""
    text = f"def k(rng, samples, p=np.int64(3)):\n{BODY}"
    assert (
        request_of(tmp_path, text).identity
        == request_of(tmp_path, text, "params: {p: 3}\n").identity
    )


@pytest.mark.parametrize(
    ("default", "kind", "cure"),
    [
        ("P()", "is a P", "a mapping, and P(**p) in the kernel"),
        ("np.array([1, 2])", "is an ndarray", "a list, and np.asarray(p)"),
        ("np.complex128(1j)", "is a complex128", "a list of two numbers"),
        ("np.longdouble(1)", "is a longdouble", None),
        ("np.timedelta64(3, 's')", "is a timedelta64", None),
        ("pathlib.Path('x')", "is a PosixPath", "text, and Path(p)"),
        ("{1, 2}", "is a set", "a list, and set(p)"),
        ("datetime.date(2026, 1, 2)", "is a date", "date.fromisoformat(p)"),
        ("datetime.datetime(2026, 1, 2)", "is a datetime", "datetime.fromisoformat(p)"),
        ("enum.Enum('E', 'A').A", "is an E", "its value, E.A.value"),
        ("b'x'", "is a bytes", "p.encode()"),
        ("1j", "is a complex", "a list of two numbers"),
        ("range(3)", "is a range", "a list"),
        ("decimal.Decimal('0.1')", "is a Decimal", "Decimal(p)"),
        ("fractions.Fraction(1, 3)", "is a Fraction", "Fraction(p)"),
        ("math.sin", "is a builtin_function_or_method", "text that names it"),
        ("lambda x: x", "is a function", "text that names it"),
        ("np.random.default_rng(1)", "is a Generator", "draw from the rng"),
        ("object()", "is an object", None),
        ("{1: 2}", "contains a mapping with a key that is an int, not text", None),
        ("'\\ud800'", "contains a lone surrogate", None),
        ("[{'a': object()}]", "contains an object", None),
        ("10**5000", "contains an integer of more than 4,300 digits", None),
        ("Odd(a=1)", "contains a value that cannot be read", None),
        ("LOOP", "is nested too deeply, or contains itself", None),
    ],
)
def test_a_default_that_no_spec_can_say_is_told(
    tmp_path: Path, default: str, kind: str, cure: str | None
) -> None:
    """Where it is, what it is, which types are possible, and what to write in its place."""
    text = "LOOP = []\nLOOP.append(LOOP)\n@dataclasses.dataclass(frozen=True)\nclass P: pass\n"
    text += "class Odd(dict):\n    def items(self): raise LookupError\n"
    words = told(tmp_path, f"{text}@kernel\ndef k(rng, samples, p={default}):\n{BODY}")
    assert words.startswith(f"k.yaml:1:9: kernel: the default of 'p' {kind}")
    assert "(at k.py:10); use numbers, text, true, false, None, lists or mappings" in words
    assert ("; here " in words) == bool(cure)
    assert (cure or "") in words


def test_a_default_that_is_not_used_may_be_anything(tmp_path: Path) -> None:
    """The spec gives the parameter, so its default is not recorded."""
    text = f"def k(rng, samples, p=object()):\n{BODY}"
    assert request_of(tmp_path, text, "params: {p: 3}\n").params == {"p": 3}


@pytest.mark.parametrize(
    "text",
    [
        "@kernel(scale=2)\ndef f(rng, samples, a=1.0, b=2.0):\n"
        + BODY
        + "k = functools.partial(f, b=5.0)\n",
        "@kernel(scale=2)\ndef f(x, rng, samples, a=1.0, b=5.0):\n"
        + BODY
        + "k = functools.partial(f, 0)\n",
        "def f(rng, samples, a=1.0, b=2.0):\n"
        + BODY
        + "k = kernel(scale=2)(functools.update_wrapper(functools.partial(f, b=5.0), f))\n",
        "class K:\n    @kernel(scale=2)\n    def __call__(self, rng, samples, a=1.0, b=5.0):\n    "
        + BODY
        + "k = K()\n",
        "class K:\n    def __call__(self, rng, samples, a=1.0, b=5.0):\n    "
        + BODY
        + "k = kernel(scale=2)(K())\n",
        "def f(rng, samples, a=1.0, b=5.0):\n"
        + BODY
        + "k = 0\nif True:\n    k = kernel(scale=2)(lambda *a, **k: f(*a, **k))\n"
        + "    k.__wrapped__ = f\n",
    ],
)
def test_an_object_that_can_be_called_as_a_kernel_is_one(tmp_path: Path, text: str) -> None:
    """functools.partial, an object with __call__, a call's result: with parameters and scale."""
    request = request_of(tmp_path, text, "params: {a: 3}\n")
    assert (request.params, request.scale) == ({"a": 3.0, "b": 5.0}, 2.0)
    tally = load(request.source).draw(Stream(1, 2, 3), 100, request.params)
    assert tally.samples == 100


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "@kernel\nasync def k(rng, samples):\n" + BODY,
            "'k' is an async function, and nothing awaits a kernel (at k.py:5)",
        ),
        (
            "async def f(rng, samples):\n" + BODY + "k = functools.partial(f)\n",
            "'k' is an async function, and nothing awaits a kernel (at k.py:4)",
        ),
        (
            "def k(rng, samples):\n    yield Hits(0, samples)\n",
            "'k' is a generator: it has a yield (at k.py:4); return one tally",
        ),
        (
            "class k:\n    def __init__(self, rng, samples): pass\n",
            "'k' is a class (at k.py:4); write a function",
        ),
        ("k = type('K', (), {})\n", "'k' is a class"),
        (
            "k = lambda rng, samples: Hits(0, samples)\n",
            "'k' is a lambda (at k.py:4); write it as a function",
        ),
        (
            "def f(rng, samples):\n" + BODY + "k = f\n",
            "'k' is another name of 'f' (at k.py:6); name f itself",
        ),
        (
            "def outer():\n    @kernel\n    def k(rng, samples):\n    " + BODY,
            "'k' is defined inside 'outer', where no worker can find it (at k.py:6)",
        ),
        (
            "class A:\n    def k(self, rng, samples):\n    " + BODY,
            "'k' is a method of the class 'A'",
        ),
        (
            "from math import sin as k\n",
            "'k' is imported from 'math' (at k.py:4); name that module",
        ),
        ("k: int = 3\n", "'k' is not a function (at k.py:4)"),
        ("k = -" + "-" * 100_000 + "1\n", "k.yaml:1:9: kernel: not Python: "),
        (
            EVIL,
            "k.py:k cannot be inspected as a function: ValueError: no; write a function",
        ),
        ("k = functools.partial(max)\n", "the parameters of k.py:k cannot be determined"),
        (
            "def k(rng, samples, *rest):\n" + BODY,
            "must name its parameters, not take *rest (at k.py:4); name each",
        ),
        ("def k(rng, samples, **rest):\n" + BODY, "must name its parameters, not take **rest"),
        (
            "def k(rng, samples, x=1, /):\n" + BODY,
            "takes 'x' by position, but params pass it by name",
        ),
        (
            "def k(*, rng, samples):\n" + BODY,
            "is not a kernel: its parameters are (*, rng, samples) (at k.py:4)",
        ),
        ("def k(samples, rng):\n" + BODY, "is not a kernel: its parameters are (samples, rng)"),
        ("def k(rng, samples, x):\n" + BODY, "k.py:k needs x"),
        ("def k(rng, samples, x, x):\n" + BODY, "duplicate argument 'x'"),
    ],
)
def test_what_is_no_kernel_is_told_with_what_to_write(
    tmp_path: Path, text: str, words: str
) -> None:
    """What it is, the line of the kernel's file, and the fix."""
    assert words in told(tmp_path, text)


def test_a_parameter_may_stand_before_the_slash_where_it_is_given_by_place(tmp_path: Path) -> None:
    """``f(rng, samples, /, x)`` is a kernel: the first two are passed by position."""
    assert request_of(tmp_path, f"def k(rng, samples, /, x=1):\n{BODY}").params == {"x": 1}


@pytest.mark.parametrize(
    ("words_of_it", "words"),
    [
        ("scale='2'", "the kernel's scale is the str '2' (at k.py:4)"),
        ("scale=1j", "the kernel's scale is the complex 1j"),
        ("offset=math.nan", "the kernel's offset is nan"),
        ("scale=lambda: 'x'", "the kernel's scale is the str 'x' (at k.py:4)"),
        ("scale=lambda: 1 / 0", "the kernel's scale fails: ZeroDivisionError: division by zero"),
        (
            "scale=lambda q: q",
            "the kernel's scale fails: LookupError: the kernel has no parameter 'q'",
        ),
        ("reference=math.nan", "the kernel's reference is nan"),
        ("reference=[1, 'x']", "the kernel's reference is the list [1, 'x']"),
        ("reference=[]", "the kernel's reference is the list []"),
        ("reference={'a': 1}", "the kernel's reference is the dict {'a': 1}"),
        ("reference=True", "the kernel's reference is True"),
        ("block=0", "block must be at least 1 and below 2**63, got 0 (at k.py:4)"),
        ("block=-5", "block must be at least 1 and below 2**63, got -5"),
        ("block=2**70", "block must be at least 1 and below 2**63"),
        ("block=1e5", "block must be an integer, got 100000.0"),
        ("blok=5", "@kernel has no argument 'blok'; did you mean 'block'?"),
        ("variant=3", "variant must be text, got 3"),
        ("5", "@kernel takes keyword arguments, as in @kernel(block=100_000), got 5"),
    ],
)
def test_an_odd_word_of_the_decorator_is_told(tmp_path: Path, words_of_it: str, words: str) -> None:
    """Which argument it is, its value, and the line of the kernel's file."""
    answer = told(tmp_path, f"@kernel({words_of_it})\ndef k(rng, samples):\n{BODY}")
    assert answer.startswith("k.yaml:1:9: kernel: ")
    assert words in answer
    assert "k.py:4" in answer


@pytest.mark.parametrize(
    "words",
    [
        "block=np.int64(7)",
        "scale=np.float64(2)",
        "reference=np.array([1.0, 2.0])",
        "reference=np.array(1.0)",
        "scale=lambda: np.array(2)",
        "reference=lambda: iter([1, 2])",
    ],
)
def test_a_numpy_number_is_a_number_to_the_decorator(tmp_path: Path, words: str) -> None:
    """An np.int64 is accepted as block, an np.float64 as scale, an array as reference."""
    text = f"@kernel({words})\ndef k(rng, samples):\n{BODY}"
    request = request_of(tmp_path, text, "")
    json.dumps(request.to_json())


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("{length: 0.5x, width: 2}", "k.yaml:5:18: params.length:"),
        ("{width: 0}", "k.yaml:5:17: params.width:"),
    ],
)
def test_a_reference_that_fails_is_told_at_the_parameter(
    tmp_path: Path, given: str, place: str
) -> None:
    """Text in place of a number, or a value that differs from the default, is pointed out."""
    text = "@kernel(reference=lambda length, width: length / width)\n"
    text += f"def k(rng, samples, length=1.0, width=1.0):\n{BODY}"
    words = told(tmp_path, text, f"params: {given}\n")
    assert words.startswith(place)
    assert "the kernel's reference fails: " in words
    assert "(at k.py:4)" in words


def test_a_reference_that_leaves_python_is_told_too(tmp_path: Path) -> None:
    """It must not end the command silently."""
    text = "import sys\n@kernel(reference=lambda length: sys.exit(3))\n"
    text += f"def k(rng, samples, length=1.0):\n{BODY}"
    assert "the kernel's reference fails: " in told(tmp_path, text, "params: {length: 2}\n")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\xef\xbb\xbf", 0),
        (b"# \xe9\n", 2),
        (b"# coding: latin-1\n# \xe9\n", 2),
        (b"# coding: utf-8\n", 0),
        (b"# coding: nonsense\n", 2),
        (b"\x00\n", 2),
        (b"def f(:\n", 2),
        (b"  x = 1\n", 2),
    ],
)
def test_the_bytes_of_a_kernel_file_are_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, code: int
) -> None:
    """A byte order mark, a coding line, another encoding, no Python: accepted, or an error."""
    body = (HEAD + f"def k(rng, samples):\n{BODY}").replace("\n", "\r\n")
    (tmp_path / "k.py").write_bytes(content + body.encode())
    spec = tmp_path / "k.yaml"
    spec.write_text("kernel: k.py:k\nsamples: 1e3\n")
    assert cli.run(["validate", str(spec)]) == code
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    assert code == 0 or ("k.yaml:1:9: kernel: " in output.err and "k.py" in output.err)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), "k.py is a folder; name a file in it"),
        (lambda path: path.symlink_to("nowhere"), "k.py is a broken link, or not a regular file"),
        (lambda path: path.symlink_to(path), "k.py is a broken link, or not a regular file"),
        (os.mkfifo, "k.py is a broken link, or not a regular file"),
    ],
)
def test_what_is_no_file_is_told_as_what_it_is(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    """A folder, a dangling link or a pipe has the name of the kernel's file."""
    make(tmp_path / "k.py")
    with pytest.raises(SpecError) as caught:
        resolve(parse("kernel: k.py:k\nsamples: 1\n", "k.yaml", tmp_path))
    assert words in str(caught.value)
