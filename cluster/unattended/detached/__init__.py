"""Runs without a terminal: started detached, and watched, waited for and stopped from any shell.

Nothing here is a daemon. A detached run is the same command in a session of its own, with its
output in a log beside the ledger; everything else asks the ledger, and the run's own lock.
"""

from __future__ import annotations

from cluster.unattended.detached.follow import attach, follow, tail
from cluster.unattended.detached.halt import halt
from cluster.unattended.detached.launch import Word, launch
from cluster.unattended.detached.voice import DetachedOutput, speak_into

__all__ = ["DetachedOutput", "Word", "attach", "follow", "halt", "launch", "speak_into", "tail"]
