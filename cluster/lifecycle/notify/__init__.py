"""Telling people how a run goes, by processes of their own, which can do the run no harm.

A message is handed to a process and not waited for while the run computes; one that hangs is killed
at its deadline, and what became of each is recorded in the ledger.
"""

from __future__ import annotations

from cluster.lifecycle.notify.secret import SecretError, filled
from cluster.lifecycle.notify.teller import Notification

__all__ = ["Notification", "SecretError", "filled"]
