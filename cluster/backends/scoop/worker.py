"""A SCOOP worker on a host, started by the host's agent; it draws nothing itself.

It says ``{"joined": name}`` once the broker has answered it, a name that it has drawn for itself,
then each second ``{"at": id}``, the first task of what it is having drawn, or null; and ``{"unfit":
reason, "fix": text}`` where it cannot be used here at all. It is told the ``name`` of its host.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from cluster.backends.kit.process import Say, beat, end, run
from cluster.backends.scoop.pin import refusal


def main() -> None:
    """Serve until killed; the agent does that. Never started by hand."""
    run(_serve)


def _serve(first: Mapping[str, Any], say: Say) -> None:
    reason, fix = refusal()
    if reason:
        say({"unfit": reason, "fix": fix})
        return
    import zmq
    from scoop._comm import scoopzmq

    from cluster.backends.scoop import job, shim

    # One that takes the place of another must not be taken for that by the broker.
    name = f"{first['name']}:{secrets.token_hex(8)}"
    shim.patch(first["secret"], name)
    connect = scoopzmq.ZMQCommunicator.__init__

    def connect_and_say(self: scoopzmq.ZMQCommunicator) -> None:
        try:
            connect(self)
        except zmq.Again:
            # At once: SCOOP's half-made objects have more to say than anybody wants to read.
            where = f"{first['address']}, TCP port {first['ports'][0]}"
            end(f"SCOOP's broker did not answer at {where}: is a firewall between?")
        say({"joined": name})
        beat(say, lambda: {"at": job.current})

    scoopzmq.ZMQCommunicator.__init__ = connect_and_say
    shim.bootstrap(first["address"], first["ports"]).run(globs={})


if __name__ == "__main__":
    main()
