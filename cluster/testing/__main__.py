"""``python -m cluster.testing MODULE:Engine``: the conformance suite without pytest."""

from __future__ import annotations

import sys

from cluster.testing.suite import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
