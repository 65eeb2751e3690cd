"""A SCOOP worker on a host, started by the host's agent; it draws nothing itself."""

from __future__ import annotations

import scoop
from scoop._comm import scoopzmq

from cluster.backends.scoop import shim
from cluster.family import die_with_parent
from cluster.worker import Lines, take_descriptors


def main() -> None:
    """Serve until killed; the agent does that. Never started by hand."""
    die_with_parent()
    lines = Lines(*take_descriptors())
    wanted = lines.read()
    shim.patch(wanted["key"], wanted["name"])
    connect = scoopzmq.ZMQCommunicator.__init__

    def connect_and_say(self: scoopzmq.ZMQCommunicator) -> None:
        connect(self)
        lines.write({"worker": scoop.worker.decode()})

    scoopzmq.ZMQCommunicator.__init__ = connect_and_say
    shim.bootstrap(wanted["address"], wanted["ports"], origin=False).run(globs={})


if __name__ == "__main__":
    main()
