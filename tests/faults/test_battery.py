"""kill -9 at random moments, then resume: nothing lost, nothing doubled, the same digest.

``scripts/chaos`` runs as many schedules as are asked for. A failure names its seed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cluster import api
from cluster.ledger import Ledger, request_of
from cluster.spec.request import extended
from tests.cli.shell import spec
from tests.conftest import battery
from tests.faults.battery import COMMAND, Broken, Site, damage, schedule

SEED = int(os.environ.get("CHAOS_SEED", "0"))
SCHEDULES = int(os.environ.get("CHAOS_SCHEDULES", "100"))
CHUNK = 10

# A dispatcher that sees nothing of what is counted, and asks nobody whether it may: what is left
# to refuse a block that is counted already is the database.
BLIND = """
from cluster.ledger import holds
from cluster.lifecycle import session
from cluster.sampling.progress import Count

session.recount = lambda ledger, run, goal, work, scaling, observe: Count(goal, *scaling)
holds.flock = lambda descriptor, path, run: None
"""
# The same, on a store whose database does not refuse anything.
UNGUARDED = """
import re
import cluster.ledger.database as ledger

tables = re.sub(r"CREATE TRIGGER.*?END;", "", ledger.TABLES, flags=re.DOTALL)
key = ",\\n    PRIMARY KEY (run, first)\\n) WITHOUT ROWID;"
assert key in tables and "TRIGGER" not in tables
tables = tables.replace(key, ");")
ledger.TABLES = tables
"""
MAIN = "\nfrom cluster.cli import run\nsys.exit(run(sys.argv[1:]))\n"


def changed(prelude: str) -> tuple[str, ...]:
    """The command line, after a prelude that changes the package."""
    return (sys.executable, "-c", f"import sys\n{prelude}{MAIN}")


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """That of the unbroken run."""
    result = Site(tmp_path_factory.mktemp("unbroken")).submit().result()
    return str(result["digest"])


def run_schedules(first: int, count: int, folder: Path, digest: str) -> None:
    """So many schedules from a seed on; four in five must have hit a block that was being drawn."""
    hits = 0
    for seed in range(first, first + count):
        place = folder / str(seed)
        place.mkdir()
        try:
            kills = schedule(seed, place, digest)
        except Broken as error:
            pytest.fail(f"seed {seed}: {error} (scripts/chaos --seed {seed} --schedules 1)")
        told = ", ".join(f"{k.victim}{' in a block' if k.in_a_block else ''}" for k in kills)
        sys.stdout.write(f"seed {seed}: killed {told or 'nobody: it had ended'}\n")
        hits += any(kill.in_a_block for kill in kills)
    assert hits >= 4 * count // 5, f"only {hits} of {count} hit a block"


@pytest.mark.fault(3, 4, 37, 49)
def test_a_few_killed_runs_resume_to_the_same_digest(tmp_path: Path, digest: str) -> None:
    """The battery in short: two schedules."""
    run_schedules(SEED, 2, tmp_path, digest)


@pytest.mark.fault(3, 4, 37, 49)
@pytest.mark.parametrize("first", battery(range(SEED, SEED + SCHEDULES, CHUNK)))
def test_killed_runs_resume_to_the_same_digest(first: int, tmp_path: Path, digest: str) -> None:
    """The battery: a hundred schedules, or as many as are asked for."""
    run_schedules(first, min(CHUNK, SEED + SCHEDULES - first), tmp_path, digest)


@pytest.mark.fault(37, 48)
def test_the_database_refuses_what_a_blind_dispatcher_counts_twice(
    tmp_path: Path, digest: str
) -> None:
    """Stopped with an error, and no block is doubled; an honest resume ends as the unbroken run."""
    with pytest.raises(Broken, match=r"(?s)exit 74: .*counted already"):
        schedule(0, tmp_path, digest, blind=changed(BLIND))
    site = Site(tmp_path)
    assert site.rows()
    assert site.go_on().result()["digest"] == digest
    assert len(site.rows()) <= 24


@pytest.mark.fault(37)
def test_the_battery_fails_without_the_databases_constraint(tmp_path: Path, digest: str) -> None:
    """The same blind dispatcher on tables that refuse nothing: the battery sees the doubling."""
    with pytest.raises(Broken, match="counted twice"):
        schedule(0, tmp_path, digest, command=changed(UNGUARDED), blind=changed(UNGUARDED + BLIND))
    unharmed = tmp_path / "unharmed"
    unharmed.mkdir()
    assert schedule(0, unharmed, digest, command=changed(UNGUARDED)), "it takes both"


def test_the_battery_uses_the_command_line_as_people_do() -> None:
    """``python -m cluster``, of this very interpreter."""
    assert (sys.executable, "-m", "cluster") == COMMAND


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A folder with a run that is done, one with a run that has drained early, and their digest."""
    folders = tmp_path_factory.mktemp("done"), tmp_path_factory.mktemp("early")
    for folder, samples in zip(folders, (4000, 2000), strict=True):
        text = str(spec(folder, backend="serial", samples=samples))
        result = api.submit(api.load(text, ["seed=1"]), store=folder / "runs", pinned=1)
    done = api.submit(api.load(text, ["seed=1", "samples=4000"]), store=folder / "other")
    with Ledger(folders[1] / "runs") as ledger:
        row = ledger.run(result.run)
        goal = extended(request_of(ledger, row), ["samples=4000"])
        ledger.set_goal(row, goal.to_json(), goal.goal.to_json())
    return *folders, str(done.digest)


def flips(first: int, count: int, sites: tuple[Path, Path, str], folder: Path) -> None:
    """So many bits from a seed on; a good part of them must have been refused."""
    *both, digest = sites
    found = []
    for seed in range(first, first + count):
        place = folder / str(seed)
        place.mkdir()
        try:
            found.append(damage(seed, both[seed % 2], place, digest))
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
    assert sum(word.endswith("refused") for word in found) >= count // 8, found


def test_a_flipped_bit_changes_no_result(sites: tuple[Path, Path, str], tmp_path: Path) -> None:
    """Of a run's row or of what it counted: refused, or set aside and computed again. A few."""
    flips(SEED, 24, sites, tmp_path)


@pytest.mark.parametrize("first", battery(range(SEED, SEED + 20 * SCHEDULES, 200)))
def test_flipped_bits_change_no_result(
    first: int, sites: tuple[Path, Path, str], tmp_path: Path
) -> None:
    """The same of two thousand, or as many as are asked for."""
    flips(first, 200, sites, tmp_path)
