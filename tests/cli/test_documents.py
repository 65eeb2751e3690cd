"""Each verb prints one JSON document that fits its schema, and a page without colours to a pipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cluster.common.commands import VERBS
from tests.cli.shell import ask, cluster, only_document, spec

# Verb by verb: what follows it; RUN stands for the run that the store holds.
COMMANDS = {
    "submit": ["quarter.yaml"],
    "resume": ["RUN"],
    "extend": ["RUN", "--samples", "41e3"],
    "schedule": ["quarter.yaml", "--cron", "@daily", "--print"],
    "validate": ["quarter.yaml"],
    "plan": ["quarter.yaml", "--seconds", "0.1"],
    "kernels": ["kernels.py"],
    "backends": [],
    "schema": [],
    "doctor": ["quarter.yaml"],
    "ls": [],
    "status": ["RUN"],
    "show": ["RUN"],
    "watch": ["RUN"],
    "logs": ["RUN"],
    "wait": ["RUN"],
    "attach": ["RUN"],
    "stop": ["RUN"],
    "compare": ["RUN", "RUN"],
    "repro": ["RUN", "--block", "2"],
    "verify": ["RUN"],
    "gc": ["--keep", "9"],
    "export": ["RUN", "--blocks", "0-9", "--to", "shard"],
    "merge": ["together", "runs"],
    "nodes": ["quarter.yaml"],
}
# They work until a signal; each is asked by its own tests.
OPEN = {"node"}
# What is wrong with each, and which of the two documents of an error says so.
MISTAKES = [
    (["submot", "quarter.yaml"], "error", "did you mean 'submit'?"),
    (["submit"], "error", "Missing argument 'SPEC'"),
    (["submit", "quarter.yaml", "--sed", "3"], "error", "--sed"),
    (["submit", "quarter.yaml", "--task-blocks", "0"], "error", "--task-blocks"),
    (["submit", "quater.yaml"], "errors", "quarter.yaml"),
    (["submit", "."], "errors", "directory"),
    (["submit", "kernels.py"], "errors", "kernels.py"),
    (["submit", "quarter.yaml", "--set", "samples=many"], "errors", "samples"),
    (["submit", "quarter.yaml", "--set", "samples"], "errors", "key=value"),
    (["submit", "quarter.yaml", "--set", "sampels=3"], "errors", "did you mean 'samples'?"),
    (["submit", "quarter.yaml", "--set", "params.d=3"], "errors", "no parameter 'd'"),
    (["submit", "quarter.yaml", "--set", "kernel=kernels.py:halve"], "errors", "halve"),
    (["submit", "quarter.yaml", "--set", "backend=procceses"], "errors", "'processes'"),
    (["submit", "quarter.yaml", "--set", "nodes=far.example.org"], "errors", "works only on this"),
    (["validate", "quarter.yaml", "--set", "samples=null"], "errors", "when to stop"),
    (["plan", "quarter.yaml", "--seconds", "nan"], "error", "--seconds"),
    (["plan", "quarter.yaml", "--seconds", "-1"], "error", "--seconds"),
    (["show", "nothing"], "error", "no run 'nothing'"),
    (["resume", "RUN", "--set", "params.share=0.5"], "error", "would change what"),
    (["extend", "RUN"], "error", "extend to what?"),
    (["extend", "RUN", "--samples", "1000"], "error", "nothing to extend"),
    (["extend", "RUN", "--samples", "-5"], "errors", "at least 1"),
    (["extend", "RUN", "--set", "seed=8"], "error", "not a goal"),
    (["repro", "RUN", "--block", "-1"], "error", "--block"),
    (["kernels", "nowhere"], "error", "nowhere"),
    (["nodes", "quarter.yaml", "--set", "nodes=h[1"], "errors", "'[' without ']'"),
    (["nodes", "RUN", "--add", "h4"], "error", "is not being computed (done)"),
    (["nodes", "RUN", "--add", "h[1"], "error", "--add 'h[1': '[' without ']'"),
    (["nodes", "RUN", "--add", "{host: h4, slot: 2}"], "error", "did you mean 'slots'?"),
    (["nodes", "RUN", "--drain", "h1,h1"], "error", "is listed twice"),
    (["node", "--port", "9700"], "error", "--secret-file"),
    (["node", "--port", "9700", "--secret-file", "nowhere"], "error", "nowhere"),
    (["submit", "quarter.yaml", "--set", "nodes=[{host: h, attach: 97}]"], "errors", "be dispy"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec, its kernels, and a store with one run that is done."""
    folder = tmp_path_factory.mktemp("documents")
    spec(folder)
    run = ask("submit", "quarter.yaml", "--set", "backend=threads", cwd=folder)["run"]
    assert cluster("resume", run, "--detach", cwd=folder).returncode == 0  # so that it has a log
    assert cluster("wait", run, cwd=folder).returncode == 0
    (folder / "RUN").write_text(run)
    return folder


def filled(arguments: list[str], folder: Path) -> list[str]:
    """The arguments with the id of the run."""
    run = (folder / "RUN").read_text()
    return [run if word == "RUN" else word for word in arguments]


def test_every_verb_is_asked() -> None:
    """A new verb finds its place in the tests below."""
    assert set(COMMANDS) | OPEN == set(VERBS)


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_prints_one_document_that_fits_its_schema(
    verb: str, folder: Path, tmp_path: Path
) -> None:
    """Nothing else is on stdout, whatever is told meanwhile."""
    own = shutil.copytree(folder, tmp_path / "own")
    ask(verb, *filled(COMMANDS[verb], own), cwd=own)


@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb not in ("resume", "extend")])
def test_a_verb_prints_a_page_without_colours_to_a_pipe(
    verb: str, folder: Path, tmp_path: Path
) -> None:
    """No escape character goes into a file, and no line ends in blanks."""
    own = shutil.copytree(folder, tmp_path / "own")
    process = cluster(verb, *filled(COMMANDS[verb], own), cwd=own)
    assert process.returncode == 0
    assert process.stdout.endswith("\n")
    assert "\x1b" not in process.stdout + process.stderr
    assert all(line == line.rstrip() for line in process.stdout.splitlines())


@pytest.mark.parametrize(("arguments", "kind", "words"), MISTAKES)
def test_a_mistake_is_one_document_too(
    arguments: list[str],
    kind: str,
    words: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has its words, and exit code 2; nothing is computed or made."""
    from cluster import cli

    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert cli.run([*filled(arguments, folder), "--json"]) == 2
    out, err = capfd.readouterr()
    only_document(out, kind)
    assert words in out.replace("\\n", " ")
    assert err == ""
    assert [p for p in sorted(folder.rglob("*")) if p.suffix != ".lock"] == before


@pytest.mark.parametrize(("arguments", "kind", "words"), MISTAKES[:8])
def test_a_mistake_is_told_on_stderr(
    arguments: list[str],
    kind: str,
    words: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without --json stdout stays empty, so that it is data or nothing."""
    from cluster import cli

    monkeypatch.chdir(folder)
    assert cli.run(filled(arguments, folder)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_all_problems_of_a_spec_come_at_once(tmp_path: Path) -> None:
    """With their lines, and one document for all of them."""
    path = tmp_path / "bad.yaml"
    path.write_text("kernel: nothing\nsamples: -3\nbackend: mpy\nsede: 3\n")
    process = cluster("submit", "bad.yaml", "--json", cwd=tmp_path)
    assert process.returncode == 2
    document = only_document(process.stdout, "errors")
    assert [error["line"] for error in document["errors"]] == [1, 2, 3, 4]


def test_status_without_a_run_lists_what_is_computed(folder: Path) -> None:
    """Nothing is, in a store that is at rest."""
    assert ask("status", cwd=folder) == {"runs": []}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["submit", "-h"], ["--version"]])
def test_help_is_an_answer(arguments: list[str], tmp_path: Path) -> None:
    """On stdout, with exit code 0."""
    process = cluster(*arguments, cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert "cluster" in process.stdout


def test_a_fault_of_our_own_is_one_document_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What nobody thought of ends with exit code 1, its traceback on stderr."""
    from cluster import cli
    from cluster.report import standings

    def fails(_store: object) -> None:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(standings, "standings", fails)
    assert cli.run(["ls", "--json"]) == 1
    out, err = capfd.readouterr()
    assert "nobody thought of this" in only_document(out, "error")["error"]["message"]
    assert "Traceback" in err


def test_the_output_s_schema_is_that_of_the_package(folder: Path) -> None:
    """The verb prints the schema of specs, as editors are given it."""
    shipped = json.loads((Path(__file__).parents[2] / "cluster/spec.schema.json").read_text())
    assert ask("schema", cwd=folder) == shipped
