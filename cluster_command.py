"""Entry point of the installed command ``cluster``.

It is a top-level module with a name of its own, because an unrelated ``cluster.py`` or ``cluster/``
that comes first on PYTHONPATH would be imported instead of this package.
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
