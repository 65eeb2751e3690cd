"""The verbs of the command line in one table, so that ``--help`` imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = {
    "Compute": {
        "submit": "run a spec: start a new run, or complete a sweep",
        "resume": "continue an interrupted or partial run",
        "extend": "add samples to a run, or tighten its target",
        "schedule": "run a spec at regular times with cron, systemd or Slurm",
    },
    "Prepare": {
        "validate": "check a spec and its kernel",
        "plan": "show what a spec would run and how long it would take",
        "nodes": "check the hosts of a spec; --add and --drain change those of a live run",
        "kernels": "list the kernels in files and folders",
        "backends": "list the backends and whether each is usable here",
        "schema": "print the JSON Schema of a spec",
        "doctor": "diagnose this machine and a spec's hosts",
    },
    "Share this machine": {
        "node": "lend this machine to runs on other hosts until interrupted",
    },
    "Inspect and control": {
        "ls": "list the runs of a store",
        "status": "show the progress of runs, live or ended",
        "show": "show the result of a run, or the table of a sweep",
        "compare": "test whether two runs or sweeps agree, and compare their speed",
        "watch": "follow a live run from any shell, read-only",
        "logs": "print the log of a detached run",
        "wait": "block until a run ends, and exit with its code",
        "attach": "follow a live run; Ctrl-C drains it",
        "stop": "drain a run, or stop it at once",
        "repro": "recompute one block of a run on this machine",
        "verify": "recompute random blocks of a run and compare",
        "gc": "remove old finished runs",
    },
    "Split and merge": {
        "export": "write a range of blocks to a shard, to compute at another site",
        "merge": "merge the runs of several stores",
    },
}

VERBS = {verb: line for group in GROUPS.values() for verb, line in group.items()}


def help_text() -> str:
    """The text that ``cluster --help`` prints."""
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
        "  --version   print the version",
        "  --help      print this text; after a verb, its options",
        "",
        "Every verb takes --json: one document on stdout, everything else on stderr.",
        "Start with: cluster submit configs/pi.yaml",
    ]
    return "\n".join(lines)


def command(verb: str, *arguments: str, store: str | Path = "runs") -> str:
    """A ``cluster`` command line that can be pasted into the shell that started this process.

    Args:
        verb: the verb, as in :data:`VERBS`.
        arguments: its arguments and options, unquoted.
        store: the store; the default one is left out.

    Returns:
        The command, quoted for the shell, relative to the current folder.
    """
    option = [] if str(store) == "runs" else ["--store", str(store)]
    return " ".join(map(_quoted, [*_program(), verb, *arguments, *option]))


def _quoted(word: str) -> str:
    """Quote a word for the shell, without printing terminal control characters."""
    import shlex

    if word.isprintable():
        return shlex.quote(word)
    escaped = (_escaped(each) for each in word.encode(errors="surrogateescape"))
    return f"$'{''.join(escaped)}'"


def _escaped(byte: int) -> str:
    plain = 32 <= byte < 127 and chr(byte) not in "\\'"
    return chr(byte) if plain else f"\\x{byte:02x}"


def _program() -> list[str]:
    """``cluster`` if that is this installation on the shell's PATH, else its interpreter."""
    import os
    import shutil
    import sys

    found = shutil.which("cluster")
    if found and os.path.dirname(found) == os.path.dirname(sys.executable):
        return ["cluster"]
    relative = os.path.relpath(sys.executable)
    # -P: a folder "cluster" in the current folder must not be imported instead of the package.
    return [sys.executable if relative.startswith(os.pardir) else relative, "-P", "-m", "cluster"]
