"""What a kernel is, what it draws from and what it returns; blocks, tasks and precision targets.

Pure: no clock, no network, and no disk but the cache of frozen kernels. May import ``common``.
"""
