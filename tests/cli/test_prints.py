"""What kernels print: kept in the log with node and block, shown in part, and never a burden."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.base import TABLE
from cluster.hosts.prints import LONGEST_LINE, MOST_LINES, Prints
from tests.backends.engines import parameters
from tests.cli.shell import ask, cluster
from tests.conftest import need

KERNELS = '''
import os
import subprocess
import sys
import time
import warnings

import numpy as np
from cluster import Hits


def drawn(stream, samples):
    return Hits((stream.generator().random(samples) < 0.25).sum(), samples)


def speaks(stream, samples):
    if stream.block == 3:
        print("said \\x1b[31mby print")
        print("said on stderr", file=sys.stderr)
        warnings.warn("said by warnings")
        np.float64(1e308) * np.float64(10)
        os.write(1, b"said below Python\\n")
        subprocess.run(["echo", "said by a program"])
    return drawn(stream, samples)


def chatters(stream, samples):
    """In every block, more than a pipe holds."""
    for line in range(1500):
        print("line", line, "x" * 60)
    return drawn(stream, samples)


def floods(stream, samples):
    """One of the blocks prints for two seconds, as fast as it can."""
    end = time.monotonic() + 2.0
    while stream.block == 0 and time.monotonic() < end:
        os.write(1, b"y\\n" * 4096)
    time.sleep(0.05)
    return drawn(stream, samples)
'''
QUICK = {"serial", "threads", "processes", "ssh"}
BACKENDS = parameters(
    [entry.name for entry in TABLE],
    default={"serial", "processes"},
    slow={"threads", "ssh", "tcp", "mpi"},
)


def spec(folder: Path, function: str, backend: str, **keys: object) -> Path:
    """Eight blocks of a kernel on two slots of a backend."""
    entry = next(entry for entry in TABLE if entry.name == backend)
    need(entry.usable, f"{backend}: {entry.install}")
    document: dict[str, object] = {
        "kernel": f"prints.py:{function}",
        "samples": 80,
        "block": 10,
        "seed": 1,
        "nodes": "localhost:2",
        "backend": backend,
        **keys,
    }
    (folder / "prints.py").write_text(KERNELS)
    path = folder / "spec.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items()))
    return path


def submitted(folder: Path, function: str, backend: str, *options: str) -> tuple[Any, str]:
    """The document of a run, which is all of standard output, and what stood on stderr."""
    path = spec(folder, function, backend)
    done = cluster("submit", path, "--json", *options, cwd=folder)
    result = json.loads(done.stdout)
    assert result["state"] == "done", done.stderr
    return result, done.stderr


def log(folder: Path, run: str) -> list[str]:
    """The lines that ``logs`` prints."""
    return str(ask("logs", run, cwd=folder)["text"]).splitlines()


@pytest.mark.parametrize("backend", BACKENDS)
def test_prints_and_warnings_are_in_the_log_with_node_and_block(
    backend: str, tmp_path: Path
) -> None:
    """And told on the terminal once; nothing in them reaches it as a command."""
    result, told = submitted(tmp_path, "speaks", backend)
    lines = log(tmp_path, result["run"])
    words = ["by print", "on stderr", "by warnings", "overflow encountered"]
    if backend not in ("serial", "threads"):  # there a descriptor is the dispatcher's own
        words += ["below Python", "by a program"]
    for word in words:
        assert any(line.startswith("localhost slot ") and word in line for line in lines), word
    assert any(", block 3: said on stderr" in line for line in lines)
    assert "\x1b" not in "".join(lines) + told
    assert "block 3: said \N{REPLACEMENT CHARACTER}[31mby print" in told


def test_a_quiet_run_has_the_prints_in_its_log_only(tmp_path: Path) -> None:
    """As it has its progress nowhere."""
    result, told = submitted(tmp_path, "speaks", "processes", "--quiet")
    assert told == ""
    assert any("said on stderr" in line for line in log(tmp_path, result["run"]))


def test_a_detached_run_has_each_line_once(tmp_path: Path) -> None:
    """Though all that it says is in that log."""
    path = spec(tmp_path, "speaks", "processes")
    run = json.loads(cluster("submit", path, "--detach", "--json", cwd=tmp_path).stdout)["run"]
    assert cluster("wait", run, cwd=tmp_path).returncode == 0
    assert sum("said on stderr" in line for line in log(tmp_path, run)) == 1


def test_a_sweeps_prints_are_in_its_own_log(tmp_path: Path) -> None:
    """Each line with the run that it is of."""
    path = spec(tmp_path, "speaks", "processes", sweep={"matrix": {"samples": [80, 160]}})
    sweep = json.loads(cluster("submit", path, "--json", cwd=tmp_path).stdout)
    lines = [line for line in log(tmp_path, sweep["sweep"]) if "said on stderr" in line]
    runs = {point["run"] for point in sweep["points"]}
    assert {line.partition(", ")[0] for line in lines} == runs


@pytest.mark.parametrize("backend", sorted(QUICK - {"ssh"}))
def test_only_the_first_lines_of_each_process_are_kept(backend: str, tmp_path: Path) -> None:
    """How many more there were is told; the log stays small."""
    result, told = submitted(tmp_path, "chatters", backend)
    lines = log(tmp_path, result["run"])
    assert sum(": line " in line for line in lines) <= 2 * MOST_LINES
    assert any("more lines so far, which are not kept" in line for line in lines)
    assert f"{result['run']}.log has it" in told
    assert len(told.splitlines()) < 20


def test_who_prints_without_end_holds_up_nobody(tmp_path: Path) -> None:
    """The other slot draws all the rest meanwhile."""
    path, begun = spec(tmp_path, "floods", "processes", samples=400), time.monotonic()
    done = cluster("submit", path, "--json", "--task-blocks", 1, cwd=tmp_path)
    assert json.loads(done.stdout)["state"] == "done"
    assert time.monotonic() - begun < 20
    assert (tmp_path / "runs" / "logs").stat().st_size < 1 << 20


def test_lines_of_any_form_are_cut_and_counted() -> None:
    """Without an end, of no text, over many reads; the last one when the process has ended."""
    prints = Prints()
    prints.add(b"half a ")
    assert prints.take() is None
    prints.add(b"line\n\xff\xfe\r\n" + b"x" * 10_000_000)
    prints.add(b"y" * 10_000_000)
    taken = prints.take(ended=True)
    assert taken is not None
    lines, dropped = taken
    assert lines[0] == "half a line"
    assert lines[1] == "\N{REPLACEMENT CHARACTER}" * 2
    assert lines[2] == "x" * LONGEST_LINE
    assert (len(lines), dropped) == (3, 0)
    prints.add(b"\n" * 1_000_000)
    taken = prints.take()
    assert taken is not None
    assert (len(taken[0]), taken[1]) == (MOST_LINES - 3, 1_000_000 - MOST_LINES + 3)
    prints.add(b"\n")
    assert prints.take() is None  # not again at once
    assert prints.take(ended=True) == ((), 1_000_001 - MOST_LINES + 3)
