"""The kit that engines of several hosts are built from.

It imports no engine's package, except ZeroMQ's in :mod:`cluster.backends.kit.curve`.

A call engine is a file with two functions and ``class Engine(CallEngine): module = __name__``; see
:mod:`cluster.backends.kit.calls`. The parts of the kit can also be used separately: ``carry``, the
main function of every engine's driver; ``RemoteProcess``, the supervisor of a process on a host,
and ``process``, that process's own side; ``door`` and, for ZeroMQ's sockets, ``curve``, which
accept only peers that prove the run's secret.
"""
