"""Diagnosis of this machine and of the hosts of a spec; each finding comes with its fix.

Only the verbs import this room.
"""
