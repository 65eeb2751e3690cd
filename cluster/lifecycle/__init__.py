"""The life of a run: locked, computed, recorded, compared, exported, merged and removed.

May import every room from ``common`` to ``report``.
"""
