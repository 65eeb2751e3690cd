"""Stores that were damaged, or sent by somebody: nothing in them is believed."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from itertools import product
from pathlib import Path

import pytest

from cluster import api
from cluster.cli import run
from cluster.common.commands import command
from cluster.common.errors import StoreError
from cluster.ledger import FILE, Ledger
from cluster.sampling.tally import Histogram
from cluster.sampling.task import checksum, tally_text
from tests.conftest import battery
from tests.ledger.stores import without_marks
from tests.lifecycle.forged import cases, copied, everything, forge, made, opened, seal

SEED = int(os.environ.get("CHAOS_SEED", "0"))
IDS = (
    "../../x",
    "..",
    ".",
    "",
    "a/b",
    "x\0y",
    "x\x1b[31my",
    "x\ny",
    "-rf",
    "x y",
    "é",
    "a" * 300,
    "~root",
    "$(touch x)",
    "x;touch x",
    b"\xff",
)
TWICE = (
    "INSERT INTO outcome SELECT run, first + 1, stop + 1, tally, node, slot, pid, attempt, created,"
    " started, ended, received, wall, cpu, variant, checksum FROM outcome WHERE first = 0"
)
READ = (["ls"], ["status"], ["gc", "--older-than", "1h", "--keep", "5", "--yes"])
TOUCH = ("show", "status", "resume", "logs", "wait", "stop")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store; copied, never changed."""
    folder = tmp_path_factory.mktemp("made") / "site"
    folder.mkdir()
    made(folder)
    return folder


@pytest.fixture
def site(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, entered."""
    folder = copied(store, tmp_path / "site")
    monkeypatch.chdir(folder)
    return folder


def told(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and output of a command; never the words for a fault of our own."""
    capfd.readouterr()
    code = run([*words])
    out, err = capfd.readouterr()
    assert "a fault of cluster" not in err + out, (words, err)
    assert "Traceback" not in err, (words, err)
    assert not any(c in out + err for c in "\x1b\x00"), words
    return code, out + err


def victim(folder: Path, name: str = "victim") -> str:
    """The id of the run of a name."""
    with opened(folder) as db:
        return str(db.execute("SELECT id FROM run WHERE name = ?", (name,)).fetchone()[0])


@pytest.mark.parametrize("name", [*IDS, "/absolute"], ids=ascii)
def test_an_id_that_is_none_names_no_file_and_no_command(
    site: Path, capfd: pytest.CaptureFixture[str], name: object
) -> None:
    """Merged, resumed, logged, removed: nothing outside of a store is written, read or removed."""
    witness = site / "absolute.log"
    witness.write_text("secret words")
    target = str(site / "absolute") if name == "/absolute" else name
    (site / "absolute").write_text("mine")
    before = everything(site.parent)
    with opened(site) as db:
        db.execute("UPDATE run SET id = ? WHERE name = 'victim'", (target,))
        db.execute("DELETE FROM point")
        db.execute("DELETE FROM sweep")
        db.execute("DELETE FROM run WHERE name != 'victim'")
        seal(db)
    code, text = told(capfd, "merge", "out", "runs")
    assert (code, "row" in text and "column id" in text) == (74, True), text
    assert not (site / "out").exists()
    given = target if isinstance(target, str) and target and "\0" not in target else "x"
    for verb in ("resume", "logs", "show", "stop", "wait", "verify", "status"):
        code, text = told(capfd, verb, "--", given)
        assert code in (2, 74), (verb, text)
        assert "secret words" not in text
    for words in READ:
        assert told(capfd, *words)[0] == 0
    assert everything(site.parent) == before


def test_a_locks_folder_that_is_a_link_is_not_followed(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A store that was sent may have links: an id may be the name of a file behind one."""
    elsewhere = site / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / victim(site)).write_text("mine")
    (site / "runs" / "locks").rename(site / "moved")
    (site / "runs" / "locks").symlink_to(elsewhere)
    code, text = told(capfd, "resume", victim(site))
    assert code == 74
    assert "link" in text
    assert (elsewhere / victim(site)).read_text() == "mine"
    (site / "runs" / "locks").unlink()
    (site / "runs" / "logs").mkdir()
    (site / "runs" / "logs" / f"{victim(site)}.log").symlink_to(site / "elsewhere" / victim(site))
    code, text = told(capfd, "logs", victim(site))
    assert code == 74
    assert "mine" not in text


def all_cases(
    site: Path, store: Path, capfd: pytest.CaptureFixture[str], number: int, skip: int = 0
) -> None:
    """So many forged columns: each is refused by name or left out, and takes nothing else along."""
    every = list(cases(random.Random(SEED)))[skip : skip + number]
    with opened(site) as db:
        (sweep,) = db.execute("SELECT id FROM sweep").fetchone()
    victim_and_others = victim(site), str(sweep), victim(site, "healthy")
    path, before = site / "runs" / FILE, everything(site.parent)
    original = (store / "runs" / FILE).read_bytes()
    for table, column, value in every:
        for side in (path.with_name(f"{FILE}-wal"), path.with_name(f"{FILE}-shm")):
            side.unlink(missing_ok=True)
        path.write_bytes(original)
        if not forge(site, table, column, value):
            continue
        case = f"{table}.{column} = {ascii(value)[:60]} (CHAOS_SEED={SEED})"
        try:
            looked_at(site, capfd, victim_and_others)
            assert everything(site.parent) == before
        except Exception as error:
            raise AssertionError(f"{case}: {error}") from error


def looked_at(site: Path, capfd: pytest.CaptureFixture[str], names: tuple[str, str, str]) -> None:
    """Every verb, of the victim, the sweep and the whole store."""
    name, sweep, healthy = names
    for words in READ:
        code, text = told(capfd, *words)
        assert code == 0, text
        assert words != ["ls"] or healthy in text
    for verb, what in [*product(TOUCH, (name, sweep)), ("verify", name)]:
        code, text = told(capfd, verb, what)
        assert code in (0, 1, 2, 3, 74), text
    assert told(capfd, "show", healthy)[0] == 0
    code, text = told(capfd, "merge", "out", f"runs/{name}")
    assert code in (0, 2, 74), text


def test_any_value_in_any_column_is_refused_or_left_out(
    site: Path, store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With marks that hold: exit codes in order, and never a fault of our own. A few of all."""
    all_cases(site, store, capfd, 12)


@pytest.mark.parametrize("part", battery(range(20)))
def test_every_value_in_every_column_is_refused_or_left_out(
    site: Path, store: Path, capfd: pytest.CaptureFixture[str], part: int
) -> None:
    """The same of all of them."""
    all_cases(site, store, capfd, 100, 100 * part)


def flip(folder: Path, table: str, column: str, old: str, new: str) -> None:
    """Change a text in a column of the victim's row, and no mark."""
    with opened(folder) as db:
        where = "name = 'victim'" if table == "run" else "1"
        done = db.execute(
            f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {where}", (old, new)
        )
        assert done.rowcount


def test_a_changed_kernel_text_refuses_the_run_and_no_other(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One bit of it would mix two kernels; the row and the column are named, the others go on."""
    name = victim(site)
    flip(site, "run", "definition", "0.25", "0.75")
    for words in (
        ["resume", name],
        ["extend", name, "--samples", "9000"],
        ["show", name],
        ["verify", name],
        ["repro", name, "--block", "0"],
        ["export", name, "--blocks", "0-1", "--to", "to"],
        ["merge", "out", f"runs/{name}"],
    ):
        code, text = told(capfd, *words)
        assert code == 74, words
        assert "row" in text
        assert "column definition" in text
    rows = json.loads(told(capfd, "ls", "--json")[1])
    assert {row["name"]: row["state"] for row in rows if row["name"] in ("victim", "healthy")} == {
        "victim": "damaged",
        "healthy": "done",
    }
    assert not (site / "out").exists()
    assert not (site / "to").exists()


@pytest.mark.parametrize("column", ["goal", "name", "created", "request"])
def test_what_else_a_run_is_has_a_mark(
    site: Path, capfd: pytest.CaptureFixture[str], column: str
) -> None:
    """A goal that was changed is no goal of the run, though it reads well."""
    name = victim(site)
    value = {
        "goal": json.dumps({"blocks": 9, "target": None, "max_time": None, "confidence": 0.5}),
        "name": "other",
        "created": 1.0,
        "request": "0",
    }[column]
    with opened(site) as db:
        db.execute(f"UPDATE run SET {column} = ? WHERE id = ?", (value, name))
    code, text = told(capfd, "resume", name)
    assert code == 74
    assert column in text


def test_a_changed_end_is_added_up_again_and_told_and_verify_says_so(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A tally in the run's row that is not what was written is not shown; a resume mends it."""
    name = victim(site)
    honest = api.show(name, "runs")
    with opened(site) as db:
        (tally,) = db.execute("SELECT tally FROM run WHERE id = ?", (name,)).fetchone()
        hits = json.loads(tally)["hits"]
        flipped = tally.replace(f'"hits":{hits}', f'"hits":{hits ^ 512}')
        db.execute("UPDATE run SET tally = ? WHERE id = ?", (flipped, name))
    shown = api.show(name, "runs")
    assert (shown.digest, shown.estimate) == (honest.digest, honest.estimate)
    code, text = told(capfd, "show", name)
    assert code == 0
    assert "summed" in text
    code, text = told(capfd, "verify", name, "--fraction", "0.1")
    assert code == 1
    assert "ended" in text
    assert "✗" in text
    assert told(capfd, "resume", name)[0] == 0
    again = api.show(name, "runs")
    assert (again.state, again.digest) == ("done", honest.digest)
    assert told(capfd, "verify", name)[0] == 0


def test_verify_compares_the_recorded_tally_with_the_sum_of_the_rows(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where its mark holds."""
    name = victim(site)
    with opened(site) as db:
        (tally,) = db.execute("SELECT tally FROM run WHERE id = ?", (name,)).fetchone()
        hits = json.loads(tally)["hits"]
        flipped = tally.replace(f'"hits":{hits}', f'"hits":{hits + 1}')
        db.execute("UPDATE run SET tally = ? WHERE id = ?", (flipped, name))
        seal(db)
    code, text = told(capfd, "verify", name, "--fraction", "0.1", "--json")
    assert code == 1
    assert "not the sum" in json.loads(text.partition("computing")[0] or text)["row"]


def test_a_resume_mends_a_recorded_tally_that_is_not_the_sum_of_the_rows(site: Path) -> None:
    """Also where its mark holds, and the run is done."""
    name = victim(site)
    honest = api.show(name, "runs")
    with opened(site) as db:
        (tally,) = db.execute("SELECT tally FROM run WHERE id = ?", (name,)).fetchone()
        hits = json.loads(tally)["hits"]
        flipped = tally.replace(f'"hits":{hits}', f'"hits":{hits + 1}')
        db.execute("UPDATE run SET tally = ? WHERE id = ?", (flipped, name))
        seal(db)
    assert api.show(name, "runs").digest != honest.digest
    assert api.resume(name, "runs").digest == honest.digest
    assert api.show(name, "runs").digest == honest.digest


@pytest.mark.parametrize(
    "change",
    [
        {"ranges": "[[7, 11]]"},
        {"ranges": "[[0, 2], [3, 5]]"},
        {"ranges": "[[0, 3]]", "counted": 3},
        {"ranges": None, "tally": None},
    ],
    ids=["beyond", "with a gap", "less than its goal", "nothing"],
)
def test_an_end_that_is_not_of_its_goal_is_left_out(
    site: Path, change: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    """Though its marks hold: the blocks are added up again, and a resume records the end anew."""
    name = victim(site)
    honest = api.show(name, "runs")
    with opened(site) as db:
        (text,) = db.execute("SELECT tally FROM run WHERE id = ?", (name,)).fetchone()
        spans = json.loads(str(change.get("ranges") or "[]"))
        samples = honest.block * sum(stop - first for first, stop in spans)
        tally = json.loads(text) | {"samples": samples, "hits": 0}
        forged = {"tally": json.dumps(tally, separators=(",", ":")), **change}
        for column, value in forged.items():
            db.execute(f"UPDATE run SET {column} = ? WHERE id = ?", (value, name))
        seal(db)
    shown = api.show(name, "runs")
    assert (shown.digest, shown.samples) == (honest.digest, honest.samples)
    assert "ranges" in told(capfd, "show", name)[1]
    assert api.resume(name, "runs").digest == honest.digest
    assert "ranges" not in told(capfd, "show", name)[1]


def test_a_point_has_what_its_sweep_says(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also where its mark holds: another run's number is not told beside a value."""
    with opened(site) as db:
        (sweep,) = db.execute("SELECT id FROM sweep").fetchone()
        first, second = db.execute("SELECT run FROM point ORDER BY place").fetchall()
        db.execute("UPDATE point SET run = ? WHERE place = 0", second)
        db.execute("UPDATE point SET run = ? WHERE place = 1", first)
        seal(db)
    code, text = told(capfd, "show", sweep)
    assert code == 74
    assert "is damaged" in text


def test_a_sweep_without_points_is_told(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is not done, nor a fault of ours."""
    with opened(site) as db:
        (sweep,) = db.execute("SELECT id FROM sweep").fetchone()
        db.execute("DELETE FROM point")
        seal(db)
    code, text = told(capfd, "show", sweep)
    assert code == 74
    assert "has no points" in text
    code, text = told(capfd, "ls")
    assert code == 0


@pytest.mark.parametrize("words", [("show",), ("resume",), ("stop",), ("status",), ("logs",)])
def test_an_empty_name_names_nothing(
    site: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """Every id starts with it: of a script whose variable is empty, the only run would be meant."""
    code, text = told(capfd, *words, "")
    assert code == 2, text
    assert "empty name" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE outcome SET tally = 'x' WHERE first = 0", "column tally"),
        ("UPDATE outcome SET wall = 'x' WHERE first = 0", "column wall"),
        ("UPDATE outcome SET node = 'a' || char(27) WHERE first = 0", "column node"),
        ("UPDATE outcome SET tally = replace(tally, ':1000', ':999')", "column tally"),
        ("UPDATE outcome SET first = first + 50, stop = stop + 50", "outside the blocks"),
        (TWICE, "overlap other rows of the same run"),
    ],
)
def test_merge_judges_all_of_a_shard_before_it_writes(
    site: Path, capfd: pytest.CaptureFixture[str], change: str, words: str
) -> None:
    """A row that cannot be, with a checksum that holds: refused by name, and OUT is as it was."""
    name = victim(site)
    copied(site / "runs", site / "out")
    with opened(site) as db:
        if change == TWICE:
            row = '1, 0, 4, \'{"hits":1,"kind":"hits","samples":4000}\''
            db.execute("DELETE FROM outcome")
            rest = "'n', 0, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 'python', 'x'"
            db.execute(f"INSERT INTO outcome VALUES ({row}, {rest})")
            db.execute("UPDATE outcome SET run = (SELECT key FROM run WHERE name = 'victim')")
        db.execute(change)
        seal(db)
    with sqlite3.connect(site / "out" / FILE) as db:
        before = [*db.iterdump()]
    for extra in ([], ["--verify"]):
        code, text = told(capfd, "merge", f"out/{name}", f"runs/{name}", *extra)
        assert code == 74, text
        assert words in text
        code, text = told(capfd, "merge", "fresh", f"runs/{name}", *extra)
        assert code == 74, text
        assert not (site / "fresh").exists()
    with sqlite3.connect(site / "out" / FILE) as db:
        assert [*db.iterdump()] == before
    assert told(capfd, "show", name, "--store", "out")[0] == 0


def test_a_shard_whose_text_was_changed_under_its_identity_is_refused(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The identity is computed again from the text; the column proves nothing."""
    flip(site, "run", "definition", "0.25", "0.75")
    with opened(site) as db:
        seal(db)
    code, text = told(capfd, "merge", "out", f"runs/{victim(site)}")
    assert (code, "do not give the identity" in text) == (74, True)


def test_points_and_sweeps_have_marks(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Which value a point was given is told beside its result: it must be that one."""
    with opened(site) as db:
        (sweep,) = db.execute("SELECT id FROM sweep").fetchone()
    flip(site, "point", "given", "1", "3")
    code, text = told(capfd, "show", sweep)
    assert code == 74
    assert "table point" in text
    rows = json.loads(told(capfd, "ls", "--json")[1])
    assert [row["state"] for row in rows if row["run"] == sweep] == ["damaged"]
    assert told(capfd, "submit", "quarter.yaml", "--set", "seed=1, 2", "--quiet")[0] == 0
    assert told(capfd, "show", sweep)[0] == 0


def test_an_older_store_gets_its_marks_when_its_identity_holds(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Computed while it is upgraded: a run whose text was changed before that is refused."""
    name = victim(site)
    honest = api.show(victim(site, "healthy"), "runs").digest
    flip(site, "run", "definition", "0.25", "0.75")
    with opened(site) as db:
        without_marks(db)
    assert told(capfd, "show", name)[0] == 74
    assert api.show(victim(site, "healthy"), "runs").digest == honest
    with Ledger(site / "runs") as ledger:
        assert [row.name for row in ledger.everything() if row not in ledger.runs()] == ["victim"]


def test_a_row_of_another_kind_of_tally_is_not_added(tmp_path: Path, site: Path) -> None:
    """Its checksum holds, and it adds up with nothing: it is damaged, as any other."""
    name = victim(site)
    with opened(site) as db:
        (key,) = db.execute("SELECT key FROM run WHERE id = ?", (name,)).fetchone()
        first, stop = db.execute(
            "SELECT first, stop FROM outcome WHERE run = ? ORDER BY first DESC", (key,)
        ).fetchone()
        samples = (stop - first) * 1000
        tally = Histogram((0.0, 1.0), (samples,), 0, 0, samples)
        db.execute(
            "UPDATE outcome SET tally = ?, checksum = ? WHERE run = ? AND first = ?",
            (tally_text(tally), checksum(name, first, stop, tally_text(tally)), key, first),
        )
        db.execute(
            "UPDATE run SET state = 'running', stopped_by = NULL, drained = NULL,"
            " counted = NULL, tally = NULL, ranges = NULL, ended = NULL"
        )
    shown = api.show(name, "runs")
    assert shown.state == "interrupted"
    assert api.resume(name, "runs").state == "done"


def test_a_command_that_is_printed_holds_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    """A store's path may hold anything: quoted for the shell, and readable."""
    words = command("resume", "pi-1", store="a\x1b[31m'b")
    assert words.isprintable()
    assert r"$'a\x1b[31m\x27b'" in words


def test_a_damaged_run_is_not_merged_into(site: Path) -> None:
    """OUT's own run of that identity is judged as the sources are."""
    copied(site / "runs", site / "out")
    with sqlite3.connect(site / "out" / FILE) as db:
        db.execute("UPDATE run SET goal = '{}' WHERE name = 'victim'")
    from cluster.lifecycle.shards import merge

    with pytest.raises(StoreError, match="column goal"):
        merge(site / "out" / victim(site), [site / "runs" / victim(site)], verify=True)
