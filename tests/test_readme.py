"""What the README and the tutorial show is true: their files are run, their commands exist."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cluster
from cluster.cli import group
from cluster.common.commands import VERBS

ROOT = Path(__file__).parents[1]
PAGES: dict[str, str] = {"README.md": "needle", "docs/tutorial.md": "distance"}
# What a page leaves out, or prints differently on every machine.
VARIES = re.compile(r"^(\.\.\.|run |localhost|time |trial |speed |expected |estimate |[0-9.]+ s: )")
# Commands for several hosts are run over the lab's, by tests/lab/test_configs.py.
SEVERAL = re.compile(r"configs/pi-(ssh|dispy|scoop|mpi)|backend=ssh")


def blocks(page: str, kind: str) -> list[str]:
    """The texts of a page's code blocks of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)


def commands(page: str) -> Iterator[list[str]]:
    """Every cluster command of a page, in a console or in a sentence, from its verb on."""
    text = (ROOT / page).read_text()
    lines = re.findall(r"^\$ (?:python -m )?(cluster .*)$", text, re.M)
    for line in [*lines, *re.findall(r"`(cluster [a-z][^`(]*)`", text)]:
        yield shlex.split(line, comments=True)[1:]


def sessions(page: str) -> Iterator[tuple[list[str], list[str]]]:
    """Each command of the consoles, with the lines that it printed there."""
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, *lines = part.splitlines()
            yield shlex.split(command.removeprefix("python -m ")), lines


@pytest.fixture
def written(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a page's kernel and spec as they are printed, to work in."""
    name = PAGES[page]
    (kernel,), (spec,) = blocks(page, "python"), blocks(page, "yaml")
    (tmp_path / f"{name}.py").write_text(kernel)
    (tmp_path / f"{name}.yaml").write_text(spec)
    monkeypatch.chdir(tmp_path)
    return tmp_path / f"{name}.yaml"


@pytest.mark.parametrize("page", PAGES)
def test_its_kernel_and_spec_run_and_agree_with_the_reference(page: str, written: Path) -> None:
    """With a target that is met sooner, and on another parameter than the spec's as well."""
    looser = {"README.md": "until.rel_error=2e-3", "docs/tutorial.md": "until.half_width=1e-3"}
    other = {"README.md": "params.length=0.9", "docs/tutorial.md": "params.dimension=1"}
    for overrides in ([], [other[page]]):
        spec = cluster.load(written, [looser[page], "seed=5", "backend=threads", *overrides])
        result = cluster.submit(spec)
        assert (result.state, result.stopped_by) == ("done", "target")
        assert abs(result.estimate - result.reference) < 4 * result.std_error


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_its_spec_runs_as_written(page: str, written: Path) -> None:
    """To the very precision that the page asks for."""
    result = cluster.submit(cluster.load(written))
    assert (result.state, result.stopped_by) == ("done", "target")
    assert abs(result.estimate - result.reference) < 4 * result.std_error


@pytest.mark.parametrize("page", PAGES)
def test_its_kernel_is_about_ten_lines(page: str) -> None:
    """A newcomer reads it at a glance."""
    (kernel,) = blocks(page, "python")
    assert len([line for line in kernel.splitlines() if line]) <= 10


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_exist(page: str) -> None:
    """Each verb, each option and each number of arguments is one that is there."""
    found = list(commands(page))
    assert len(found) > 4
    for verb, *arguments in found:
        assert verb in VERBS
        if arguments:  # without any it is a verb in a sentence
            numbers = ["1" if word == "N" else word for word in arguments]
            group.commands[verb].make_context(verb, numbers)


@pytest.mark.parametrize("folder", ["docs", "configs"])
def test_no_page_runs_whatever_lies_in_the_current_folder(folder: str) -> None:
    """With `python -m cluster` Python itself would take a cluster.py or a types.py from there."""
    for path in sorted((ROOT / folder).iterdir()):
        shown = re.findall(r"^.*(?:\$|#|&&|srun|mpirun).* -m cluster .*$", path.read_text(), re.M)
        assert [line for line in shown if "-P -m" not in line] == [], path


@pytest.mark.parametrize("page", PAGES)
def test_its_links_and_paths_lead_somewhere(page: str) -> None:
    """Every relative link, and every script and spec that a console names."""
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert ((ROOT / page).parent / link).exists(), link
    for path in re.findall(r"\b(?:scripts|configs|jobs)/[\w.-]+", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", ["docs/design.md", "docs/backends.md", "CONTRIBUTING.md"])
def test_the_files_that_a_page_names_exist(page: str) -> None:
    """Each Python file that is named with a folder, also where the folder is one of cluster/."""
    for name in re.findall(r"`((?:\w+/)+[a-z_]+\.py)`", (ROOT / page).read_text()):
        places = (ROOT, ROOT / "cluster", ROOT / "cluster/backends")
        assert any((place / name).exists() for place in places), name


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_its_sessions_print_what_they_show(
    page: str, written: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Estimates, intervals, counts and digests to the last digit; times and ids are this run's."""
    from cluster import cli

    for folder in ("configs", "jobs"):
        (written.parent / folder).symlink_to(ROOT / folder)
    for command, lines in sessions(page):
        if command[0] != "cluster" or of_one_machine(command, lines):
            continue
        if SEVERAL.search(" ".join(command)):
            continue
        capfd.readouterr()
        assert cli.run(command[1:]) == 0
        out, _ = capfd.readouterr()
        shown = [line for line in lines if promised(line)]
        assert [line for line in out.splitlines() if line in shown] == shown


def of_one_machine(command: list[str], lines: list[str]) -> bool:
    """Whether a command is about a run that only the page's author has, or was stopped by hand."""
    named = any(re.search(r"-\d{8}-\d{6}-", word) for word in command)
    return named or command[1] == "ls" or any("interrupted: SIGINT" in line for line in lines)


def promised(line: str) -> bool:
    """Whether a line of output must be the same everywhere."""
    return bool(line) and not VARIES.match(line) and not re.search(r"^node |-\d{8}-\d{6}-", line)


def test_a_session_holds_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that both pages give for Python returns what --json prints."""
    monkeypatch.chdir(tmp_path)
    overrides = ["samples=1e6", "backend=threads"]
    result = cluster.submit(cluster.load(ROOT / "configs" / "pi.yaml", overrides))
    document: dict[str, Any] = json.loads(json.dumps(result.to_json()))
    assert document["digest"] == result.digest
