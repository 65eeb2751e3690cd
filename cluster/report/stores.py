"""The pages of the verbs that verify, export, merge and remove runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.common.commands import command
from cluster.hosts.fingerprint import IMPURE
from cluster.report.layout import Line, Part, facts, one_line, table
from cluster.report.numbers import count, counted, duration, percent

Document = Mapping[str, Any]


def verified(document: Document) -> list[Part]:
    """The page of ``verify``: how many blocks were recomputed, and which differed."""
    blocks, all_of_them = document["blocks"], document["of_blocks"]
    differing, unchecked = document["differing"], document["unchecked"]
    title = (
        f"{counted(blocks, 'block')} of {document['run']} recomputed"
        f" ({percent(blocks / all_of_them)}), {count(document['elsewhere'])} on another node"
    )
    impure, row = document.get("impure", ()), document.get("row")
    lines: list[Part] = [Line(f"✗ {title}" if differing or row else f"✓ {title}", "bold")]
    if row:
        lines.append(Line(f"the ledger's row of the run is wrong: {one_line(row)}", "bold red"))
    lines += [
        Line(f"{_span(row['first'], row['last'])} {_difference(row, impure)}", "bold red")
        for row in differing
    ]
    lines += [
        Line(f"{_span(first, last)} were not checked: {one_line(why)}")
        for first, last, why in unchecked
    ]
    return lines


def _difference(row: Document, impure: Sequence[int]) -> str:
    """Where the results of a block differ, and what the likely cause is."""
    node, again = row["node"], row["again"]
    if row["first"] in impure:
        others = f", and than on {node}" if node != again else ""
        return f"came out differently each time they were drawn on {again}{others}: {IMPURE}"
    if node == again:
        return (
            f"came out differently on {again} than when they were counted there: its libraries or"
            " files that the kernel reads have changed since, or it computes wrongly"
        )
    return f"came out differently on {again} than on {node}: one of them computes wrongly"


def exported(document: Document) -> list[Part]:
    """The page of ``export``: the new shard, and the commands to use it with."""
    run, store = document["run"], document["store"]
    return [
        Line(f"{_span(document['first'], document['last'])} of {run} are in {store}", "bold"),
        *facts(
            {
                "compute": command("resume", run, store=store),
                "take back": command("merge", "STORE", store),
            }
        ),
    ]


def merged(document: Document) -> list[Part]:
    """The page of ``merge``: what was taken from each source, and the resulting run."""
    rows = [
        tuple(count(row[key]) for key in ("taken", "equal", "unchecked", "damaged"))
        for row in document["sources"]
    ]
    named = [f"{row['store']}/{row['run']}" for row in document["sources"]]
    titles = ("from", "taken", "equal", "unchecked", "damaged")
    cells = [(name, *row) for name, row in zip(named, rows, strict=True)]
    result = document["result"]
    lines: list[Part] = [table(titles, cells, right=titles[1:])]
    for source in document["sources"]:
        lines += [
            Line(
                f"{_span(first, last)} came out differently on {node} than on {nodes}: nothing of"
                f" {source['store']} was taken",
                "bold red",
            )
            for first, last, node, nodes in source["differing"]
        ]
    run = f"{result['run']} now has {counted(result['blocks'], 'block')}: {result['state']}"
    return [*lines, Line(run, "bold")]


def prunable(rows: Sequence[Document]) -> list[Part]:
    """The runs that ``gc`` would remove, before it asks for confirmation."""
    cells = [(row["run"], row["name"], duration(row["age_s"])) for row in rows]
    return [table(("run", "name", "age"), cells, right=("age",))]


def pruned(document: Document) -> list[Part]:
    """The page of ``gc``: the runs that were removed."""
    removed = document["removed"]
    return [Line(f"{counted(len(removed), 'run')} removed"), *map(Line, removed)]


def _span(first: int, last: int) -> str:
    return f"blocks {count(first)} to {count(last)}" if last > first else f"block {count(first)}"
