"""Advice for a run whose kernel failed, where a resume would only fail again."""

from __future__ import annotations

from pathlib import Path

from cluster.common.commands import command
from cluster.common.states import State
from cluster.ledger import Ledger, Run

# The faults of a block that its kernel caused: it raised, or it returned an invalid tally.
_OF_KERNEL = frozenset({"raised", "refused"})


def advice_of(ledger: Ledger, run: Run, state: str) -> str | None:
    """What to do about a run that failed because of its kernel, with a command to type.

    Args:
        ledger: the store of the run.
        run: its row.
        state: its present state.

    Returns:
        A sentence, or None if the run did not fail or its kernel is not the cause.
    """
    if state != State.FAILED.value:
        return None
    if not any(failure["kind"] in _OF_KERNEL for failure in ledger.failures(run)):
        return None
    spec = run.definition["spec"]
    again = "submit the spec again"
    if Path(spec["path"]).is_file():
        sets = [word for text in spec["overrides"] for word in ("--set", text)]
        again = command("submit", spec["path"], *sets, store=ledger.store)
    # The run holds a frozen copy of the kernel, which a resume would compute with again.
    frozen = "a resume repeats the kernel as it is frozen in the run"
    return f"fix {run.definition['source']['entry']}, then {again}; {frozen}"
