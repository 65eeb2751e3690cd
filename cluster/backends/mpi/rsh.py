"""What the launcher takes for ssh: it has the dispatcher run the command, by its agent there.

So a host has one channel and one leash: when the agent's ends, all that the launcher started there
ends with it.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import dropwhile

from cluster.hosts.jsonlines import dial

ADDRESS = "CLUSTER_MPI_SHELL"


def main() -> None:
    """``rsh [-x] HOST WORD...``: stay until the command has ended there, and end as it did."""
    # MPICH's launcher has options for ssh before the host.
    host, *words = dropwhile(lambda word: word.startswith("-"), sys.argv[1:])
    with dial(os.environ[ADDRESS]) as connection:
        wanted = {"host": host, "command": " ".join(words)}
        connection.sendall(json.dumps(wanted).encode() + b"\n")
        with connection.makefile("rb") as lines:
            line = lines.readline()
    sys.exit(json.loads(line)["status"] if line else 255)


if __name__ == "__main__":
    main()
