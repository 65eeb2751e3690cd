"""The kit that engines of several hosts are built from.

No engine's package is imported here, but ZeroMQ's by :mod:`cluster.backends.kit.curve` alone.

A call engine is a file with two functions and ``class Engine(CallEngine): module = __name__``; see
:mod:`cluster.backends.kit.calls`. The parts of the kit also stand by themselves: ``carry``, the
main of every engine's driver; ``RemoteProcess``, the supervisor of a process on a host, and
``process``, that process's own side; ``door`` and, for ZeroMQ's sockets, ``curve``, which let in
only who proves the run's secret.
"""
