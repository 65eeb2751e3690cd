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
    from cluster.errors import StopNow

    try:
        _handle_signals()
        from cluster.backends.mpi.world import told_rank, told_size

        if told_size(os.environ) > 1:
            return _in_a_world(told_rank(os.environ))
        from cluster.cli import run

        return run(sys.argv[1:])
    except StopNow as stop:
        return _interrupted(*stop.args)


def _in_a_world(rank: int) -> int:
    """What this process does as one of the ranks that mpirun or srun started."""
    from cluster.cli import refused, run

    if not {"submit", "resume", "extend"} & set(sys.argv[1:2]):
        return run(sys.argv[1:]) if rank == 0 else 0  # one answer is enough
    from cluster.backends.mpi.inside import play
    from cluster.errors import EngineError

    try:
        return play(lambda: run(sys.argv[1:]))
    except EngineError as error:
        return refused(error, sys.argv[1:]) if rank == 0 else error.code


def _handle_signals() -> None:
    """Until the verbs are loaded, and have handlers of their own."""
    import signal

    from cluster.errors import StopNow

    def stop(number: int, _frame: object) -> None:
        raise StopNow(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def _interrupted(number: int) -> int:
    """Tell of a signal that came while the verbs were being loaded."""
    from cluster.errors import Interrupted

    error = Interrupted(number)
    if "--json" in sys.argv:
        import json

        sys.stdout.write(json.dumps(error.to_json()) + "\n")
    else:
        sys.stderr.write(f"error: {error}\n")
    return error.code


if __name__ == "__main__":
    sys.exit(main())
