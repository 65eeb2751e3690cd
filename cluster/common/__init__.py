"""Small modules that every room may use: errors, run states, canonical values, durable files.

Imports no other room. The list is closed: what one room alone needs stands in that room.
"""
