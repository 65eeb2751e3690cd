"""Results, status and progress: from the ledger and events to text and JSON.

Imported by the life of a run, by unattended runs and by the verbs.
"""
