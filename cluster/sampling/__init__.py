"""Kernels, their random streams and tallies; blocks, tasks and precision targets.

Nothing here depends on time, the network or the disk, except for the cache of frozen kernels and
the time stamps of an outcome. May import ``common``.
"""
