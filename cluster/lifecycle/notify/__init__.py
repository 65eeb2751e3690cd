"""Notifications of how a run goes, sent by processes of their own, which cannot harm the run.

A message is handed to a process, for which the run does not wait while it computes. A process that
hangs is killed at its deadline, and the outcome of each message is recorded in the ledger.
"""

from __future__ import annotations

from cluster.lifecycle.notify.secret import SecretError, filled
from cluster.lifecycle.notify.teller import Notification

__all__ = ["Notification", "SecretError", "filled"]
