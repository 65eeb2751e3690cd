"""Runs without a terminal: started detached, and watched, waited for and stopped from any shell.

There is no daemon. A detached run is the same command in a session of its own, with its output in a
log beside the ledger; everything else reads the ledger and the run's lock.
"""

from __future__ import annotations

from cluster.unattended.detached.follow import attach, follow, tail
from cluster.unattended.detached.halt import halt
from cluster.unattended.detached.launch import StartupMessage, launch
from cluster.unattended.detached.output import DetachedOutput, redirect_to_log

__all__ = [
    "DetachedOutput",
    "StartupMessage",
    "attach",
    "follow",
    "halt",
    "launch",
    "redirect_to_log",
    "tail",
]
