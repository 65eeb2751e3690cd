"""A ledger with a row that is wrong, and looks right."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from cluster.sampling.task import checksum


def falsify(folder: Path, store: str = "runs") -> tuple[int, int, str]:
    """Change a counted row, its checksum too, as a node that computes wrongly would.

    Returns:
        Its first and last block, and its node.
    """
    with sqlite3.connect(folder / store / "ledger.sqlite") as db:
        db.execute("DROP TRIGGER outcome_stays")
        key, name = db.execute("SELECT key, id FROM run").fetchone()
        first, stop, text, node = db.execute(
            "SELECT first, stop, tally, node FROM outcome WHERE run = ? ORDER BY first", (key,)
        ).fetchone()
        tally = json.loads(text)
        tally["hits"] += 1
        text = json.dumps(tally, sort_keys=True, separators=(",", ":"))
        db.execute(
            "UPDATE outcome SET tally = ?, checksum = ? WHERE run = ? AND first = ?",
            (text, checksum(name, first, stop, text), key, first),
        )
    db.close()
    return first, stop - 1, node
