"""The kit that engines of several hosts are built from; no engine's package is imported here.

A call engine is a file with two functions and ``class Engine(CallEngine): module = __name__``; see
:mod:`cluster.backends.kit.calls`. The parts of the kit also stand by themselves: ``carry``, the
main of every engine's driver; ``RemoteProcess``, the supervisor of a process on a host; and
``door``, which lets in only who proves the run's secret.
"""
