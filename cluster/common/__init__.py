"""Small modules shared by every room: errors, run states, canonical values, durable files.

Imports no other room. Keep it small: a helper used by a single room belongs in that room.
"""
