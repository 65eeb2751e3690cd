"""A frozen kernel is imported from a private folder named by its hash, and draws blocks."""

from __future__ import annotations

import math
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from cluster import Hits
from cluster.common.errors import KernelError
from cluster.sampling.kernels import (
    DEFAULT_BLOCK,
    Kernel,
    KernelSource,
    ParamError,
    cache_folder,
    kernel,
    load,
)
from cluster.sampling.streams import Stream

PLAIN = """
from cluster import Hits

def coin(rng, samples, bias=0.5, sides: int = 2, name="x"):
    return Hits(int((rng.random(samples) < bias).sum()), samples)
"""
DESCRIBED = """
import cluster
from cluster import Hits, Stream, kernel

@kernel(scale=lambda sides: 2.0 * sides, offset=1, reference=[1, 2], block=7, variant="numpy")
def dice(stream, samples, *, sides=6):
    assert isinstance(stream, Stream)
    return Hits(stream.counter[2], samples)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test's own, and no kernel loaded before or after."""
    monkeypatch.setenv("CLUSTER_CACHE", str(tmp_path / "cache"))
    load.cache_clear()
    yield tmp_path / "cache"
    load.cache_clear()


def made(text: str, function: str = "coin", **neighbours: str) -> KernelSource:
    """The source of job.py with this text, and of neighbours by name."""
    files = {f"{name}.py": content for name, content in neighbours.items()}
    return KernelSource("job.py", function, {"job.py": text, **files})


def loaded(text: str, function: str = "coin", **neighbours: str) -> Kernel:
    """The kernel of such a source."""
    return load(made(text, function, **neighbours))


def test_an_undecorated_function_is_a_kernel() -> None:
    """Scale 1, offset 0, no reference, a block of 65,536, drawn from a numpy Generator."""
    coin = loaded(PLAIN)
    params = coin.resolve({})
    assert (coin.form, coin.traits.block, DEFAULT_BLOCK) == ("rng", 65_536, 65_536)
    assert coin.scale(params) == (1.0, 0.0)
    assert coin.reference(params) is None
    expected = int((Stream(1, 2, 3).generator().random(100) < 0.5).sum())
    assert coin.draw(Stream(1, 2, 3), 100, params) == Hits(expected, 100)


def test_the_decorator_describes_a_kernel() -> None:
    """Its arguments are numbers, lists or functions of the kernel's own parameters."""
    dice = loaded(DESCRIBED, "dice")
    assert (dice.form, dice.traits.block, dice.traits.variant) == ("stream", 7, "numpy")
    assert dice.scale(dice.resolve({"sides": 4})) == (8.0, 1.0)
    assert dice.reference(dice.resolve({})) == (1.0, 2.0)
    assert dice.draw(Stream(1, 2, 3), 7, dice.resolve({})) == Hits(3, 7)


def test_a_decorated_function_stays_itself() -> None:
    """The decorator returns the function itself, with and without arguments."""

    def draw(rng: object, samples: int) -> Hits:
        return Hits(0, samples)

    assert kernel(draw) is draw
    assert kernel(scale=2)(draw) is draw


@pytest.mark.parametrize("block", [0, -1, 1.5, True, "9"])
def test_a_block_must_be_a_positive_integer(block: Any) -> None:
    """A wrong block is refused where the kernel is defined."""
    with pytest.raises(ValueError, match="block must be"):
        kernel(block=block)


def test_an_unknown_word_of_the_decorator_is_refused() -> None:
    """A misspelt argument is not silently ignored."""
    with pytest.raises(TypeError, match="scael"):
        kernel(scael=4)  # type: ignore[call-overload]


@pytest.mark.fault(104)
@pytest.mark.parametrize(
    "first", ["import cluster.sampling.kernels", "from cluster import kernel", "pass"]
)
def test_the_decorator_is_found_whatever_was_imported_first(first: str) -> None:
    """``from cluster import kernel`` decorates, also once the room of that name is imported."""
    code = f"{first}\nfrom cluster import kernel\n@kernel(scale=2)\ndef f(rng, samples): pass\n"
    code += "assert f.__cluster__.scale == 2"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.fault(104)
def test_odd_neighbours_in_the_working_folder_change_nothing(tmp_path: Path) -> None:
    """A random.py and a colorsys.py where one stands are not what a kernel imports."""
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in ("random", "colorsys", "job"):
        (odd / f"{name}.py").write_text("raise SystemExit('hijacked')\n")
    text = "import colorsys, random\nassert colorsys.ONE_THIRD and random.random()\n" + PLAIN
    source = KernelSource("colorsys.py", "coin", {"colorsys.py": text})
    code = "from cluster.sampling.kernels import KernelSource, load\n"
    code += f"print(load(KernelSource(**{source.to_json()})).form)"
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=odd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("rng\n", "")


def test_params_are_canonical() -> None:
    """Defaults are filled in, names sorted, and numbers converted to the type of the default."""
    coin = loaded(PLAIN)
    filled = coin.resolve({"sides": 3.0, "bias": 1})
    assert list(filled.items()) == [("bias", 1.0), ("name", "x"), ("sides", 3)]
    assert [type(value) for value in filled.values()] == [float, str, int]
    assert coin.resolve({}) == coin.resolve({"bias": 0.5, "sides": 2, "name": "x"})
    assert coin.resolve({"sides": 2.5})["sides"] == 2.5
    assert coin.resolve({"sides": True})["sides"] is True
    # No float is this integer, and no float is as large as the next one.
    assert coin.resolve({"bias": 2**53 + 1})["bias"] == 2**53 + 1
    assert coin.resolve({"bias": 10**400})["bias"] == 10**400


def test_an_unknown_or_missing_param_is_refused() -> None:
    """The error names the parameter, those there are, and the nearest."""
    with pytest.raises(ParamError) as caught:
        loaded(PLAIN).resolve({"bais": 0.4})
    (fault,) = caught.value.faults
    assert fault.name == "bais"
    assert fault.message == "job.py:coin has no parameter 'bais'; it has: bias, sides, name"
    assert fault.fix == "did you mean 'bias'?"
    with pytest.raises(ParamError, match="needs a, b"):
        loaded("def coin(rng, samples, a, b): pass").resolve({})


@pytest.mark.parametrize("word", ["*rest", "**rest"])
def test_a_kernel_names_its_parameters(word: str) -> None:
    """A kernel that takes anything has no canonical params."""
    with pytest.raises(KernelError, match=f"name its parameters, not take {re.escape(word)} "):
        loaded(f"def coin(rng, samples, {word}): pass")


def test_a_wrapped_function_keeps_its_parameters() -> None:
    """A decorator that uses functools.wraps does not hide what the kernel takes."""
    text = (
        "import functools\n"
        + PLAIN
        + (
            "\ndef twice(f):\n    @functools.wraps(f)\n    def g(*a, **k): return f(*a, **k)\n"
            "    return g\n\ncoin = twice(coin)\n"
        )
    )
    assert list(loaded(text).defaults) == ["bias", "sides", "name"]


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coin = 7", "defines no function 'coin'"),
        ("def other(rng, samples): pass", "defines no function 'coin'"),
        ("def coin(samples): pass", "is not a kernel"),
        ("import no_such_module_anywhere", "does not import: ModuleNotFoundError"),
        ("raise SystemExit(3)", "does not import: SystemExit: 3"),
        ("x = 1 / 0", "does not import: ZeroDivisionError"),
    ],
)
def test_a_file_without_the_kernel_is_refused(text: str, message: str) -> None:
    """What the text alone does not show is reported by its import, as one error."""
    with pytest.raises(KernelError, match=message):
        loaded(text)


def test_an_error_of_the_import_names_its_line() -> None:
    """The place is the kernel's own file and line, not the cache's."""
    with pytest.raises(KernelError) as caught:
        loaded("x = 1\n\nx = 1 / 0\n")
    assert caught.value.where == "job.py:3"


def test_two_kernels_each_get_their_own_neighbour() -> None:
    """Files of the same name in two runs do not interfere."""
    use = "from helper import SIDES\nfrom cluster import Hits\n\ndef coin(rng, samples):\n    "
    use += "return Hits(SIDES, samples)\n"
    first, second = loaded(use, helper="SIDES = 2\n"), loaded(use, helper="SIDES = 6\n")
    drawn = [k.draw(Stream(1, 2, 3), 10, {}) for k in (first, second, first)]
    assert drawn == [Hits(2, 10), Hits(6, 10), Hits(2, 10)]


@pytest.mark.parametrize("neighbours", [{}, {"helper.py": ""}])
def test_a_load_hides_no_module_that_was_found_before(neighbours: dict[str, str]) -> None:
    """Whatever a kernel's file is called."""
    before = PathFinder.find_spec("random")
    load(KernelSource("random.py", "coin", {"random.py": PLAIN, **neighbours}))
    assert PathFinder.find_spec("random") == before


def test_the_path_does_not_grow_with_every_kernel() -> None:
    """It has the files of the last kernel, and one folder for the modules of all."""
    sizes = set()
    for number in range(3):
        loaded(f"import helper\n# {number}\n{PLAIN}", helper="")
        sizes.add(len(sys.path))
    assert len(sizes) == 1


def test_a_neighbour_is_found_at_any_time() -> None:
    """Also by a function that imports it when it is called."""
    late = PLAIN.replace("    return", "    import helper\n    return")
    load(made(late, helper="")).draw(Stream(1, 1, 0), 10, {})


def test_files_are_unpacked_once_into_a_private_folder(cache: Path) -> None:
    """The folder is named by the sha, no one else's to read, and kept for compilers' caches."""
    source = made(PLAIN)
    load(source)
    unpacked = cache / "kernels" / source.sha / "job.py"
    assert unpacked.read_text() == PLAIN
    assert stat.S_IMODE(unpacked.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(unpacked.parent.parent.stat().st_mode) == 0o700
    # Compilers key their caches by time and size: the stamp is the same wherever it is unpacked.
    assert unpacked.stat().st_mtime == 0
    (unpacked.parent / "compiled").touch()
    load.cache_clear()
    load(source)
    assert (unpacked.parent / "compiled").exists()


@pytest.mark.fault(20)
def test_a_tampered_cache_is_healed(cache: Path) -> None:
    """The cache is used only if it is equal byte for byte."""
    source = made(PLAIN, helper="")
    load(source)
    folder = cache / "kernels" / source.sha
    (folder / "job.py").write_text(PLAIN.replace("< bias", "> bias"))
    (folder / "helper.py").unlink()
    load.cache_clear()
    healed = load(source)
    assert (folder / "job.py").read_text() == PLAIN
    assert (folder / "helper.py").exists()
    expected = int((Stream(1, 2, 3).generator().random(1000) < 0.2).sum())
    params = healed.resolve({"bias": 0.2})
    assert healed.draw(Stream(1, 2, 3), 1000, params) == Hits(expected, 1000)


@pytest.mark.fault(20)
def test_a_compiled_twin_of_a_tampered_file_is_not_believed(cache: Path) -> None:
    """Python's bytecode of a tampered text is not used after the repair."""
    source = made(PLAIN)
    load(source)
    file = cache / "kernels" / source.sha / "job.py"
    file.write_text(PLAIN.replace("< bias", "> bias"))
    compile_it = "import importlib.util as u; s = u.spec_from_file_location('j', {!r}); "
    compile_it += "m = u.module_from_spec(s); s.loader.exec_module(m)"
    subprocess.run([sys.executable, "-c", compile_it.format(str(file))], check=True, timeout=60)
    load.cache_clear()
    expected = int((Stream(1, 2, 3).generator().random(1000) < 0.2).sum())
    healed = load(source)
    assert healed.draw(Stream(1, 2, 3), 1000, {"bias": 0.2}) == Hits(expected, 1000)


@pytest.mark.fault(46)
def test_a_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    """A file where the folder should be: the kernel loads from a temporary folder."""
    cache.write_text("not a folder")
    assert loaded(PLAIN).form == "rng"
    assert cache.read_text() == "not a folder"


def test_the_cache_s_place_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLUSTER_CACHE, else XDG_CACHE_HOME, else ~/.cache."""
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CLUSTER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "cluster"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "cluster"


def test_a_kernel_is_loaded_once_a_process() -> None:
    """Equal sources share the module, so that compiled code is shared too."""
    assert load(made(PLAIN)) is load(made(PLAIN))
    assert load(made(PLAIN)) is not load(made(PLAIN + "\n"))


def test_infinite_references_stay_numbers() -> None:
    """A reference is whatever float() takes."""
    text = "import math\nfrom cluster import kernel\n@kernel(reference=lambda: math.inf)\n"
    assert loaded(text + "def coin(rng, samples): pass").reference({}) == math.inf
