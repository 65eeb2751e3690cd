"""Engines behind one contract: one file each, named as in the spec, imported only when chosen."""
