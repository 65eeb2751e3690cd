"""A SCOOP worker on a host, started by the host's agent. It passes tasks on, and draws none itself.

It sends ``{"joined": name}`` once the broker has answered, with a random name of its own; then
``{"at": id}`` each second, with the first task of the batch that it is working on, or null; and
``{"unfit": reason, "fix": text}`` if SCOOP cannot be used here at all. Its first message has the
``secret``, the ``name`` of its host, and the broker's ``address`` and ``ports``.
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

    # A new name at each start: the broker must not confuse a worker with the one it replaces.
    name = f"{first['name']}:{secrets.token_hex(8)}"
    shim.patch(first["secret"], name)
    connect = scoopzmq.ZMQCommunicator.__init__

    def connect_and_say(self: scoopzmq.ZMQCommunicator) -> None:
        try:
            connect(self)
        except zmq.Again:
            # At once: at a normal exit, SCOOP's half-initialised objects print tracebacks.
            where = f"{first['address']}, TCP port {first['ports'][0]}"
            end(f"SCOOP's broker did not answer at {where}: is a firewall between?")
        say({"joined": name})
        beat(say, lambda: {"at": job.current})

    scoopzmq.ZMQCommunicator.__init__ = connect_and_say
    shim.bootstrap(first["address"], first["ports"]).run(globs={})


if __name__ == "__main__":
    main()
