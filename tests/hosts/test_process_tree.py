"""Which processes descend from one, whatever others are called."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from cluster.hosts.process_tree import born, descendants, is_alive

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


FORKS = """
import os, threading, time
from cluster.hosts.process_tree import leash_children

leash_children()
born = []

def fork():
    pid = os.fork()
    if not pid:
        time.sleep(600)
    born.append(pid)

fork()
threads = [threading.Thread(target=fork) for _ in range(2)]
for thread in threads:
    thread.start()
    thread.join()
time.sleep(0.2)
print(*born, flush=True)
time.sleep(600)
"""


def test_what_a_thread_forks_outlives_it_and_ends_with_the_process() -> None:
    """As what the main thread forks does, however the process ends."""
    with subprocess.Popen([sys.executable, "-c", FORKS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        children = [int(word) for word in process.stdout.readline().split()]
        assert len(children) == 3
        assert descendants(process.pid) == set(children)
        process.kill()
    deadline = time.monotonic() + 10
    while any(map(is_alive, children)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
