"""The text output of each verb: pure functions from its document to a page.

A page is a list of lines and tables; :func:`show` writes it, styled on a terminal and plain in a
pipe. The documents are those of ``--json``; :func:`result` and :func:`sweep` take the object.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from cluster.common.commands import command
from cluster.common.errors import ClusterError, SpecError
from cluster.common.states import State
from cluster.dispatch.events import NodeProgress
from cluster.report.layout import (
    Line,
    Page,
    Part,
    facts,
    fitted,
    indented,
    one_line,
    show,
    table,
)
from cluster.report.live import nodes_table
from cluster.report.numbers import count, counted, duration, number, percent, rate, si, value_text
from cluster.report.result import PointResult, Result
from cluster.report.summary import STYLES, nodes, onward, result
from cluster.report.swept import given_keys

__all__ = [
    "Page",
    "backends",
    "compare",
    "detached",
    "doctor",
    "error",
    "hosts",
    "kernels",
    "ls",
    "node",
    "nodes",
    "plan",
    "repro",
    "result",
    "scheduled",
    "show",
    "status",
    "sweep",
    "validated",
]

Document = Mapping[str, Any]

# Columns to drop first on a narrow terminal; name and time are part of the run's id anyway.
_SPARE = ("kernel", "backend", "name", "created")
# Points and failures of a sweep to show one by one.
_MOST_POINTS, _MOST_FAILED = 40, 5
_VERDICTS = {"ok": "✓", "warn": "!", "bad": "✗"}


def ls(rows: Sequence[Document]) -> list[Part]:
    """The page of ``ls``: the runs of a store."""
    if not rows:
        return [Line("no runs yet")]
    titles = ("run", "state", "name", "samples", "estimate", "created", "backend", "kernel")
    damaged = [
        Line(f"{row['run']}: {one_line(row['damaged'], None)}", "red")
        for row in rows
        if row.get("damaged")
    ]
    return [table(titles, map(_listed, rows), right=("samples",), spare=_SPARE), *damaged]


def status(document: Document) -> list[Part]:
    """The page of ``status``: one run, or all that are running."""
    if "runs" in document:
        return _running(document["runs"])
    holder = document["holder"]
    left = document.get("left_s")
    return [
        _state_line(document),
        *facts(
            {
                "points": _points(document),
                "estimate": None if document.get("points") else _estimate(document),
                "samples": count(document["samples"]),
                "blocks": _progress(document),
                "speed": rate(document["samples_per_s"]),
                "elapsed": duration(document["elapsed_s"]),
                "left": None if left is None else duration(left),
                "backend": document["backend"],
                "held by": holder and f"process {holder['pid']} on {holder['host']}",
                "next": document.get("advice"),
            }
        ),
        *_points_now(document),
        *_nodes_now(document),
    ]


def _points_now(document: Document) -> list[Part]:
    """The status of the points of a sweep; of many, those that are running or failed first."""
    points = document.get("by_point")
    if points is None:
        return []
    keys = list(dict.fromkeys(key for point in points for key in point["given"]))
    shown = list(points)
    if len(shown) > _MOST_POINTS:
        shown = sorted(shown, key=_interest)[:_MOST_POINTS]
    titles = ("point", *keys, "estimate", "std error", "samples", "blocks", "left", "state")
    more = f"... and {counted(len(points) - len(shown), 'more point')}"
    return [
        Line(),
        table(titles, (_point_now(point, keys) for point in shown), right=titles[:-1]),
        *([Line(f"{more}: --json lists all")] if len(shown) < len(points) else []),
    ]


def _interest(point: Document) -> int:
    """The rank of a point for display: running, failed, unfinished, done, waiting."""
    order = ("running", "failed", "partial", "interrupted", "done")
    return len(order) if point["waiting"] else order.index(point["state"])


def _point_now(point: Document, keys: Sequence[str]) -> tuple[str | None, ...]:
    given = (_plain(point["given"][key]) if key in point["given"] else None for key in keys)
    error, left = point["std_error"], point["left_s"]
    state = State(point["state"])
    return (
        str(point["point"]),
        *given,
        _estimate(point),
        None if isinstance(error, list) else _two_digits(error),
        count(point["samples"]),
        _progress(point),
        duration(left),
        "waiting" if point["waiting"] else f"{state.symbol} {state.value}",
    )


def _nodes_now(document: Document) -> list[Part]:
    """The table of what each node has done in this start."""
    rows, elapsed = document.get("nodes"), document["elapsed_s"]
    if not rows or not elapsed:
        return []
    nodes = tuple(NodeProgress(**row) for row in rows)
    return [Line(), nodes_table(nodes, elapsed)]


def detached(document: Document, store: str | Path) -> list[Part]:
    """The page of ``--detach``: the run's state, and how to watch and stop it."""
    run = document["run"]
    named = {f"{verb} it with": command(verb, run, store=store) for verb in ("watch", "stop")}
    return [Line(f"{State(document['state']).symbol} {run}: {document['state']}"), *facts(named)]


def scheduled(document: Document) -> list[Part]:
    """The page of ``schedule``: what it wrote, would write, or removed."""
    if "removed" in document:
        places = " and ".join(document["removed"])
        done = f"removed from {places}" if places else "nothing to remove"
        return [Line(f"{document['name']}: {done}")]
    parts: list[Part] = []
    for file in document["files"]:
        parts += [Line(f"# {file['path']}", "bold"), *map(Line, file["text"].splitlines()), Line()]
    if document["scheduler"] == "slurm":
        parts += facts({"start it with": shlex.join(document["commands"][0])})
    elif document["written"]:
        parts.append(Line(f"✓ {document['name']}: scheduled by {document['scheduler']}", "green"))
    return [*parts, *facts({"log": document["log"]})]


def validated(document: Document) -> list[Part]:
    """The page of ``validate`` for a valid spec, of a sweep with all its points."""
    named = {"name": document["name"], "points": count(document.get("points"))}
    what = named if "points" in document else _what(document)
    return [Line(f"✓ {document['file']} is valid", "green"), *facts(what)]


def node(document: Document) -> list[Part]:
    """The page of ``node``: where this machine listens; the last key is what else does in a run."""
    (_, address), (_, port), (what, further) = document.items()
    listening = f"listening at {address} port {port}; during a run its {what} listens at"
    return [Line(f"{listening} {address} port {further}")]


def either(found: Result, store: str | Path, *, short: bool) -> list[Part]:
    """The report of a run or a sweep.

    Args:
        found: the result.
        store: its folder, for the commands that the report suggests.
        short: of a sweep with many points, show the first ones only.
    """
    return sweep(found, short=short) if found.members else result(found, store)


def sweep(result: Result, *, short: bool = False) -> list[Part]:
    """The report of a sweep: its table, and what its nodes did.

    Args:
        result: of the sweep.
        short: show at most 40 of the requested points, those that are not done first.
    """
    keys = given_keys(result)
    shown = list(result.own if short else result.members)
    if short and len(shown) > _MOST_POINTS:
        shown = sorted(shown, key=lambda point: point.result.state == "done")[:_MOST_POINTS]
    state, total = State(result.state), len(result.members)
    why = f", stopped by {result.stopped_by}" if result.stopped_by else ""
    title = f"{state.symbol} {result.name}: {_points_done(result)}"
    titles = ("point", *keys, "estimate", "std error", "samples", "busy", "state")
    left = total - len(shown)
    more = f"... and {counted(left, 'more point')}: {command('show', result.run)}"
    return [
        Line(title, f"bold {STYLES.get(result.state, '')}".strip()),
        *facts(
            {
                "state": f"{result.state}{why}",
                "samples": count(sum(point.result.samples for point in result.members)),
                "time": duration(result.wall_s),
                "sweep": result.run,
            }
        ),
        Line(),
        table(titles, (_point(point, keys) for point in shown), right=titles[:-1]),
        *([Line(more)] if left else []),
        *_point_failures(shown),
        Line(),
        *nodes(result.nodes),
        *onward(result.advice, result.resume if result.advice is None or result.owes else None),
    ]


def _points_done(result: Result) -> str:
    total = counted(len(result.members), "point")
    if result.asked is None or len(result.own) == len(result.members):
        return f"{count(result.done)} of {total} done"
    done = sum(point.result.state == "done" for point in result.own)
    return f"{count(done)} of {count(len(result.own))} done, part of {total}"


def compare(document: Document) -> list[Part]:
    """The page of ``compare``: one row per pair of runs, then the speed of each node in both."""
    pairs = document["pairs"]
    verdicts = [pair["verdict"] for pair in pairs]
    counts = {word: verdicts.count(word) for word in dict.fromkeys(verdicts)}
    style = "bold red" if "differ" in counts else "bold"
    keys = list(dict.fromkeys(key for pair in pairs for key in pair["given"] or {}))
    titles = (*(keys or ("a", "b")), "difference", "std error", "z", "p", "verdict")
    notes = dict.fromkeys(pair["note"] for pair in pairs if pair["note"])
    speeds = ((pair, node) for pair in pairs for node in pair["nodes"])
    return [
        Line(", ".join(f"{count(n)} {word}" for word, n in counts.items()), style),
        table(titles, (_pair(pair, keys) for pair in pairs), right=titles[:-1]),
        *(Line(note) for note in notes),
        Line(),
        table(
            (*keys, "node", "samples/s of a", "of b", "ratio", "p", "changed"),
            (_speed(pair, node, keys) for pair, node in speeds),
            right=("samples/s of a", "of b", "ratio", "p"),
        ),
    ]


def plan(document: Document) -> list[Part]:
    """The page of ``plan``: what a spec would run, and how long it would take."""
    if "points" in document:
        return _sweep_plan(document)
    checkpoints = ", ".join(map(count, document["checkpoints"]))
    place = f"{document['backend']}, {counted(document['slots'], 'slot')}"
    return [
        *facts(
            {
                "name": document["name"],
                **_what(document),
                "backend": place,
                "target": _target(document["target"]),
                "checkpoints": f"{checkpoints}, ... blocks" if checkpoints else None,
                **_trial(document),
            }
        ),
        Line(),
        table(
            ("node", "slots"),
            ((row["node"], count(row["slots"])) for row in document["nodes"]),
            right=("slots",),
        ),
    ]


def hosts(document: Document) -> list[Part]:
    """The page of ``nodes``: the hosts of a spec, or the hosts that a run adds and drains."""
    if "run" in document:
        named = {"added": document["added"], "to be drained": document["drained"]}
        return [*facts({what: ", ".join(names) or None for what, names in named.items()})]
    rows = document["nodes"]
    titles = ["node", "slots", *(key for key in _HOST_KEYS if any(row[key] for row in rows))]
    cells = [
        [
            row["node"],
            (row["slots"] and count(row["slots"])) or "its cores",
            *(_host_key(row[key]) for key in titles[2:]),
        ]
        for row in rows
    ]
    summary = f"{counted(len(rows), 'host')} for {document['backend']}"
    return [
        table(titles, cells, right=("slots", "port")),
        Line(f"{summary}; {count(document['required'])} must be ready at the start"),
    ]


_HOST_KEYS = ("user", "port", "python", "cwd", "tags", "env")


def _host_key(value: object) -> str | None:
    if isinstance(value, list):
        return " ".join(map(str, value)) or None
    return None if value is None else str(value)


def _sweep_plan(document: Document) -> list[Part]:
    """The page of ``plan`` for a sweep: its size, and a time extrapolated from its first point."""
    first = document["first"]
    expected = document["expected_s"]
    long = expected and f"{duration(expected)}, if all points' blocks cost the same as the first's"
    return [
        *facts(
            {
                "name": document["name"],
                "points": count(document["points"]),
                "varies": ", ".join(document["keys"]),
                "blocks": count(document["blocks"]),
                "samples": count(document["samples"]),
                "backend": ", ".join([*document["backends"], counted(document["slots"], "slot")]),
                "trial": _trial(first).get("trial"),
                "speed": _trial(first).get("speed"),
                "expected": long or None,
            }
        )
    ]


def kernels(rows: Sequence[Document]) -> list[Part]:
    """The page of ``kernels``: one row per kernel found."""
    if not rows:
        return [Line("no kernels found")]
    titles = ("kernel", "form", "params", "block", "doc")
    cells = (
        (row["kernel"], row["form"], _parameters(row["params"]), str(row["block"]), row["doc"])
        for row in rows
    )
    return [table(titles, cells, right=("block",), prose=("params", "doc"))]


def backends(rows: Sequence[Document]) -> list[Part]:
    """The page of ``backends``: which are usable here, and how to install the others."""
    cells = (
        (
            row["backend"],
            "yes" if row["usable"] else "no",
            row["summary"],
            None if row["usable"] else row["install"],
        )
        for row in rows
    )
    heads = ("backend", "usable", "summary", "install")
    problems = [Line(f"! {row['problem']}") for row in rows if row.get("problem")]
    return [table(heads, cells, prose=("summary",)), *problems]


def doctor(document: Document) -> list[Part]:
    """The page of ``doctor``: the findings for this machine and for each host, with fixes."""
    page: list[Part] = []
    for host, rows in groupby(document["findings"], key=lambda row: row.get("host")):
        page += [Line(), Line(host, "bold")] if host else [Line()] if page else []
        page += _findings(list(rows))
    return page


def _findings(rows: Sequence[Document]) -> list[Part]:
    """One line per finding; further lines, such as a table of differences, follow below."""
    cells = (
        (
            _VERDICTS[row["status"]],
            row["check"],
            _with_fix(row["message"].partition("\n")[0].rstrip(":"), row["fix"]),
        )
        for row in rows
    )
    below = (indented(row["message"].partition("\n")[2]) for row in rows)
    return [table(("", "check", "finding"), cells, prose=("finding",)), *chain(*below)]


def repro(document: Document) -> list[Part]:
    """The page of ``repro``: one block, recomputed."""
    fault = document["fault"]
    title = f"block {document['block']} of {document['run']}"
    lines = facts(
        {
            "tally": document["tally"] and _tally(document["tally"]),
            "matches": _MATCHES[document["matches"]] if fault is None else None,
            "wall": duration(document["wall_s"]),
            "cpu": duration(document["cpu_s"]),
        }
    )
    if fault is None:
        return [Line(title, "bold"), *lines]
    what = f"{title}: {fault['type']}: {one_line(fault['message'])}"
    return [Line(what, "bold red"), *indented(fault["traceback"]), *lines]


def error(error: ClusterError) -> list[str]:
    """The lines of an error message: where, what went wrong, and the fix."""
    if isinstance(error, SpecError):
        return [fitted(line, "utf-8") for line in str(error).splitlines()]
    place = f"{error.where}: " if error.where else ""
    lines = [f"error: {place}{error.message}", *([f"  {error.fix}"] if error.fix else [])]
    return [fitted(line, "utf-8") for line in lines]


_MATCHES = {
    True: "yes: equal to the counted tally",
    False: "NO: the counted tally is different",
    None: "unknown: not counted, or only as part of a task of several blocks",
}


def _point(point: PointResult, keys: Sequence[str]) -> tuple[str | None, ...]:
    own = point.result
    state = State(own.state)
    given = (None if key not in point.given else _plain(point.given[key]) for key in keys)
    if isinstance(own.estimate, list):
        estimate, error = counted(len(own.estimate), "bin"), None
    else:
        estimate, error = value_text(own.estimate, own.std_error), _two_digits(own.std_error)
    return (
        str(point.point),
        *given,
        estimate,
        error,
        count(own.samples),
        duration(point.busy_s),
        f"{state.symbol} {state.value}",
    )


def _two_digits(error: float | None) -> str | None:
    return None if error is None else f"{error:.2g}"


def _plain(value: Any) -> str:
    """A value of a sweep as it is written in the spec."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _point_failures(points: Sequence[PointResult]) -> list[Part]:
    """The first error of each failed point, of at most five points."""
    failed = [point for point in points if point.result.state == "failed"][:_MOST_FAILED]
    lines: list[Part] = []
    for point in failed:
        first = point.result.failures[0]
        what = one_line(f"{first.type}: {first.message}")
        place = f"point {point.point}, block {first.block} on {first.node}"
        lines.append(Line(f"{place}: {what} ({command('show', point.result.run)})", "red"))
    return [Line(), *lines] if lines else []


def _pair(pair: Document, keys: Sequence[str]) -> tuple[str | None, ...]:
    named = [_plain(pair["given"][key]) for key in keys] if keys else [pair["a"], pair["b"]]
    numbers = (pair[name] for name in ("difference", "std_error", "z", "p"))
    return (*named, *(_two_digits(value) for value in numbers), pair["verdict"])


def _speed(pair: Document, node: Document, keys: Sequence[str]) -> tuple[str | None, ...]:
    changed = {True: "yes", False: "no", None: "unknown"}[node["changed"]]
    return (
        *(_plain(pair["given"][key]) for key in keys),
        node["node"],
        si(node["a"]),
        si(node["b"]),
        f"{node['ratio']:.3g}",
        _two_digits(node["p"]),
        changed,
    )


def _state_line(document: Document) -> Line:
    state = State(document["state"])
    line = f"{state.symbol} {document['run']} ({document['name']}): {state.value}"
    return Line(line, f"bold {STYLES.get(state.value, '')}".strip())


def _estimate(document: Document) -> str:
    if document.get("points") is not None:
        return f"{count(document['points_done'])} of {counted(document['points'], 'point')} done"
    value, error = document["estimate"], document["std_error"]
    return counted(len(value), "bin") if isinstance(value, list) else value_text(value, error)


def _points(document: Document) -> str | None:
    """How many points of a sweep are done, running, waiting and failed."""
    if document.get("points_waiting") is None:
        return None
    numbers = {what: document[f"points_{what}"] for what in ("running", "waiting", "failed")}
    others = (f"{count(number)} {what}" for what, number in numbers.items() if number)
    return ", ".join(
        [f"{count(document['points_done'])} of {count(document['points'])} done", *others]
    )


def _progress(row: Document) -> str:
    """The blocks so far, and the share of the goal while it is not met."""
    blocks, goal = row["blocks"], row.get("goal_blocks")
    # A run that met its target is done, even with fewer blocks than it was allowed.
    if blocks is None or not goal or row["state"] == State.DONE.value:
        return count(blocks)
    return f"{count(blocks)} of {count(goal)} ({percent(blocks / goal)})"


def _listed(row: Document) -> tuple[str | None, ...]:
    state = State(row["state"])
    return (
        row["run"],
        f"{state.symbol} {state.value}",
        row["name"],
        count(row["samples"]),
        _estimate(row),
        row["created"],
        row["backend"],
        row["kernel"],
    )


def _running(rows: Sequence[Document]) -> list[Part]:
    if not rows:
        return [Line("no run is being computed")]
    titles = ("run", "blocks", "estimate", "samples/s", "elapsed", "backend")
    cells = (
        (
            row["run"],
            _progress(row),
            _estimate(row),
            si(row["samples_per_s"]),
            duration(row["elapsed_s"]),
            row["backend"],
        )
        for row in rows
    )
    return [table(titles, cells, right=("samples/s", "elapsed"), spare=("backend",))]


def _what(document: Document) -> dict[str, str | None]:
    """What a spec computes, for ``validate`` and ``plan``."""
    blocks, samples = document["blocks"], document["samples"]
    drawn = "unlimited" if samples is None else count(samples)
    if document["target"] and not document.get("calibration"):
        drawn = "until the target is met" if samples is None else f"at most {drawn}"
    return {
        "kernel": document["kernel"],
        "samples": f"{drawn} in {counted(blocks, 'block')}" if blocks is not None else drawn,
        "identity": document["identity"],
    }


def _target(target: Document | None) -> str | None:
    if target is None:
        return None
    named = (f"{name} {number(target.get(name))}" for name in _MEASURES if target.get(name))
    return f"{', '.join(named)} at {100 * target['confidence']:.6g} % confidence"


_MEASURES = ("half_width", "rel_error", "std_error")


def _trial(document: Document) -> dict[str, str | None]:
    trial = document["calibration"]
    if trial is None:
        return {}
    return {
        "trial": f"{count(trial['samples'])} samples in {duration(trial['seconds'])}",
        "speed": rate(trial["samples_per_s"]),
        "estimate": _estimate(trial),
        "expected": f"{duration(document['expected_s'])} for"
        f" {count(document['expected_samples'])} samples",
    }


def _parameters(params: Mapping[str, str | None]) -> str | None:
    named = (name if value is None else f"{name}={value}" for name, value in params.items())
    return ", ".join(named) or None


def _with_fix(message: str, fix: str | None) -> str:
    return f"{message}; {fix}" if fix else message


def _tally(tally: Document) -> str:
    counts = (f"{key} {value}" for key, value in tally.items() if key != "kind")
    return one_line(f"{tally['kind']}: {', '.join(counts)}")
