"""A document of each verb, as `--json` prints it."""

from __future__ import annotations

from typing import Any

from cluster.common.errors import Problem, SpecError, UsageError
from cluster.sampling.task import Fault
from cluster.spec import schema as spec_schema
from tests.report.made import DIGEST

STANDING = {
    "run": "pi-1",
    "name": "pi",
    "state": "running",
    "created": "2026-11-23T10:12:35+0000",
    "holder": {"host": "h", "pid": 1, "since": 1.5},
    "kernel": "pi.py:pi",
    "backend": "processes",
    "samples": 100,
    "blocks": 1,
    "goal_blocks": None,
    "estimate": 3.1,
    "std_error": 0.1,
    "samples_per_s": 100.0,
    "elapsed_s": 1.0,
}
NEW = {
    **STANDING,
    "state": "interrupted",
    "holder": None,
    "samples": None,
    "blocks": None,
    "estimate": None,
    "std_error": None,
    "samples_per_s": None,
    "elapsed_s": None,
}
PLAN = {
    "name": "pi",
    "kernel": "pi.py:pi",
    "identity": DIGEST,
    "block": 100,
    "blocks": 10,
    "samples": 1000,
    "slots": 2,
    "backend": "processes",
    "nodes": [{"node": "localhost", "slots": 2}],
    "checkpoints": [30, 33],
    "calibration": {
        "seconds": 2.0,
        "blocks": 2,
        "samples": 200,
        "samples_per_s": 100.0,
        "estimate": 3.1,
        "std_error": 0.1,
    },
    "expected_s": 10.0,
    "expected_samples": 1000,
    "target": {
        "half_width": 0.1,
        "rel_error": None,
        "std_error": None,
        "confidence": 0.95,
        "min_samples": 0,
        "min_hits": 10,
    },
}
HOST = {
    "node": "h1",
    "slots": 2,
    "python": "/venv/bin/python",
    "user": None,
    "port": None,
    "weight": 1.0,
    "env": ["NAP"],
    "tags": [],
    "cwd": None,
}
REPRO = {
    "run": "pi-1",
    "block": 7,
    "tally": {"kind": "hits", "hits": 1, "samples": 2},
    "wall_s": 1.0,
    "cpu_s": 0.9,
    "fault": None,
    "matches": True,
}
GOOD: list[tuple[str, Any]] = [
    ("ls", []),
    ("ls", [STANDING, NEW]),
    ("status", STANDING),
    ("status", NEW),
    ("status", {"runs": [STANDING]}),
    ("status", {"runs": []}),
    (
        "validate",
        {
            "valid": True,
            "file": "a.yaml",
            "name": "a",
            "kernel": "a.py:a",
            "identity": DIGEST,
            "blocks": None,
            "samples": None,
            "target": None,
        },
    ),
    ("plan", PLAN),
    ("plan", {**PLAN, "calibration": None, "target": None, "blocks": None, "expected_s": None}),
    (
        "kernels",
        [
            {
                "kernel": "a.py:a",
                "form": "rng",
                "params": {"a": "1", "b": None},
                "block": "2 ** 24",
                "doc": "",
            }
        ],
    ),
    ("backends", [{"backend": "serial", "usable": True, "summary": "s", "install": None}]),
    ("node", {"address": "10.0.0.1", "port": 9700, "dispynode": 9701}),
    ("doctor", {"findings": [{"check": "c", "status": "ok", "message": "m", "fix": None}]}),
    ("nodes", {"nodes": [HOST, {**HOST, "slots": None}], "backend": "ssh", "required": 2}),
    ("nodes", {"run": "pi-1", "added": ["h4"], "drained": []}),
    ("repro", REPRO),
    (
        "repro",
        {
            **REPRO,
            "tally": None,
            "matches": None,
            "fault": Fault("raised", 7, "ValueError", "m", "t")._asdict(),
        },
    ),
    (
        "verify",
        {
            "run": "pi-1",
            "of_blocks": 100,
            "seed": 0,
            "blocks": 2,
            "elsewhere": 1,
            "tasks": 1,
            "differing": [{"first": 3, "last": 4, "node": "h1", "again": "h2"}],
            "unchecked": [[7, 7, "not computed"]],
        },
    ),
    ("gc", {"removed": ["pi-1"]}),
    ("export", {"run": "pi-1", "store": "shard", "first": 0, "last": 9, "blocks": 10}),
    ("schema", spec_schema()),
    ("error", UsageError("no", fix="do").to_json()),
    ("errors", SpecError([Problem("a.yaml", 1, 2, "nodes[0]", "m")]).to_json()),
]
