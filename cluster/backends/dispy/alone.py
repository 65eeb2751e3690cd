"""What a job does on a stock dispynode, where no agent keeps workers: it draws in a child process.

dispy's own process of the job only waits for that child, and kills it where a block hangs, so that
it always answers: one that ended without an answer would cost the node a slot. Nobody else could
end a block there: a stock node does not cancel jobs that are forked from a ``setup``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cluster.hosts.fingerprint import fingerprint
from cluster.hosts.nodes import usable_cores
from cluster.hosts.process_tree import die_with_parent, leash_children
from cluster.hosts.worker import Marker, draw, limit_memory
from cluster.hosts.worker_pool import HASHES, POOLS, python_command
from cluster.sampling.task import Outcome, Task, Work

_LOOK = 0.25
_CHUNK = 1 << 16

for _name in POOLS:
    os.environ.setdefault(_name, "1")


def answer(text: str) -> str:
    """What a job answers: who this host is, or the outcome of a task."""
    asked = json.loads(text)
    work = Work.from_json(asked["work"])
    if asked["task"] is None:
        return json.dumps({"hello": _hello(work)})
    return json.dumps({"outcome": _draw(work, Task(*asked["task"]), asked)})


def _hello(work: Work) -> dict[str, Any]:
    return {
        **fingerprint(work),
        "pid": os.getpid(),
        "cores": usable_cores(),
        "hostname": os.uname().nodename,
        "prefix": sys.prefix,
        "interpreter": sys.executable,
        "clock": time.time(),
    }


def _draw(work: Work, task: Task, asked: Mapping[str, Any]) -> Outcome:
    reader, writer = os.pipe()
    descriptor, marker = Marker.create()
    with os.fdopen(writer, "wb"), os.fdopen(descriptor, "rb"):
        child = _started(work, task, asked, (descriptor, writer))
    data, verdict = b"", "lost"
    with suppress(KeyboardInterrupt):  # the node is to let go of us
        data, verdict = _awaited(reader, marker, asked["limit"])
    # From here on nothing interrupts: whoever ends while it answers holds up the whole node.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    os.close(reader)
    with suppress(ValueError):
        return Outcome.from_json(json.loads(data))
    if verdict == "timeout":
        how = "was killed"
    else:
        how = f"exited with {code}" if code >= 0 else f"died of {signal.Signals(-code).name}"
    return Outcome.without_answer(task, verdict, f"its process {how}", marker.block)


def _started(
    work: Work, task: Task, asked: Mapping[str, Any], shared: tuple[int, int]
) -> subprocess.Popen[bytes]:
    """A fresh Python, with the hashes of every worker, that finds what to draw as its input."""
    with os.fdopen(os.memfd_create("cluster-task"), "w+b") as given:
        given.write(json.dumps({"work": work.to_json(), "task": task}).encode())
        given.seek(0)
        arguments = map(str, (*shared, asked["memory"]))
        return subprocess.Popen(
            python_command(sys.executable, __name__, *arguments),
            stdin=given,
            env={**os.environ, **asked["env"], **HASHES},
            pass_fds=shared,
            start_new_session=True,
        )


def _awaited(reader: int, marker: Marker, limit: float) -> tuple[bytes, str]:
    """The child's line, as far as it came, and what it means if that is not whole."""
    data, block, since = b"", marker.block, time.monotonic()
    while not data.endswith(b"\n"):
        if select.select([reader], [], [], _LOOK)[0]:
            chunk = os.read(reader, _CHUNK)
            if not chunk:
                break
            data += chunk
        elif marker.block != block:
            block, since = marker.block, time.monotonic()
        elif time.monotonic() - since > limit:
            return data, "timeout"
    return data, "lost"


def main() -> None:
    """Draw one task. Started by a job, never by hand."""
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    leash_children()
    descriptor, writer, memory = map(int, sys.argv[1:])
    marker = Marker(descriptor)
    limit_memory(memory)
    asked = json.load(sys.stdin)
    work, task = Work.from_json(asked["work"]), Task(*asked["task"])
    outcome = draw(work, task, marker, memory)
    with open(writer, "wb") as answers:
        answers.write(json.dumps(outcome).encode() + b"\n")
    os._exit(0)
