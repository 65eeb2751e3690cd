"""A new name is on the disk before anybody relies on it: files first, then the folders above."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.common import files
from tests.cli.shell import spec as written
from tests.faults.strace import traced

CALLS = "mkdir,rename,renameat,renameat2,fsync,fdatasync,pwrite64"


def named(folder: Path, *words: str | Path) -> list[tuple[str, tuple[str, ...]]]:
    """What the command line asks of the disk, in order: calls with the paths that they name."""
    calls = []
    for line in traced(folder, CALLS, *words):
        call = re.match(r"(\w+)\((.*)\) += \d", line)
        if call and (paths := re.findall(r'^\d+<(.+?)>|"(/?[\w./-]+)"', call[2])):
            names = tuple(os.path.join(folder, fd or path) for fd, path in paths)
            calls.append((call[1], names))
    return calls


def comes(calls: Sequence[tuple[str, tuple[str, ...]]], name: str, *paths: Path) -> int:
    """Where the first of these calls is that names exactly these paths."""
    wanted = tuple(map(str, paths))
    return next(
        at for at, (call, names) in enumerate(calls) if call.startswith(name) and names == wanted
    )


@pytest.mark.fault(47)
def test_the_folders_of_a_store_are_on_the_disk_before_its_first_row(tmp_path: Path) -> None:
    """Each new one is written out in the one above it, and SQLite does so for its own files."""
    path = written(tmp_path, backend="serial")
    store = tmp_path / "new" / "deep" / "runs"
    calls = named(tmp_path, "submit", path, "--store", "new/deep/runs")
    (run,) = (store / "locks").iterdir()
    assert run.name.startswith("quarter-")
    row = comes(calls, "pwrite64", store / "ledger.sqlite-wal")
    for folder in (store, *store.parents[:2]):
        made = comes(calls, "mkdir", folder)
        assert made < comes(calls, "fsync", folder.parent) < row
    assert comes(calls, "fdatasync", store / "ledger.sqlite-wal") > row
    assert comes(calls[row:], "fdatasync", store)


@pytest.mark.fault(47)
def test_a_unit_of_systemd_is_whole_on_the_disk_before_it_is_put_in_place(tmp_path: Path) -> None:
    """Its text is written out, it is renamed, and its folder is written out."""
    path = written(tmp_path, name="job")
    calls = named(tmp_path, "schedule", path, "--systemd", "--at", "22:00")
    units = tmp_path / "config" / "systemd" / "user"
    service = next(units.glob("*.service"))
    part = service.with_name(f"{service.name}.part")
    text, name = comes(calls, "fsync", part), comes(calls, "rename", part, service)
    assert text < name
    assert comes(calls[name:], "fsync", units)


@pytest.mark.fault(47)
def test_nothing_is_renamed_but_by_the_room_for_it() -> None:
    """But in the kernels' cache, which is believed only where it is equal, and private folders."""
    root = Path(files.__file__).parents[1]
    pattern = re.compile(r"os\.(rename|replace)\(|\.rename\(|\b(part|scratch|path)\.replace\(")
    found = {
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        if pattern.search(file.read_text())
    }
    assert found == {"common/files.py", "hosts/scratch.py", "sampling/kernels/cache.py"}


@pytest.mark.fault(45, 47)
@pytest.mark.parametrize(("number", "raises"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_folder_that_cannot_be_written_out_is_an_error(
    number: int, raises: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where the file system knows no such thing."""

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    if raises:
        with pytest.raises(OSError, match=os.strerror(number)):
            files.make_folder(tmp_path / "new")
    else:
        files.make_folder(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    """And nothing is left beside it."""
    (tmp_path / "place" / "in-the-way").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        files.replace(tmp_path / "place", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
