"""A kernel's text is read once, checked without running it, and named by its hash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.common.errors import KernelError
from cluster.sampling.kernels import KernelSource, freeze, functions

PLAIN = """
from cluster import Hits

def coin(rng, samples):
    return Hits(int((rng.random(samples) < 0.5).sum()), samples)
"""


def write(folder: Path, **files: str) -> Path:
    """Write each text to ``name.py`` in the folder; returns the folder."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_a_file_is_named_relative_to_the_spec(tmp_path: Path) -> None:
    """``file.py:function`` is looked up in the given folder, and read whole."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    write(jobs, coin=PLAIN)
    (tmp_path / "configs").mkdir()
    source = freeze("../jobs/coin.py:coin", tmp_path / "configs")
    assert source == KernelSource("coin.py", "coin", {"coin.py": PLAIN})
    assert source.name == "coin.py:coin"


def test_a_module_is_looked_up_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``module:function`` is found in the current folder, then along sys.path; nothing runs."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "jobs").mkdir(parents=True)
    write(tmp_path / "here", coin=PLAIN + "raise SystemExit\n")
    write(tmp_path / "there" / "jobs", die=PLAIN)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "there")
    assert freeze("coin:coin", Path("/")).files["coin.py"].endswith("raise SystemExit\n")
    assert freeze("jobs.die:coin", Path("/")).entry == "die.py"


def test_the_sha_is_independent_of_the_folder_and_of_the_file_s_name(tmp_path: Path) -> None:
    """The same text under another path and name is the same kernel."""
    (tmp_path / "deep").mkdir()
    write(tmp_path, coin=PLAIN)
    write(tmp_path / "deep", toss=PLAIN)
    here, there = freeze("coin.py:coin", tmp_path), freeze("toss.py:coin", tmp_path / "deep")
    assert here.sha == there.sha
    assert len(here.sha) == 64


def test_a_byte_order_mark_and_windows_line_ends_are_kept(tmp_path: Path) -> None:
    """A text that Python can import is frozen unchanged."""
    text = "\ufeff" + PLAIN.replace("\n", "\r\n")
    (tmp_path / "coin.py").write_bytes(text.encode())
    assert freeze("coin.py:coin", tmp_path).files == {"coin.py": text}


@pytest.mark.fault(20)
def test_every_byte_of_text_and_the_function_enter_the_sha(tmp_path: Path) -> None:
    """Another space, function, included file or file name changes the sha."""
    two = PLAIN + "\n\ndef other(rng, samples): return coin(rng, samples)\n"
    write(tmp_path, a=PLAIN, b=PLAIN + " ", two=two, note="", memo="")
    kernels = [
        freeze("a.py:coin", tmp_path),
        freeze("b.py:coin", tmp_path),
        freeze("two.py:coin", tmp_path),
        freeze("two.py:other", tmp_path),
        freeze("a.py:coin", tmp_path, ["note.py"]),
        freeze("a.py:coin", tmp_path, ["memo.py"]),
    ]
    assert len({kernel.sha for kernel in kernels}) == len(kernels)


def test_a_source_travels_as_json(tmp_path: Path) -> None:
    """What to_json writes, Source(**data) reads back with the same sha."""
    source = freeze("coin.py:coin", write(tmp_path, coin=PLAIN, note=""), ["note.py"])
    again = KernelSource(**json.loads(json.dumps(source.to_json())))
    assert again == source
    assert again.sha == source.sha


def test_an_included_neighbour_is_frozen_with_the_kernel(tmp_path: Path) -> None:
    """An imported sibling that is listed, module or package, is part of the text."""
    (tmp_path / "tools").mkdir()
    write(tmp_path, helper="SIDES = 2\n", coin="import helper, tools.dice\n" + PLAIN)
    write(tmp_path / "tools", dice="")
    source = freeze("coin.py:coin", tmp_path, ["helper.py", "tools/dice.py"])
    assert sorted(source.files) == ["coin.py", "helper.py", "tools/dice.py"]


@pytest.mark.parametrize("line", ["import helper", "from helper import x", "import helper.part"])
@pytest.mark.parametrize("indent", ["", "def late():\n    "])
def test_a_neighbour_that_is_not_included_is_refused(
    tmp_path: Path, line: str, indent: str
) -> None:
    """An import that works beside the file but not on a node is found before the run."""
    write(tmp_path, helper="", coin=f"{indent}{line}\n{PLAIN}")
    with pytest.raises(KernelError, match="imports 'helper' beside it") as caught:
        freeze("coin.py:coin", tmp_path)
    assert caught.value.fix == "add it to the spec: include: [helper.py]"


def test_a_neighbour_of_a_neighbour_is_refused_too(tmp_path: Path) -> None:
    """What an included file imports must be included as well."""
    write(tmp_path, far="", near="import far\n", coin="import near\n" + PLAIN)
    with pytest.raises(KernelError, match=r"near\.py imports 'far' beside it"):
        freeze("coin.py:coin", tmp_path, ["near.py"])


def test_a_relative_import_is_refused(tmp_path: Path) -> None:
    """A frozen kernel has no package that a relative import could refer to."""
    with pytest.raises(KernelError, match="a relative import"):
        freeze("coin.py:coin", write(tmp_path, coin="from . import x\n" + PLAIN))


@pytest.mark.fault(104)
def test_a_neighbour_named_as_a_standard_module_is_not_taken_for_it(tmp_path: Path) -> None:
    """``import random`` beside a random.py means Python's own, so nothing needs to be included."""
    write(tmp_path, random="raise SystemExit", coin="import random\n" + PLAIN)
    assert sorted(freeze("coin.py:coin", tmp_path).files) == ["coin.py"]


@pytest.mark.fault(104)
@pytest.mark.parametrize("name", ["random", "cluster", "numpy"])
def test_an_included_file_must_not_hide_a_module(tmp_path: Path, name: str) -> None:
    """Including a file that would shadow a common module is refused."""
    write(tmp_path, coin=PLAIN, **{name: ""})
    with pytest.raises(KernelError, match=f"would hide the module '{name}'"):
        freeze("coin.py:coin", tmp_path, [f"{name}.py"])


@pytest.mark.fault(86)
@pytest.mark.parametrize("name", ["../secret.py", "/etc/hostname", "deep/../../secret.py"])
def test_an_included_file_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    """No name leads out of the kernel's folder, neither here nor where it is unpacked."""
    jobs = tmp_path / "jobs"
    (jobs / "deep").mkdir(parents=True)
    write(tmp_path, secret="")
    write(jobs, coin=PLAIN)
    with pytest.raises(KernelError, match="is not a file below the kernel's folder"):
        freeze("coin.py:coin", jobs, [name])
    with pytest.raises(KernelError, match="is not a file below the kernel's folder"):
        KernelSource("coin.py", "coin", {"coin.py": PLAIN, name: ""})


def test_a_source_without_its_entry_is_refused() -> None:
    """The file that holds the function must be among the files."""
    with pytest.raises(KernelError, match="is not a file below the kernel's folder"):
        KernelSource("coin.py", "coin", {"other.py": PLAIN})


@pytest.mark.parametrize(
    ("reference", "message", "fix"),
    [
        ("cion.py:coin", "no file ", "did you mean 'coin.py'?"),
        ("coin.py:cion", "defines no function 'cion'", "did you mean 'coin'?"),
        ("coin.py:zzz", "defines no function 'zzz'", "its kernels: coin"),
        ("nowhere.at.all:coin", "no module 'nowhere.at.all'", "name the file instead"),
        ("broken.py:coin", "not Python", None),
        ("latin.py:coin", "latin.py is not UTF-8 at byte 1", "save it as UTF-8"),
    ],
)
def test_what_cannot_be_found_or_read_says_so(
    tmp_path: Path, reference: str, message: str, fix: str | None
) -> None:
    """A wrong file, function, module or text is one clear error, with a fix if there is one."""
    write(tmp_path, coin=PLAIN, broken="def f(:\n")
    (tmp_path / "latin.py").write_bytes(b"#\xe9\n")
    with pytest.raises(KernelError) as caught:
        freeze(reference, tmp_path)
    assert message in caught.value.message
    assert (caught.value.fix or "").startswith(fix or "")
    assert bool(caught.value.fix) == bool(fix)
    assert caught.value.code == 2


@pytest.mark.fault(21, 88)
@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("def system(command): pass", "os.py:system"),
        ("def f(): pass", "f.py:f"),
        ("def f(samples, rng): pass", "f.py:f"),
        ("def f(random, samples): pass", "f.py:f"),
        ("def f(rng, count): pass", "f.py:f"),
    ],
)
def test_a_function_that_is_no_kernel_is_refused(tmp_path: Path, text: str, reference: str) -> None:
    """Only f(rng, samples, ...) and f(stream, samples, ...) can be named by a spec."""
    (tmp_path / reference.partition(":")[0]).write_text(text)
    with pytest.raises(KernelError, match="is not a kernel") as caught:
        freeze(reference, tmp_path)
    assert "a kernel is f(rng, samples, ...)" in str(caught.value)


@pytest.mark.fault(21, 88)
@pytest.mark.parametrize("reference", ["os:system", "posixpath:join", "f.py:f", "f.py:__import__"])
def test_no_function_of_another_kind_can_be_named(tmp_path: Path, reference: str) -> None:
    """A lambda, a builtin or a library's function is no kernel, and is not called to find out."""
    (tmp_path / "f.py").write_text("f = lambda rng, samples: None\n")
    with pytest.raises(KernelError):
        freeze(reference, tmp_path)


def test_functions_are_those_of_the_module_itself() -> None:
    """Nested functions and methods do not count; those inside an ``if`` or ``try`` do."""
    text = """
def outer(rng, samples):
    def inner(): pass
class Box:
    def method(self): pass
try:
    import numba
    def fast(rng, samples): pass
except ImportError:
    def slow(rng, samples): pass
if True:
    def sure(): pass
"""
    assert sorted(functions(text, "f.py")) == ["fast", "outer", "slow", "sure"]


def test_a_nested_function_does_not_hide_a_kernel_of_its_name(tmp_path: Path) -> None:
    """The kernel is the module's function, whatever else in the file has its name."""
    text = PLAIN + "\ndef other():\n    def coin(x): pass\n"
    assert freeze("coin.py:coin", write(tmp_path, coin=text)).function == "coin"
