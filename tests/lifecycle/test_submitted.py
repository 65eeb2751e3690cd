"""A sweep from the command line: what is computed, how it ends, and what is shown of it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.report.swept import _cell
from tests.cli.shell import arguments, ask, cluster, ended, only_document, started, wait_for
from tests.conftest import need
from tests.lifecycle.folder import SHARES, Folder, digests, tasks


def test_each_point_has_the_digest_that_it_has_alone(tmp_path: Path) -> None:
    """Also under `processes`, with common streams, and with a kernel that varies."""
    folder = Folder(tmp_path)
    result = folder.submit()
    assert (result["state"], result["points_done"], result["points_total"]) == ("done", 5, 5)
    assert [point["params"]["share"] for point in result["points"]] == SHARES
    assert [point["point"] for point in result["points"]] == list(range(5))
    assert digests(result) == [folder.alone(f"params.share={share}") for share in SHARES]
    kernels = ["kernel.py:quarter", "kernel.py:half"]
    folder.write(name="kernels", sweep={"matrix": {"kernel": kernels}})
    result = folder.submit()
    assert digests(result) == [folder.alone(f"kernel={kernel}") for kernel in kernels]


def test_sent_again_it_computes_what_is_missing_or_tighter(tmp_path: Path) -> None:
    """Known by what they compute: a new place, a new order and more points change nothing."""
    folder = Folder(tmp_path)
    first = folder.submit()
    again = folder.submit()
    assert (again["sweep"], tasks(again)) == (first["sweep"], tasks(first))
    assert again["resume"] is None
    folder.write(sweep={"matrix": {"params.share": [0.7, *reversed(SHARES)]}})
    wider = folder.submit()
    assert wider["sweep"] != first["sweep"]
    assert digests(wider)[1:] == digests(first)[::-1]
    assert wider["points"][0]["samples"] == 640
    assert {point["run"] for point in first["points"]} < {point["run"] for point in wider["points"]}
    folder.write(samples=1280)
    more = folder.submit()
    assert (more["sweep"], {p["samples"] for p in more["points"]}) == (wider["sweep"], {1280})
    assert digests(more)[0] == folder.alone("params.share=0.7")
    folder.write(samples=64)
    fewer = folder.submit()
    assert digests(fewer) == digests(more), "what is counted is never taken away"


def test_points_that_differ_in_their_goal_or_backend_have_runs_of_their_own(tmp_path: Path) -> None:
    """They draw the same numbers, and each ends with what was asked of it; also sent again."""
    matrix = {"samples": [640, 1280], "backend": ["serial", "threads"]}
    folder = Folder(tmp_path, sweep={"matrix": matrix})
    result = folder.submit()
    points = result["points"]
    assert [point["samples"] for point in points] == [640, 640, 1280, 1280]
    assert [point["backend"] for point in points] == ["serial", "threads"] * 2
    assert len({point["run"] for point in points}) == 4
    assert len(set(digests(result))) == 2
    again = folder.submit()
    assert [p["run"] for p in again["points"]] == [p["run"] for p in points]
    assert tasks(again) == tasks(result)


def test_a_sweep_of_another_name_asks_no_more_of_what_is_done(tmp_path: Path) -> None:
    """Equal points share a run; one that is asked for more has its own, the first stays done."""
    folder = Folder(tmp_path)
    first = folder.submit()
    folder.write(name="other", sweep={"matrix": {"params.share": SHARES[:2]}})
    same = folder.submit()
    assert [p["run"] for p in same["points"]] == [p["run"] for p in first["points"][:2]]
    folder.write(samples=None, until={"rel_error": 1e-9, "max_samples": 1280})
    for _ in range(2):
        tighter = folder.submit(code=3)
        assert [point["samples"] for point in tighter["points"]] == [1280] * 2
        assert not {p["run"] for p in tighter["points"]} & {p["run"] for p in first["points"]}
        assert (folder.show()["state"], digests(folder.show())) == ("done", digests(first))
        assert ask("resume", first["sweep"], cwd=tmp_path)["state"] == "done"
    folder.write(until={"rel_error": 1e-9, "max_samples": 2560})
    more = folder.submit(code=3)
    assert [p["run"] for p in more["points"]] == [p["run"] for p in tighter["points"]]
    assert [point["samples"] for point in more["points"]] == [2560] * 2


def test_a_drawn_seed_is_kept_when_points_are_added(tmp_path: Path) -> None:
    """All points have one seed, whenever they came."""
    folder = Folder(tmp_path, seed=None)
    first = folder.submit()
    folder.write(sweep={"matrix": {"params.share": [*SHARES, 0.7]}})
    second = folder.submit()
    assert len({point["seed"] for point in (*first["points"], *second["points"])}) == 1
    assert digests(second)[:5] == digests(first)


def test_a_point_that_fails_is_told_and_stops_no_other(tmp_path: Path) -> None:
    """Exit code 1; the others are done; --fail-fast leaves the rest, and a resume goes on."""
    folder = Folder(tmp_path, kernel="kernel.py:breaks", backend="serial")
    process = cluster("submit", "s.yaml", cwd=tmp_path)
    assert process.returncode == 1
    assert "ALARM: point 4 (params.share 0.6) failed" in process.stderr
    assert "point 4, block 0 on localhost: ValueError: out of cheese" in process.stdout
    result = folder.show()
    assert [point["state"] for point in result["points"]] == ["done"] * 4 + ["failed"]
    assert (result["state"], result["points_done"]) == ("failed", 4)
    folder.write(sweep={"matrix": {"params.share": SHARES[::-1]}, "order": "depth"})
    fast = folder.submit("--fail-fast", "--store", "fast", code=1)
    states = [point["state"] for point in fast["points"]]
    assert states[0] == "failed"
    assert set(states[1:]) == {"interrupted"}
    (tmp_path / "kernel.py").write_text((tmp_path / "kernel.py").read_text())
    going = ask("resume", fast["sweep"], "--store", "fast", cwd=tmp_path, code=1)
    assert [point["state"] for point in going["points"]] == ["failed"] + ["done"] * 4


def test_parts_for_an_array_are_disjoint_and_together_all(tmp_path: Path) -> None:
    """Each computes its own points of the one sweep, by their places in the list."""
    folder = Folder(tmp_path)
    first = folder.submit("--points", "1/2")
    assert [point["state"] == "done" for point in first["points"]] == [
        True,
        False,
        True,
        False,
        True,
    ]
    second = folder.submit("--points", "2/2")
    assert (second["sweep"], second["state"]) == (first["sweep"], "done")
    assert digests(second) == [folder.alone(f"params.share={share}") for share in SHARES]
    many = folder.submit("--points", "7/9")
    assert many["state"] == "done"


def test_a_part_in_a_store_of_its_own_is_done_when_its_points_are(tmp_path: Path) -> None:
    """For all who look: its page, its document, `wait`, `ls`; a resume computes no others."""
    folder = Folder(tmp_path)
    page = folder.said("submit", "s.yaml", "--points", "1/2")
    assert "✓ swept: 3 of 3 done, part of 5 points" in page
    assert "interrupted" not in page
    assert "continue " not in page
    for verb in ("wait", "show", "resume"):
        result = ask(verb, "swept", cwd=tmp_path)
        assert (result["state"], result["resume"]) == ("done", None)
        assert [result[f"points_{word}"] for word in ("done", "asked", "total")] == [3, 3, 5]
    (row,) = json.loads(folder.said("ls", "--json"))
    assert row["state"] == "done"
    both = folder.submit("--points", "2/2")
    assert (both["state"], both["points_done"], both["points_asked"]) == ("done", 5, 2)
    assert folder.show()["points_asked"] == 5
    first = folder.submit("--points", "1/2", "--store", "whole")
    assert (first["points_done"], first["points_asked"]) == (3, 3)
    whole = folder.submit("--store", "whole")
    assert [whole[f"points_{word}"] for word in ("done", "asked", "total")] == [5, 5, 5]


def test_a_part_that_is_stopped_is_gone_on_with_as_a_part(tmp_path: Path) -> None:
    """The command that it tells computes its own points, and no others."""
    folder = Folder(
        tmp_path,
        sweep={"matrix": {"params.share": SHARES}, "max_time": "0.6 s"},
        samples=64 * 30,
        params={"nap": 0.02},
        nodes="localhost:1",
    )
    result = folder.submit("--points", "2/2", code=3)
    assert (result["state"], result["stopped_by"]) == ("partial", "max_time")
    for _ in range(40):
        words = arguments(result["resume"])
        process = cluster(*words, "--json", cwd=tmp_path)
        result = only_document(process.stdout, "submit")
        if process.returncode == 0:
            break
    assert (result["state"], result["points_done"], result["points_asked"]) == ("done", 2, 2)
    assert {point["samples"] for point in result["points"][::2]} == {0}


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_part_that_cannot_be_is_refused(text: str, tmp_path: Path) -> None:
    """The message says what may come."""
    Folder(tmp_path)
    error = ask("submit", "s.yaml", f"--points={text}", cwd=tmp_path, code=2)["error"]
    assert "k/n" in error["message"]


def test_what_is_for_a_sweep_is_refused_without_one(tmp_path: Path) -> None:
    """Silently ignored, a part would be the whole."""
    Folder(tmp_path, sweep=None)
    for words, word in (
        (["--points", "1/2"], "--points"),
        (["--fail-fast"], "--fail-fast"),
        (["--yes"], "--yes"),
    ):
        error = ask("submit", "s.yaml", *words, cwd=tmp_path, code=2)["error"]
        assert word in error["message"]
    run = ask("submit", "s.yaml", cwd=tmp_path)["run"]
    assert "not a sweep" in ask("show", run, "--csv", cwd=tmp_path, code=2)["error"]["message"]


@pytest.mark.fault(38)
def test_a_signal_drains_all_points_and_a_resume_ends_right(tmp_path: Path) -> None:
    """130, one document, the command that goes on, and then the digests of unbroken runs."""
    folder = Folder(tmp_path, samples=64 * 80, params={"nap": 0.02})
    process = started("submit", "s.yaml", "--json", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "runs").exists() and _counted(tmp_path))
    code, out, err = ended(process, signal.SIGINT)
    assert code == 130, err
    result = only_document(out, "submit")
    assert (result["state"], result["stopped_by"]) == ("interrupted", "SIGINT")
    assert all(point["drained"] for point in result["points"])
    assert err.count("SIGINT: finishing tasks in progress") == 1
    resumed = ask(*arguments(result["resume"]), cwd=tmp_path)
    assert resumed["state"] == "done"
    assert digests(resumed) == digests(folder.submit("--store", "unbroken"))


def test_where_each_point_stands_is_told_while_a_detached_sweep_runs(tmp_path: Path) -> None:
    """Done, at work and waiting; estimates, speed, time left, nodes; a point by SWEEP/PLACE."""
    sweep = {"matrix": {"params.share": SHARES}, "order": "depth"}
    folder = Folder(tmp_path, kernel="kernel.py:held", samples=64 * 60, sweep=sweep)
    (tmp_path / "hold").touch()
    sent = cluster("submit", "s.yaml", "--detach", "--json", cwd=tmp_path)
    run = only_document(sent.stdout, "detached")["run"]
    wait_for(lambda: ask("status", run, cwd=tmp_path)["points_done"] >= 1)
    wait_for(lambda: any(p["estimate"] for p in _points(tmp_path) if p["state"] == "running"))
    wait_for(lambda: ask("status", "swept", cwd=tmp_path)["left_s"])
    whole = ask("status", "swept", cwd=tmp_path)
    points = whole["by_point"]
    states = [point["state"] for point in points]
    assert states[0] == "done"
    assert states[-1] == "running"
    assert points[-1]["waiting"]
    assert points[-1]["samples"] is None
    kinds = [whole[f"points_{kind}"] for kind in ("done", "running", "waiting", "failed")]
    assert sum(kinds) == 5
    assert kinds[2] == sum(point["waiting"] for point in points)
    assert whole["blocks"] == sum(point["blocks"] or 0 for point in points)
    assert (whole["goal_blocks"], points[0]["blocks"]) == (300, 60)
    assert 0.05 < points[0]["estimate"] < 0.15
    assert 0 < whole["left_s"] < 60
    assert [node["node"] for node in whole["nodes"]] == ["localhost"]
    shown = folder.said("status", "swept")
    assert "waiting" in shown
    assert "left" in shown
    (tmp_path / "hold").unlink()
    # The run is none the worse for being looked at, and so are its numbers.
    ended = ask("wait", run, cwd=tmp_path)
    assert digests(ended)[1] == folder.alone(f"params.share={SHARES[1]}")
    one = ask("status", f"{run}/1", cwd=tmp_path)
    assert (one["run"], one["state"]) == (ended["points"][1]["run"], "done")
    assert one["estimate"] == ended["points"][1]["estimate"]
    assert ask("show", "swept/1", cwd=tmp_path)["digest"] == digests(ended)[1]
    whole = ask("status", run, cwd=tmp_path)
    assert (whole["points_done"], whole["samples"], whole["left_s"]) == (5, 5 * 64 * 60, None)
    error = ask("status", "swept/5", cwd=tmp_path, code=2)["error"]
    assert "has the points 0 to 4, and none 5" in error["message"]


def _points(cwd: Path) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = ask("status", "swept", cwd=cwd)["by_point"]
    return points


def _counted(cwd: Path) -> int:
    process = cluster("show", "swept", "--json", cwd=cwd)
    if process.returncode:
        return 0
    return int(only_document(process.stdout, "show")["samples"])


@pytest.mark.fault(48)
def test_while_it_runs_others_look_and_a_second_start_is_75(tmp_path: Path) -> None:
    """The points that are computed are running; the line of progress says how many are done."""
    folder = Folder(tmp_path, samples=64 * 600, params={"nap": 0.02})
    process = started("submit", "s.yaml", cwd=tmp_path)
    try:
        wait_for(lambda: (tmp_path / "runs").exists() and _counted(tmp_path))
        shown = folder.show()
        assert shown["state"] == "running"
        listed = ask("ls", cwd=tmp_path)
        assert [(row["run"], row["state"]) for row in listed] == [(shown["sweep"], "running")]
        assert listed[0]["holder"]["pid"] == process.pid
        assert ask("status", "swept", cwd=tmp_path)["points"] == 5
        wait_for(lambda: all(p["estimate"] for p in _points(tmp_path)))
        for words in (["submit", "s.yaml"], ["resume", "swept"]):
            error = ask(*words, cwd=tmp_path, code=75)["error"]
            assert f"process {process.pid}" in error["message"]
        assert process.stderr is not None
        # Progress comes at growing intervals, the first of which may not be over yet.
        lines = iter(process.stderr.readline, "")
        assert any(re.search(r"s: [0-4] of 5 points", line) for line in lines)
    finally:
        code, out, _ = ended(process, signal.SIGTERM)
    assert code == 143
    assert re.search(r"[0-4] of 5 points done", out)


def test_max_time_of_the_whole_is_3_and_the_next_start_goes_on(tmp_path: Path) -> None:
    """What was begun is partial, and so is what was not."""
    sweep = {"matrix": {"params.share": SHARES}, "max_time": 1, "order": "depth"}
    folder = Folder(tmp_path, samples=64 * 30, params={"nap": 0.05}, sweep=sweep)
    result = folder.submit(code=3)
    assert (result["state"], result["stopped_by"]) == ("partial", "max_time")
    assert {p["state"] for p in result["points"] if p["state"] != "done"} == {"partial"}
    sweep["max_time"] = None
    folder.write(sweep={key: value for key, value in sweep.items() if value})
    assert folder.submit()["state"] == "done"


def test_outside_of_its_window_a_sweep_begins_nothing(tmp_path: Path) -> None:
    """Partial, by its window; a sweep with all it was asked for is done whatever the hour."""
    folder = Folder(tmp_path, backend="serial")
    hour = (time.gmtime().tm_hour + 6) % 24
    window = f"{hour:02}:00-{hour:02}:30"
    folder.write(schedule={"window": window, "timezone": "UTC"})
    shut = folder.submit(code=3)
    assert (shut["state"], shut["stopped_by"], shut["samples"]) == ("partial", "window", 0)
    assert {point["stopped_by"] for point in shut["points"]} == {"window"}
    folder.write(schedule=None)
    assert folder.submit()["state"] == "done"
    folder.write(schedule={"window": window, "timezone": "UTC"})
    assert folder.submit()["state"] == "done"


def test_a_detached_sweep_goes_on_by_itself(tmp_path: Path) -> None:
    """Its id is told at once, and show has its table."""
    folder = Folder(tmp_path)
    process = cluster("submit", "s.yaml", "--detach", "--json", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    name = json.loads(process.stdout)["run"]
    wait_for(lambda: folder.show()["state"] == "done")
    assert folder.show()["sweep"] == name


def test_the_table_is_text_json_and_csv(tmp_path: Path) -> None:
    """One row a point: what it is given, estimate, error, samples, time and state."""
    folder = Folder(tmp_path, sweep={"matrix": {"params.share": [0.5, 0.25], "seed": [1, 2]}})
    folder.submit()
    page = folder.said("show", "swept")
    assert "4 of 4 points done" in page
    assert "params.share  seed" in page
    rows = list(csv.DictReader(io.StringIO(folder.said("show", "swept", "--csv"))))
    shown = folder.show()["points"]
    assert [(row["params.share"], row["seed"]) for row in rows] == [
        ("0.5", "1"),
        ("0.5", "2"),
        ("0.25", "1"),
        ("0.25", "2"),
    ]
    for row, point in zip(rows, shown, strict=True):
        assert float(row["estimate"]) == point["estimate"]
        assert (row["state"], row["digest"]) == ("done", point["digest"])
        assert [float(row["low"]), float(row["high"])] == point["interval"]


@pytest.mark.fault(98)
@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum(a)", "\t=1"])
def test_no_cell_of_the_csv_is_a_formula(text: str) -> None:
    """A text that a spreadsheet would compute has a quote before it; a number has none."""
    assert _cell(text) == f"'{text}"
    assert _cell(-1.5) == -1.5


def test_parquet_is_written_where_pyarrow_is_and_refused_clearly_elsewhere(tmp_path: Path) -> None:
    """Columns of numbers are numbers; what no column of numbers can hold is words."""
    lengths: list[object] = ["5m", 300, 400, 500, 600]
    seeds = [1, 2, 3, 4, 2**63]
    matrix = {"params.share": SHARES, "until.max_time": lengths, "seed": seeds}
    rows = [dict(zip(matrix, row, strict=True)) for row in zip(*matrix.values(), strict=True)]
    folder = Folder(tmp_path, backend="serial", sweep={"include": rows})
    folder.submit()
    process = cluster("show", "swept", "--parquet", "t.parquet", cwd=tmp_path)
    try:
        from pyarrow import parquet
    except ImportError:
        assert process.returncode == 69
        assert "pyarrow, which is not installed here" in process.stderr
        assert "--csv" in process.stderr
        need(False, "pyarrow: pip install 'cluster-montecarlo[parquet]'")
    table = parquet.read_table(tmp_path / "t.parquet").to_pydict()
    assert table["params.share"] == SHARES
    assert table["until.max_time"] == ["5m", "300", "400", "500", "600"]
    assert [int(seed) for seed in table["seed"]] == seeds
    assert table["digest"] == digests(folder.show())


def test_compare_says_whether_two_sweeps_agree(tmp_path: Path) -> None:
    """Other seeds agree, another kernel does not, the same streams are not independent."""
    shares = [0.1, 0.2, 0.3]
    folder = Folder(tmp_path, samples=6400, sweep={"matrix": {"params.share": shares}})
    folder.submit()
    folder.write(name="other", seed=2)
    folder.submit()
    found = ask("compare", "swept", "other", cwd=tmp_path)["pairs"]
    assert [pair["given"] for pair in found] == [{"params.share": share} for share in shares]
    assert {pair["verdict"] for pair in found} == {"agree"}
    assert all(pair["independent"] and pair["p"] > 0.001 for pair in found)
    same = ask("compare", "swept", "swept", cwd=tmp_path)["pairs"]
    assert {pair["verdict"] for pair in same} == {"identical"}
    assert not any(pair["independent"] for pair in same)
    folder.write(name="wrong", kernel="kernel.py:half")
    folder.submit()
    wrong = ask("compare", "other", "wrong", cwd=tmp_path, code=0)["pairs"]
    assert {pair["verdict"] for pair in wrong} == {"unknown"}, "the same seed, the same numbers"
    folder.write(name="wrong-too", seed=3)
    folder.submit()
    process = cluster("compare", "other", "wrong-too", "--json", cwd=tmp_path)
    assert process.returncode == 1
    found = only_document(process.stdout, "compare")["pairs"]
    assert {pair["verdict"] for pair in found} == {"differ"}


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_no_slot_idles_with_unequal_points(backend: str, tmp_path: Path) -> None:
    """Of points of very unequal length, from the table of nodes."""
    include = [
        {"params.share": 0.1 + at / 100, "samples": 64 * n}
        for at, n in enumerate((120, 1, 60, 3, 2, 40, 5, 90, 1))
    ]
    folder = Folder(
        tmp_path,
        params={"nap": 0.02},
        samples=None,
        backend=backend,
        sweep={"include": include, "order": "depth"},
    )
    (node,) = folder.submit()["nodes"]
    with sqlite3.connect(tmp_path / "runs" / "ledger.sqlite") as db:
        # From when the workers have started.
        ((begun, ended),) = db.execute("SELECT min(started), max(received) FROM outcome")
    assert node["busy_s"] > 0.85 * node["slots"] * (ended - begun), node


def test_set_makes_and_changes_a_sweep(tmp_path: Path) -> None:
    """Several values, or a rule, are an axis; a whole key of the matrix can be replaced."""
    Folder(tmp_path, sweep=None)
    for text, points in (
        ("params.share=0.1,0.2", 2),
        ("seed=range(0, 7, 1)", 7),
        ("params.share=logspace(1e-3, 1e-1, 3)", 3),
        ("sweep.matrix.params.share=[0.1, 0.2, 0.3, 0.4]", 4),
        ("sweep.matrix.params.share=range(0.1, 0.6, 0.1)", 5),
    ):
        assert ask("validate", "s.yaml", "--set", text, cwd=tmp_path)["points"] == points
    quoted = cluster("validate", "s.yaml", "--set", "params.share='range(1, 2, 1)'", cwd=tmp_path)
    assert "points" not in quoted.stdout
    for text in ("params.share=range(1, 5, 1),9", "sweep.matrix.params.share=[range(1, 5, 1)]"):
        refused = cluster("validate", "s.yaml", "--set", text, cwd=tmp_path)
        assert refused.returncode == 2
        assert "cannot be part of a list" in refused.stderr


def test_plan_of_a_sweep_says_what_it_would_cost(tmp_path: Path) -> None:
    """Nothing is entered."""
    Folder(tmp_path, backend="serial")
    document = ask("plan", "s.yaml", "--seconds", "0.2", cwd=tmp_path)
    assert (document["points"], document["blocks"], document["samples"]) == (5, 50, 3200)
    assert document["keys"] == ["params.share"]
    assert document["expected_s"] > 0
    assert not (tmp_path / "runs").exists()


def test_too_many_points_for_this_process_are_refused_with_the_way_round(tmp_path: Path) -> None:
    """Each run that is computed is held by a lock of its own: an open file."""
    import resource

    Folder(tmp_path, sweep={"matrix": {"seed": "range(0, 3000, 1)"}})
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        process = cluster("submit", "s.yaml", "--json", cwd=tmp_path)
        wrong = only_document(process.stdout, "error")["error"]
        os._exit(0 if process.returncode == 2 and "--points 1/6" in wrong["fix"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ask("ls", cwd=tmp_path) == [], "nothing of it was entered"


@pytest.mark.parametrize("backend", ["serial", "processes"])
def test_the_table_of_nodes_has_every_sample_of_a_short_sweep(backend: str, tmp_path: Path) -> None:
    """Those that came in its last moment, too."""
    result = Folder(tmp_path, backend=backend).submit()
    drawn = sum(point["samples"] for point in result["points"])
    assert sum(node["samples"] for node in result["nodes"]) == drawn == 3200


def test_points_at_max_samples_are_not_computed_again(tmp_path: Path) -> None:
    """They are partial, and have all that they may draw: no engine is brought up for them."""
    until = {"rel_error": 1e-9, "max_samples": 640}
    folder = Folder(tmp_path, samples=None, until=until)
    first = folder.submit(code=3)
    assert f"cluster extend {first['sweep']} --set until.max_samples=1280" in first["resume"]
    folder.write(backend="ssh", nodes="nowhere.invalid")
    again = folder.submit(code=3)
    assert (again["state"], again["wall_s"]) == ("partial", first["wall_s"])
    assert digests(again) == digests(first)
    folder.write(backend="serial", nodes=None, until={**until, "max_samples": 1280})
    more = folder.submit(code=3)
    assert [point["samples"] for point in more["points"]] == [1280] * 5
    most = ask(*arguments(more["resume"]), cwd=tmp_path, code=3)
    assert [point["samples"] for point in most["points"]] == [2560] * 5


def test_a_resumed_sweep_works_where_and_when_the_sweep_says(tmp_path: Path) -> None:
    """Also where its first point is a run that was begun alone, and elsewhere."""
    share = {"share": 0.1, "nap": 0.02}
    folder = Folder(tmp_path, sweep=None, backend="serial", nodes=None, samples=6400, params=share)
    process = started("submit", "s.yaml", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "runs").exists() and _counted(tmp_path))
    ended(process, signal.SIGINT)
    hour = (time.gmtime().tm_hour + 6) % 24
    night = {"window": f"{hour:02}:00-{hour:02}:30", "timezone": "UTC"}
    told = {"command": ["touch", str(tmp_path / "told")]}
    folder.write(
        sweep={"matrix": {"params.share": [0.1, 0.2]}},
        backend="processes",
        nodes="localhost:2",
        schedule=night,
        notify=told,
    )
    shut = folder.submit(code=3)
    again = ask("resume", shut["sweep"], cwd=tmp_path, code=3)
    assert (again["stopped_by"], again["samples"]) == ("window", shut["samples"])
    done = ask("resume", shut["sweep"], "--set", "schedule=null", cwd=tmp_path)
    assert (done["state"], done["nodes"][0]["slots"]) == ("done", 2)
    assert (tmp_path / "told").exists()


def test_a_verb_for_one_run_says_how_a_point_is_named(tmp_path: Path) -> None:
    """A sweep's id begins those of all its points; that is no help to anybody."""
    Folder(tmp_path, backend="serial").submit()
    for words in (["verify", "swept"], ["repro", "swept", "--block", "0"]):
        error = ask(*words, cwd=tmp_path, code=2)["error"]
        assert error["message"] == "'swept' is a sweep, and this takes one run"
        assert "swept/0" in error["fix"]
    assert ask("merge", "out", "runs/swept/3", cwd=tmp_path)["result"]["state"] == "done"
