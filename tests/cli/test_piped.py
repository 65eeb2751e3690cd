"""A spec that is piped in: every verb that takes one reads it, relative to the working folder."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from .shell import COMMAND, PATIENCE, ROOT, cluster, environment, spec


def piped(*words: str, cwd: Path, text: str) -> subprocess.CompletedProcess[str]:
    """A command that finds a text in its standard input."""
    return subprocess.run(
        [*COMMAND, *words],
        cwd=cwd,
        env=environment(PYTHONPATH=str(ROOT)),
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    ("verb", "place"),
    [
        ("validate", "/dev/stdin"),
        ("validate", "/dev/fd/0"),
        ("plan", "-"),
        ("submit", "-"),
        ("doctor", "/proc/self/fd/0"),
        ("nodes", "-"),
    ],
)
def test_a_verb_reads_its_spec_from_standard_input(tmp_path: Path, verb: str, place: str) -> None:
    """The kernel is found in the working folder, and the run has a name that is none of /dev's."""
    text = spec(tmp_path, seed=None).read_text()
    done = piped(
        verb,
        place,
        "--json",
        *(["--seconds", "0"] * (verb == "plan")),
        "--set",
        "seed=7",
        cwd=tmp_path,
        text=text,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).get("name", "run") == "run"


def test_a_sweep_is_read_from_standard_input(tmp_path: Path) -> None:
    """A sweep as any other spec."""
    text = spec(tmp_path).read_text() + "sweep: {matrix: {params.share: [0.1, 0.2]}}\n"
    done = piped("submit", "-", "--quiet", cwd=tmp_path, text=text)
    assert (done.returncode, "2 of 2 points done" in done.stdout) == (0, True)


def test_a_detached_run_takes_a_piped_spec_along(tmp_path: Path) -> None:
    """The pipe is read before the command returns, and the run needs it no more."""
    text = spec(tmp_path).read_text()
    done = piped("submit", "-", "--detach", "--json", cwd=tmp_path, text=text)
    assert done.returncode == 0, done.stderr
    waited = cluster("wait", json.loads(done.stdout)["run"], cwd=tmp_path)
    assert (waited.returncode, waited.stderr) == (0, "")


@pytest.mark.parametrize("words", [["--cron", "@daily"], ["--remove"]])
def test_a_scheduler_is_given_no_piped_spec(tmp_path: Path, words: list[str]) -> None:
    """Each start would read it anew, so it must stay; that is said before anything is written."""
    done = piped("schedule", "-", *words, cwd=tmp_path, text=spec(tmp_path).read_text())
    assert done.returncode == 2
    expected = "a scheduler needs the spec as a file: - can be read only once\n  save it as a file"
    assert expected in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kernel: nowhere.py:k\nsamples: 1\n", "-:1:9: kernel: no file nowhere.py"),
        ("", "-:1:1: the file is empty"),
    ],
)
def test_what_is_wrong_with_a_piped_spec_is_told_at_its_line(
    tmp_path: Path, text: str, words: str
) -> None:
    """Lines and columns are those of what was piped in."""
    done = piped("validate", "-", cwd=tmp_path, text=text)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_a_named_pipe_and_a_process_s_output_are_relative_to_the_working_folder(
    tmp_path: Path,
) -> None:
    """``<(...)`` of a shell is /dev/fd/63; a pipe by name may lie in any folder."""
    text = spec(tmp_path).read_text()
    (tmp_path / "deep").mkdir()
    pipe = tmp_path / "deep" / "pipe.yaml"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(text,), daemon=True)
    writer.start()
    assert cluster("validate", "deep/pipe.yaml", cwd=tmp_path).returncode == 0
    writer.join(PATIENCE)
    reader, end = os.pipe()
    os.write(end, text.encode())
    os.close(end)
    done = subprocess.run(
        [*COMMAND, "validate", f"/dev/fd/{reader}"],
        cwd=tmp_path,
        pass_fds=(reader,),
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    os.close(reader)
    assert done.returncode == 0


def test_a_file_on_shared_memory_is_a_file_with_a_folder(tmp_path: Path) -> None:
    """What lies below /dev and is a file has its kernel beside it; a folder is told as one."""
    (tmp_path / "sub").mkdir()
    spec(tmp_path / "sub")
    assert cluster("validate", "sub/quarter.yaml", cwd=tmp_path).returncode == 0
    assert "cannot read the spec: Is a directory" in cluster("validate", "sub", cwd=tmp_path).stderr
