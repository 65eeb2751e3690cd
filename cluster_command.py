"""The command ``cluster``, as it is installed.

It has a module of its own for the sake of its name: a ``cluster.py`` or ``cluster/`` of somebody's
own, found first by way of PYTHONPATH, would be run in the place of this package.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line of the package beside this file; returns the exit code."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from cluster.__main__ import main as run

    del sys.path[0]
    return run()
