"""Jobs of the lab's Slurm, and the ledgers that they leave."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from cluster.unattended.slurm import BatchScript, script
from scripts.lab_base import SHARED
from tests.lab.harness import Lab
from tests.lab.site import BLOCK, KERNEL, pids

HOSTS = ("h1", "h2", "h3")
COMMAND = (sys.executable, "-m", "cluster")
ENDED = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"}


class Desk:
    """A folder that all hosts share, with a spec for the hosts of a job; and its jobs.

    Args:
        lab: its Slurm is up.
        name: of the folder, which must not be there.
        blocks: of the run.
        nap: seconds that a block takes.
        keys: further keys of the spec.

    Attributes:
        here, there: the folder, as this machine sees it and as the hosts do.
    """

    def __init__(
        self, lab: Lab, name: str, blocks: int = 150, nap: float = 0.05, **keys: Any
    ) -> None:
        self.lab, self.here, self.there = lab, lab.folder / "shared" / name, SHARED / name
        self.nap = nap
        self.here.mkdir()
        (self.here / "kernel.py").write_text(KERNEL)
        spec = {
            "name": name,
            "kernel": "kernel.py:f",
            "samples": blocks * BLOCK,
            "block": BLOCK,
            "seed": 1,
            "backend": "ssh",
            "nodes": "auto",
            **keys,
        }
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in spec.items()]
        (self.here / "spec.yaml").write_text("".join(lines))

    def batch(self, *options: str, **changes: Any) -> BatchScript:
        """The job of three hosts with two slots each, but for what is said."""
        return BatchScript(
            name=f"cluster-{self.here.name}",
            spec=self.there / "spec.yaml",
            folder=self.there,
            store=self.there / "runs",
            python=Lab.python,
            options=options or ("nodes=3", "ntasks-per-node=2"),
            **changes,
        )

    def submit(self, batch: BatchScript) -> str:
        """Hand in the generated script; the job's number."""
        return self.send(script(batch))

    def send(self, text: str, *options: str) -> str:
        """Hand in a script; the job's number."""
        (self.here / "job.sbatch").write_text(text)
        # Slurm takes the environment along, which is how the kernel hears how slow it is.
        words = ("env", f"NAP={self.nap}", "sbatch", "--parsable", *options)
        return self.slurm(*words, str(self.there / "job.sbatch")).strip()

    def slurm(self, *words: str) -> str:
        """The output of a command of Slurm's on the first host, in the folder."""
        return self.lab.exec("h1", "env", "-C", str(self.there), "timeout", "20", *words)

    def facts(self, job: str) -> dict[str, str]:
        """What Slurm says of a job, or of a task of an array."""
        words = self.slurm("scontrol", "show", "job", "-o", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def await_state(self, job: str, states: set[str], seconds: float) -> dict[str, str]:
        """Wait until a job is in one of these states; what Slurm says of it then."""
        end = time.monotonic() + seconds
        while (facts := self.facts(job))["JobState"] not in states:
            assert time.monotonic() < end, f"{facts}\n{self.log()}"
            time.sleep(0.5)
        return facts

    def await_end(self, job: str, seconds: float = 120.0) -> dict[str, str]:
        """Wait until a job has ended for good; what Slurm says of it then."""
        return self.await_state(job, ENDED, seconds)

    def log(self) -> str:
        """All that the jobs have said."""
        return "\n".join(file.read_text() for file in sorted(self.here.glob("*.log")))

    def results(self, store: str = "runs") -> list[dict[str, Any]]:
        """The documents of all runs of a store."""
        place = ("--store", str(self.here / store), "--json")
        return [cluster("show", row["run"], *place) for row in cluster("ls", *place)]

    def result(self) -> dict[str, Any]:
        """The document of the one run."""
        (only,) = self.results()
        return only

    def digest(self) -> str:
        """What an unbroken run on one slot of this machine comes to."""
        where = ("--set", "backend=serial", "--set", "nodes=localhost:1", "--set", "sweep=null")
        store = ("--store", str(self.here / "serial"))
        done = cluster("submit", str(self.here / "spec.yaml"), *where, *store, "--quiet", "--json")
        digest: str = done["digest"]
        return digest


def cluster(*words: str) -> Any:
    """The document of a command here."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def await_no_agents(lab: Lab, seconds: float = 30.0) -> None:
    """No agent is left on any host, whatever became of its job."""
    end = time.monotonic() + seconds
    while left := [(host, pid) for host in HOSTS for pid in pids(lab, host, "cluster.hosts.agent")]:
        assert time.monotonic() < end, f"agents that are left: {left}"
        time.sleep(0.2)
