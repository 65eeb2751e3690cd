"""What helps a run whose kernel failed: a resume would compute with the same frozen text."""

from __future__ import annotations

from pathlib import Path

from cluster.common.commands import command
from cluster.common.states import State
from cluster.ledger import Ledger, Run

# The faults of a block that are its kernel's own: what it raised, and what it returned.
_OF_KERNEL = frozenset({"raised", "refused"})


def advice_of(ledger: Ledger, run: Run, state: str) -> str | None:
    """What to do about a run that its kernel failed, in words with a command; None: nothing."""
    if state != State.FAILED.value:
        return None
    if not any(failure["kind"] in _OF_KERNEL for failure in ledger.failures(run)):
        return None
    spec = run.definition["spec"]
    again = "submit the spec again"
    if Path(spec["path"]).is_file():
        sets = [word for text in spec["overrides"] for word in ("--set", text)]
        again = command("submit", spec["path"], *sets, store=ledger.store)
    frozen = "a resume repeats the kernel as it is frozen in the run"
    return f"mend {run.definition['source']['entry']}, then {again}; {frozen}"
