"""Each verb's page says what its document holds."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.common.errors import Problem, SpecError, UsageError
from cluster.report import stores, text
from cluster.report.layout import plain
from cluster.sampling.task import Fault
from tests.report.documents import GOOD, NEW, PLAN, REPRO, STANDING
from tests.report.made import DIGEST

PAGES = {
    "validate": text.validated,
    "nodes": text.hosts,
    "verify": stores.verified,
    "gc": stores.pruned,
    "export": stores.exported,
}


@pytest.mark.parametrize(
    ("verb", "document"), [pair for pair in GOOD if pair[0] not in ("schema", "error", "errors")]
)
def test_every_document_has_a_page(verb: str, document: Any) -> None:
    """What fits the schema can be shown, with no gap left as None."""
    page = (PAGES.get(verb) or getattr(text, verb))(document)
    assert plain(page).strip()
    assert "None" not in plain(page)


def test_runs_are_listed_a_line_each() -> None:
    """The newest estimate to its error, a dash where nothing is known yet."""
    lines = plain(text.ls([STANDING, NEW])).splitlines()
    assert lines[0].split()[:4] == ["run", "state", "name", "samples"]
    assert "▸ running" in lines[1]
    assert "3.10(10)" in lines[1]
    assert lines[2].split()[:5] == ["pi-1", "…", "interrupted", "pi", "-"]
    assert plain(text.ls([])) == "no runs yet\n"


def test_the_status_of_a_run_names_who_holds_it() -> None:
    """How far it is, and which process computes it."""
    shown = plain(text.status({**STANDING, "goal_blocks": 4}))
    assert "▸ pi-1 (pi): running\n" in shown
    assert "blocks      1 of 4 (25.0 %)\n" in shown
    assert "held by     process 1 on h\n" in shown
    assert "held by" not in plain(text.status(NEW))
    # One that met its target early was not asked for the rest.
    met = plain(text.status({**STANDING, "goal_blocks": 4, "state": "done"}))
    assert "blocks      1\n" in met


def test_the_status_of_a_store_lists_what_is_being_computed() -> None:
    """One line a run, or a sentence."""
    assert "pi-1" in plain(text.status({"runs": [STANDING]}))
    assert plain(text.status({"runs": []})) == "no run is being computed\n"


def test_a_plan_says_how_much_and_how_long() -> None:
    """Blocks, slots, the trial and what it promises, and the target."""
    assert plain(text.plan(PLAN)) == (
        "name        pi\n"
        "kernel      pi.py:pi\n"
        "samples     1,000 in 10 blocks\n"
        f"identity    {DIGEST}\n"
        "backend     processes, 2 slots\n"
        "target      half_width 0.1 at 95 % confidence\n"
        "checkpoints 30, 33, ... blocks\n"
        "trial       200 samples in 2.0 s\n"
        "speed       100/s\n"
        "estimate    3.10(10)\n"
        "expected    10 s for 1,000 samples\n"
        "\n"
        "node       slots\n"
        "localhost      2\n"
    )


def test_a_backend_that_is_missing_comes_with_its_install_line() -> None:
    """The cure stands beside the finding."""
    rows = [
        {"backend": "serial", "usable": True, "summary": "plain", "install": None},
        {"backend": "mpi", "usable": False, "summary": "ranks", "install": "pip install x"},
    ]
    assert plain(text.backends(rows)) == (
        "backend  usable  summary  install\n"
        "serial   yes     plain    -\n"
        "mpi      no      ranks    pip install x\n"
    )


def test_a_kernel_is_listed_with_its_parameters() -> None:
    """Defaults as they are written; a parameter without one stands alone."""
    row = {
        "kernel": "a.py:a",
        "form": "rng",
        "params": {"a": "1", "b": None},
        "block": "2 ** 24",
        "doc": "Draws.",
    }
    assert "a=1, b" in plain(text.kernels([row]))
    assert plain(text.kernels([])) == "no kernels found\n"


def test_a_finding_comes_with_its_cure() -> None:
    """The doctor never only shakes its head."""
    found = {"check": "user", "status": "warn", "message": "you are root", "fix": "do not be"}
    assert "!  user   you are root; do not be\n" in plain(text.doctor({"findings": [found]}))


@pytest.mark.parametrize(("matches", "word"), [(True, "yes"), (False, "NO"), (None, "unknown")])
def test_a_repeated_block_says_whether_it_matches(matches: bool | None, word: str) -> None:
    """A block that came out differently is not to be overlooked."""
    assert f"matches     {word}" in plain(text.repro({**REPRO, "matches": matches}))


@pytest.mark.fault(14)
def test_a_block_that_fails_again_shows_its_traceback() -> None:
    """That is what the command is for."""
    fault = Fault("raised", 7, "ValueError", "bad luck", "Traceback:\n  line 3\n")._asdict()
    shown = plain(text.repro({**REPRO, "tally": None, "matches": None, "fault": fault}))
    assert shown.startswith("block 7 of pi-1: ValueError: bad luck\n  Traceback:\n    line 3\n")
    assert "matches" not in shown


def test_a_bad_spec_is_told_a_line_a_problem() -> None:
    """File, line and column first, so that editors can jump there."""
    problems = [
        Problem("a.yaml", 7, 12, "nodes[0].slots", "must be at least 1, got 0"),
        Problem("a.yaml", 9, 1, "nods", "unknown key", "did you mean 'nodes'?"),
    ]
    assert text.error(SpecError(problems)) == [
        "a.yaml:7:12: nodes[0].slots: must be at least 1, got 0",
        "a.yaml:9:1: nods: unknown key; did you mean 'nodes'?",
    ]


@pytest.mark.fault(96)
def test_an_error_is_told_with_its_place_and_cure() -> None:
    """What went wrong, where, and what to do; escapes in it are shown."""
    assert text.error(UsageError("no run 'x\x1b[2J'", where="runs", fix="'cluster ls'")) == [
        "error: runs: no run 'x\\x1b[2J'",
        "  'cluster ls'",
    ]
    assert text.error(UsageError("no")) == ["error: no"]
