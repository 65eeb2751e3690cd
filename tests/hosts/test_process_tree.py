"""Which processes descend from one, whatever others are called."""

from __future__ import annotations

import os
import subprocess
import sys

from cluster.hosts.process_tree import born, descendants

# A name may be any bytes; the kernel cuts it at 15, also inside a letter.
NAMED = """
with open("/proc/self/comm", "wb") as name:
    name.write(b"half a letter \\xc3")
print("named", flush=True)
input()
"""


def test_a_name_that_is_no_text_hides_no_process() -> None:
    """Neither itself nor others: an agent that ends looks for all that came of it."""
    command = [sys.executable, "-c", NAMED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"named\n"
        with open(f"/proc/{process.pid}/comm", "rb") as name:
            assert name.read() == b"half a letter \xc3\n"
        assert process.pid in descendants(os.getpid())
        assert born(process.pid) is not None
        process.communicate(b"\n")
    assert process.pid not in descendants(os.getpid())
