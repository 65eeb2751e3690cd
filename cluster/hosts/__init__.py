"""Hosts: their names, how they are reached, and the processes on them: the agent and its workers.

Has no notion of specs, stores or engines. May import ``common`` and ``sampling``.
"""
