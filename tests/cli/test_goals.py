"""Going on: --set, resume, submit --resume and extend, and the digest that each must end with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import cli
from tests.cli.shell import interrupted, only_document, spec

TARGET = {"half_width": 0.004, "max_samples": 1e6}


class Shell:
    """Commands in one folder, run in this process, where they are quick."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, verb: str, *arguments: object, code: int = 0) -> Any:
        """The checked document of a command that ends with a code."""
        self._capfd.readouterr()
        got = cli.run([verb, *map(str, arguments), "--json"])
        out, err = self._capfd.readouterr()
        assert got == code, out + err
        return only_document(out, verb if code in (0, 1, 3) else "error")


@pytest.fixture
def ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Shell:
    """Commands in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return Shell(capfd)


def quick(tmp_path: Path, function: str = "quarter", **keys: object) -> Path:
    """A spec for this process's own threads."""
    return spec(tmp_path, function, **{"backend": "threads", **keys})


def test_set_is_honoured_and_recorded(ask: Shell, tmp_path: Path) -> None:
    """A resume and a look later know nothing of the command line, and need not."""
    path = quick(tmp_path)
    changes = ["seed=8", "block=500", "params.share=0.5", "name=half", "samples=4500"]
    result = ask("submit", path, *(word for change in changes for word in ("--set", change)))
    shown = ask("show", result["run"])
    assert {key: shown[key] for key in ("seed", "block", "params", "name", "samples")} == {
        "seed": 8,
        "block": 500,
        "params": {"share": 0.5},
        "name": "half",
        "samples": 4500,
    }
    assert abs(shown["estimate"] - 0.5) < 0.05
    assert shown["digest"] == result["digest"]


def test_what_says_where_is_not_in_the_digest(ask: Shell, tmp_path: Path) -> None:
    """Name, description, nodes, backend, retry and store change nothing of the answer."""
    path = quick(tmp_path)
    changes = [
        "name=other",
        "description=other",
        "nodes=localhost:3",
        "backend=serial",
        "retry.attempts=2",
        "store=elsewhere",
    ]
    one = ask("submit", path)
    other = ask("submit", path, *(word for change in changes for word in ("--set", change)))
    assert (other["digest"], other["identity"]) == (one["digest"], one["identity"])
    assert ask("show", other["run"], "--store", "elsewhere")["digest"] == one["digest"]


@pytest.mark.fault(52)
def test_extended_samples_are_those_of_one_long_run(ask: Shell, tmp_path: Path) -> None:
    """Only the new blocks are drawn; 60,500 samples are 61 whole blocks."""
    path = quick(tmp_path)
    run = ask("submit", path)["run"]
    more = ask("extend", run, "--samples", "60_500")
    fresh = ask("submit", path, "--set", "samples=60_500")
    assert (more["samples"], more["digest"]) == (61_000, fresh["digest"])
    assert (more["state"], more["run"]) == ("done", run)


@pytest.mark.fault(52)
def test_a_tighter_target_ends_where_a_fresh_run_does(ask: Shell, tmp_path: Path) -> None:
    """From samples to a target, to a tighter one, and on to samples: each has the fresh digest."""
    path = quick(tmp_path, samples=10_000)
    run = ask("submit", path)["run"]
    for width in (0.004, 0.003):
        more = ask("extend", run, "--set", f"until.half_width={width}")
        fresh = ask("submit", path, "--set", "samples=null", "--set", f"until.half_width={width}")
        assert (more["state"], more["stopped_by"]) == ("done", "target")
        assert (more["samples"], more["digest"]) == (fresh["samples"], fresh["digest"])
    samples = more["samples"] + 3000
    longer = ask("extend", run, "--samples", samples)
    assert longer["digest"] == ask("submit", path, "--set", f"samples={samples}")["digest"]


def test_extend_never_takes_away_what_is_counted(ask: Shell, tmp_path: Path) -> None:
    """Fewer samples and a looser target are refused, and the result stays."""
    path = quick(tmp_path, samples=None, until=TARGET)
    done = ask("submit", path)
    for goal in (
        ["--samples", "1000"],
        ["--set", "until.half_width=0.01"],
        ["--set", "until.half_width=0.004"],
        ["--set", "until.max_samples=2e4"],
        ["--samples", done["samples"]],
    ):
        error = ask("extend", done["run"], *goal, code=2)["error"]
        assert "nothing to extend" in error["message"]
    assert ask("show", done["run"])["digest"] == done["digest"]


def test_submit_resume_finds_the_run_of_the_same_request(ask: Shell, tmp_path: Path) -> None:
    """A drawn seed and block auto are taken over; name and samples are not in the request."""
    path = quick(tmp_path, seed=None)
    first = ask("submit", path)
    again = ask("submit", path, "--resume")
    more = ask("submit", path, "--resume", "--set", "samples=5e4", "--set", "name=other")
    assert (again["run"], again["digest"]) == (first["run"], first["digest"])
    assert (more["run"], more["seed"], more["samples"]) == (first["run"], first["seed"], 50_000)
    fewer = ask("submit", path, "--resume")
    assert (fewer["run"], fewer["digest"]) == (first["run"], more["digest"])
    assert len(ask("ls")) == 1


def test_submit_resume_makes_a_run_where_there_is_none(ask: Shell, tmp_path: Path) -> None:
    """Another seed, other params and another kernel text are other requests."""
    path = quick(tmp_path)
    runs = {ask("submit", path, "--resume")["run"]}
    for change in ("seed=8", "params.share=0.5", "block=500"):
        runs.add(ask("submit", path, "--resume", "--set", change)["run"])
    (tmp_path / "kernels.py").write_text((tmp_path / "kernels.py").read_text() + "# new\n")
    runs.add(ask("submit", path, "--resume")["run"])
    assert len(runs) == 5


def test_a_looser_target_keeps_what_a_tighter_one_has(ask: Shell, tmp_path: Path) -> None:
    """The same spec, edited to ask for less, shows the run that has more."""
    path = quick(tmp_path, samples=None, until=TARGET)
    done = ask("submit", path)
    looser = ask("submit", path, "--resume", "--set", "until.half_width=0.01")
    assert (looser["run"], looser["digest"]) == (done["run"], done["digest"])
    tighter = ask("submit", path, "--resume", "--set", "until.half_width=0.003")
    assert tighter["run"] == done["run"]
    assert tighter["samples"] > done["samples"]


def test_a_resume_may_change_the_place_and_nothing_else(
    ask: Shell, tmp_path: Path, unbroken: str
) -> None:
    """Backend and nodes change no bit of the digest; what would is refused."""
    path = spec(tmp_path, "slow")
    run = interrupted(path, cwd=tmp_path)
    for change in ("params.pause=0", "seed=8", "kernel=kernels.py:quarter", "samples=5"):
        assert "would change" in ask("resume", run, "--set", change, code=2)["error"]["message"]
    resumed = ask("resume", run, "--set", "backend=threads", "--set", "nodes=localhost:3")
    assert (resumed["state"], resumed["backend"]) == ("done", "threads")
    assert resumed["digest"] == unbroken


def test_a_finished_run_is_answered_as_it_is(ask: Shell, tmp_path: Path) -> None:
    """A resume of it computes nothing, which makes a resume safe to repeat."""
    done = ask("submit", quick(tmp_path))
    again = ask("resume", done["run"])
    assert {**again, "wall_s": 0} == {**done, "wall_s": 0}


def test_the_start_of_an_id_names_a_run(ask: Shell, tmp_path: Path) -> None:
    """As long as it is the only one; % and _ are no patterns."""
    path = quick(tmp_path)
    run = ask("submit", path)["run"]
    other = ask("submit", path, "--set", "name=other")["run"]
    assert ask("show", run[:8])["run"] == run
    ask("submit", path)
    error = ask("show", "quarter-", code=2)["error"]
    assert run in error["message"]
    assert other not in error["message"]
    for pattern in ("%", "_uarter", "quarter-2%"):
        assert "no run" in ask("show", pattern, code=2)["error"]["message"]


def test_ls_has_the_newest_first(ask: Shell, tmp_path: Path) -> None:
    """Each with where it stands."""
    path = quick(tmp_path)
    runs = [ask("submit", path, "--set", f"name=n{i}")["run"] for i in range(3)]
    rows = ask("ls")
    assert [row["run"] for row in rows] == runs[::-1]
    assert {row["state"] for row in rows} == {"done"}
    assert {row["samples"] for row in rows} == {40_000}


def test_repro_draws_a_good_block_as_it_was_counted(ask: Shell, tmp_path: Path) -> None:
    """Matches where the block has a row of its own, unknown where its row has several."""
    path = quick(tmp_path)
    single = ask("submit", path, "--task-blocks", "1")["run"]
    several = ask("submit", path, "--task-blocks", "8")["run"]
    one, two = (ask("repro", run, "--block", 5) for run in (single, several))
    assert (one["matches"], two["matches"]) == (True, None)
    assert one["tally"] == two["tally"]
    assert one["tally"]["samples"] == 1000


@pytest.mark.fault(14)
def test_repro_shows_a_bad_block_s_traceback(ask: Shell, tmp_path: Path) -> None:
    """With exit code 1, and the line of the kernel."""
    run = ask("submit", quick(tmp_path, "breaks"), code=1)["run"]
    bad = ask("repro", run, "--block", 3, code=1)
    assert (bad["fault"]["type"], bad["tally"]) == ("ValueError", None)
    assert "out of cheese" in bad["fault"]["traceback"]
    assert ask("repro", run, "--block", 4)["fault"] is None


def test_pinned_tasks_are_as_long_as_asked(ask: Shell, tmp_path: Path) -> None:
    """--task-blocks is for measurements: the digest stays."""
    path = quick(tmp_path, samples=30_000)
    pinned = ask("submit", path, "--task-blocks", "10")
    assert sum(node["tasks"] for node in pinned["nodes"]) == 3
    assert pinned["digest"] == ask("submit", path)["digest"]


def test_plan_and_validate_say_what_a_target_may_take(
    ask: Shell, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """max_samples is a limit and not the number that will be drawn."""
    path = quick(tmp_path, samples=None, until=TARGET)
    assert ask("validate", path)["target"]["half_width"] == 0.004
    assert cli.run(["validate", str(path)]) == 0
    assert "at most 1,000,000 in 1,000 blocks" in capfd.readouterr().out
    planned = ask("plan", path, "--seconds", "0.2")
    assert planned["expected_samples"] < 100_000
    assert json.loads(json.dumps(planned["checkpoints"][:3])) == [30, 33, 36]
