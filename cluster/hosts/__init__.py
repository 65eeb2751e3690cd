"""A host: its name, how it is reached, and the processes that run on it: agent and workers.

Knows nothing of specs, stores or engines. May import ``common`` and ``sampling``.
"""
