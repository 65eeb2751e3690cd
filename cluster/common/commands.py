"""The verbs of the command line, in one light table: ``--help`` needs nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = {
    "Compute": {
        "submit": "compute a spec: a new run, or what is missing of a sweep",
        "resume": "go on with a run",
        "extend": "more samples of a run, or a tighter target",
        "schedule": "have cron, systemd or Slurm start a spec again and again",
    },
    "Look before": {
        "validate": "read a spec and its kernel, and say what is wrong",
        "plan": "what a spec would run, and how long it would take",
        "nodes": "the hosts of a spec; with --add or --drain, other hosts for a running run",
        "kernels": "the kernels in files and folders",
        "backends": "the backends, and which are usable here",
        "schema": "the JSON Schema of a spec",
        "doctor": "what could go wrong here and on a spec's hosts, and its cure",
    },
    "Lend": {
        "node": "lend this machine to runs on other hosts, until a signal",
    },
    "Look after": {
        "ls": "the runs of a store",
        "status": "where runs stand, also while they are computed",
        "show": "the result of a run, or the table of a sweep",
        "compare": "whether two runs, or two sweeps, agree, and were as fast",
        "watch": "see a run being computed, from any shell; it is not disturbed",
        "logs": "what a run without a terminal has said",
        "wait": "return when a run has ended, with its exit code",
        "attach": "watch a run, and have Ctrl-C drain it",
        "stop": "have a run drain, or stop at once",
        "repro": "compute one block of a run again, here",
        "verify": "compute random blocks of a run again, and compare",
        "gc": "remove old runs that are done",
    },
    "Elsewhere": {
        "export": "write some blocks of a run out, to compute them elsewhere",
        "merge": "put the runs of several stores together",
    },
}

VERBS = {verb: line for group in GROUPS.values() for verb, line in group.items()}


def help_text() -> str:
    """What ``cluster --help`` prints."""
    lines = [
        "Usage: cluster VERB [ARGUMENTS] [OPTIONS]",
        "",
        "Batch Monte Carlo: one YAML spec, one right answer, on any number of machines.",
        "",
    ]
    for group, verbs in GROUPS.items():
        lines += [f"{group}:", *(f"  {verb:<10}{line}" for verb, line in verbs.items()), ""]
    lines += [
        "Options:",
        "  --version   the version",
        "  --help      this text; after a verb, its options",
        "",
        "Every verb takes --json: one document on stdout, everything else on stderr.",
        "Start with: cluster submit configs/pi.yaml",
    ]
    return "\n".join(lines)


def command(verb: str, *arguments: str, store: str | Path = "runs") -> str:
    """A command, exactly as it can be typed in the folder and the shell of this process."""
    place = [] if str(store) == "runs" else ["--store", str(store)]
    return " ".join(map(_quoted, [*_program(), verb, *arguments, *place]))


def _quoted(word: str) -> str:
    """A word for the shell, without a character that a terminal obeys."""
    import shlex

    if word.isprintable():
        return shlex.quote(word)
    told = (_escaped(each) for each in word.encode(errors="surrogateescape"))
    return f"$'{''.join(told)}'"


def _escaped(byte: int) -> str:
    plain = 32 <= byte < 127 and chr(byte) not in "\\'"
    return chr(byte) if plain else f"\\x{byte:02x}"


def _program() -> list[str]:
    """``cluster``, where the shell finds this installation by it; else its interpreter."""
    import os
    import shutil
    import sys

    found = shutil.which("cluster")
    if found and os.path.dirname(found) == os.path.dirname(sys.executable):
        return ["cluster"]
    near = os.path.relpath(sys.executable)
    return [sys.executable if near.startswith(os.pardir) else near, "-P", "-m", "cluster"]
