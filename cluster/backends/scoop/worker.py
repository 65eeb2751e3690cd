"""A SCOOP worker on a host, started by the host's agent; it draws nothing itself.

It says ``{"joined": name}`` once the broker has answered it, a name that it has drawn for itself,
then each second ``{"at": id}``, the first task of what it is having drawn, or null; and ``{"unfit":
reason, "fix": text}`` where it cannot be used here at all. It is told the ``name`` of its host.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from cluster.backends.kit.remote import BEAT
from cluster.backends.scoop.pin import refusal
from cluster.hosts.process_tree import die_with_parent
from cluster.hosts.worker import PipeLines, take_descriptors


def main() -> None:
    """Serve until killed; the agent does that. Never started by hand."""
    die_with_parent()
    lines = PipeLines(*take_descriptors())
    wanted = lines.read()
    reason, fix = refusal()
    if reason:
        lines.write({"unfit": reason, "fix": fix})
    else:
        _serve(wanted, lines)


def _serve(wanted: Mapping[str, Any], lines: PipeLines) -> None:
    import zmq
    from scoop._comm import scoopzmq

    from cluster.backends.scoop import job, shim

    # One that takes the place of another must not be taken for that by the broker.
    name = f"{wanted['name']}:{secrets.token_hex(8)}"
    shim.patch(wanted["key"], name)
    connect = scoopzmq.ZMQCommunicator.__init__

    def beat() -> None:
        while True:
            time.sleep(BEAT)
            lines.write({"at": job.current})

    def connect_and_say(self: scoopzmq.ZMQCommunicator) -> None:
        try:
            connect(self)
        except zmq.Again:
            where = f"{wanted['address']}, TCP port {wanted['ports'][0]}"
            sys.stderr.write(f"SCOOP's broker did not answer at {where}: is a firewall between?")
            sys.stderr.flush()
            # SCOOP's half-made objects have more to say than anybody wants to read.
            os._exit(1)
        lines.write({"joined": name})
        threading.Thread(target=beat, daemon=True).start()

    scoopzmq.ZMQCommunicator.__init__ = connect_and_say
    shim.bootstrap(wanted["address"], wanted["ports"]).run(globs={})


if __name__ == "__main__":
    main()
