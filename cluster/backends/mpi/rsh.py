"""The launcher's replacement for ssh: the dispatcher has the host's agent run the command.

So everything that the launcher starts on a host depends on one channel: when the agent's ends, the
launcher's daemon there ends with the agent.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import dropwhile

from cluster.hosts.jsonlines import dial

ADDRESS = "CLUSTER_MPI_SHELL"


def main() -> None:
    """``rsh [-x] HOST WORD...``: wait for the command's end there, and exit with its status."""
    # MPICH's launcher passes options of ssh before the host.
    host, *words = dropwhile(lambda word: word.startswith("-"), sys.argv[1:])
    with dial(os.environ[ADDRESS]) as connection:
        wanted = {"host": host, "command": " ".join(words)}
        connection.sendall(json.dumps(wanted).encode() + b"\n")
        with connection.makefile("rb") as lines:
            line = lines.readline()
    sys.exit(json.loads(line)["status"] if line else 255)


if __name__ == "__main__":
    main()
