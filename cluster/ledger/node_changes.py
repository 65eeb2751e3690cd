"""Requests for other hosts, from any process to the dispatcher of a run (the table ``wish``)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from cluster.common.errors import StoreError
from cluster.hosts.nodes import Node, NodeError
from cluster.ledger.judge import Wrong, parsed
from cluster.ledger.rows import NodeChangeRequest, Run
from cluster.ledger.store import Ledger


def request(ledger: Ledger, run: Run, add: Sequence[Node], drain: Sequence[str]) -> int:
    """Ask the dispatcher of a run for other hosts.

    Args:
        ledger: the store.
        run: a run that is being computed.
        add: hosts to use as well.
        drain: names of hosts to use no more.

    Returns:
        The key of the request.

    Raises:
        Locked: on a network file system, another host owns the store.
        StoreError: the disk failed.
    """
    hosts = json.dumps({"add": [node.to_json() for node in add], "drain": list(drain)})
    ledger.own()
    with ledger.transaction():
        # At least the time: a key must not be used again after `gc`, or a dispatcher that has seen
        # a later one would not look at this request.
        row = ledger.db.execute(
            "INSERT INTO wish (key, run, hosts)"
            " SELECT max(coalesce(max(key), 0) + 1, ?), ?, ? FROM wish",
            (time.time_ns(), run.key, hosts),
        )
    assert row.lastrowid is not None
    return row.lastrowid


def newest(ledger: Ledger) -> int:
    """The key of the newest request for any run; 0 if there is none."""
    return int(ledger.all("SELECT coalesce(max(key), 0) FROM wish", ())[0][0])


def unanswered(ledger: Ledger, after: int) -> list[tuple[str, NodeChangeRequest]]:
    """The unanswered requests with a key above ``after``, each with the id of its run."""
    rows = ledger.all(
        "SELECT r.id, w.key, w.hosts FROM wish AS w JOIN run AS r ON r.key = w.run"
        " WHERE w.key > ? AND w.answer IS NULL ORDER BY w.key",
        (after,),
    )
    found = []
    for run, key, hosts in rows:
        try:
            found.append((run, NodeChangeRequest.read(key, parsed("hosts", hosts, dict))))
        except (Wrong, NodeError, LookupError, TypeError, AttributeError):
            ledger.leave_out("wish", key, "hosts")
    return found


def answer_to(ledger: Ledger, key: int) -> dict[str, Any] | None:
    """The answer to a request; None while its dispatcher has not answered.

    Raises:
        StoreError: the answer is damaged.
    """
    rows = ledger.all("SELECT answer FROM wish WHERE key = ?", (key,))
    if not rows or rows[0][0] is None:
        return None
    try:
        found: dict[str, Any] = parsed("answer", rows[0][0], dict)
    except Wrong as wrong:
        raise StoreError(
            f"row {key} of the table wish, {wrong}",
            where=str(ledger.path),
            fix="'cluster status' shows which hosts the run has; ask again",
        ) from None
    return found
