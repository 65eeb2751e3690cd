"""``python -m cluster``: answers ``--help`` at once, and loads the verbs for anything else."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):
        # `python -m` puts the current folder first, where somebody's random.py may lie. The
        # package itself was found already; nothing else is to be found there.
        del sys.path[0]
    if sys.argv[1:] in ([], ["--help"], ["-h"], ["help"]):
        from cluster.verbs import help_text

        sys.stdout.write(help_text() + "\n")
        return 0
    from cluster.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
