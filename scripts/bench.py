"""What scripts/bench runs: us and the alternative in turn, and the ratios of their medians."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from scripts import bench_hosts
from scripts.bench_base import (
    PYTHON,
    ROOT,
    ROUNDS,
    command,
    cores,
    median,
    missed,
    noop,
    report,
    spec,
    submit,
)

# -- kernels: samples a second of one core ----------------------------------------------------


def bare_rate(name: str, seconds: float = 0.5) -> float:
    """Samples a second of a kernel called in a plain loop, in this process."""
    from cluster.sampling.kernels import freeze, load
    from cluster.sampling.streams import Stream

    kernel = load(freeze(f"jobs/pi.py:{name}", ROOT))
    samples = kernel.traits.block
    kernel.draw(Stream(1, 2, 0), samples, {})
    block, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        block += 1
        kernel.draw(Stream(1, 2, block), samples, {})
    return block * samples / spent


def kernels() -> None:
    """The fast kernel against the two others, one core, in turn."""
    rates: dict[str, list[float]] = {"pi": [], "pi_numpy": [], "pi_python": []}
    for _ in range(ROUNDS):
        for name, found in rates.items():
            found.append(bare_rate(name))
    mid = {name: median(found) for name, found in rates.items()}
    detail = ", ".join(f"{name} {rate / 1e6:.4g} M samples/s" for name, rate in mid.items())
    report("pi / pi_python, one core", mid["pi"] / mid["pi_python"], 100, detail)
    report("pi / pi_numpy, one core", mid["pi"] / mid["pi_numpy"], 4, detail)


# -- scaling: all cores, ledger included ------------------------------------------------------


def side_by_side(processes: int, seconds: float) -> float:
    """Sum of the kernel's rates in so many bare processes at once."""
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}]
from scripts import bench
print(bench.bare_rate("pi", {seconds}))
"""
    started = [
        subprocess.Popen([PYTHON, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return sum(float(process.communicate()[0]) for process in started)


def scaling() -> None:
    """`processes` on all cores, a run of over 10 s, against the bare kernel on as many cores."""
    ratios, ideal, details = [], [], []
    for _ in range(3):
        one, together = side_by_side(1, 2.0), side_by_side(cores(), 2.0)
        samples = int(12 * together)
        with spec({"kernel": f"{ROOT}/jobs/pi.py:pi", "samples": samples, "seed": 1}) as path:
            result = submit(path)
        rate = result["samples"] / result["wall_s"]
        ratios.append(rate / (cores() * one))
        ideal.append(rate / together)
        details.append(f"{rate / 1e9:.3f} of {cores()} x {one / 1e9:.3f} G samples/s")
    detail = f"{cores()} cores, runs of over 10 s: {'; '.join(details)}"
    report("processes / (cores x bare kernel)", median(ratios), 0.92, detail)
    detail = f"{cores()} bare processes at once are what this machine can give"
    report("processes / bare processes side by side", median(ideal), 0.92, detail)


# -- tasks: what a task costs -----------------------------------------------------------------


def nothing(number: int) -> int:
    """The task of the pool that we are compared with."""
    return number


def pool_rate(tasks: int) -> float:
    """Tasks a second of a process pool's map with chunksize 1, from its making to its end."""
    begun = time.perf_counter()
    with ProcessPoolExecutor(cores()) as pool:
        for _ in pool.map(nothing, range(tasks), chunksize=1):
            pass
    return tasks / (time.perf_counter() - begun)


def our_rate(tasks: int) -> float:
    """Tasks a second of a whole submit: a no-op kernel, one block a task, one ledger row a task."""
    with noop(tasks) as path:
        begun = time.perf_counter()
        result = submit(path, "--task-blocks", "1")
        spent = time.perf_counter() - begun
    assert sum(node["tasks"] for node in result["nodes"]) == tasks
    return tasks / spent


def tasks(count: int = 40_000) -> None:
    """No-op tasks, end to end, durability as shipped, against a pool that keeps nothing."""
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(our_rate(count))
        theirs.append(pool_rate(count))
    rates = f"{median(ours):,.0f} and {median(theirs):,.0f} tasks/s"
    detail = f"{rates}, {count} tasks, {cores()} slots"
    ratio = median(ours) / median(theirs)
    report("submit / ProcessPoolExecutor.map(chunksize=1)", ratio, 1, detail)


# -- help: what the command line costs --------------------------------------------------------


def wall(command: list[str]) -> float:
    """Seconds of a command."""
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
    return time.perf_counter() - begun


def help() -> None:  # noqa: A001 - named as the verb that it measures
    """`--help` against an interpreter that does nothing."""
    ours, theirs = [], []
    for _ in range(20):
        ours.append(wall([PYTHON, "-m", "cluster", "--help"]))
        theirs.append(wall([PYTHON, "-c", "pass"]))
    detail = f"{median(ours) * 1e3:.1f} and {median(theirs) * 1e3:.1f} ms"
    report("--help / python -c pass", median(ours) / median(theirs), 3, detail, most=True)


# -- memory: does it grow with the number of tasks --------------------------------------------


def peak_mib(command: list[str], kill_at: int | None = None, store: Path | None = None) -> float:
    """Peak resident memory of a command; with `kill_at` it is killed at so many counted blocks."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, resident_peak(process.pid))
        if kill_at is not None and store is not None and counted(store) >= kill_at:
            process.kill()
        time.sleep(0.05)
    return peak


def resident_peak(pid: int) -> float:
    """The kernel's own high-water mark of a process, in MiB."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    line = next((line for line in text.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(line.split()[1]) / 1024


def counted(store: Path) -> int:
    """Blocks of the newest run of a store, as a reader sees them."""
    if not (store / "ledger.sqlite").exists():
        return 0
    done = command("ls", "--store", str(store), "--json")
    rows = json.loads(done) if done else []
    return (rows[0]["blocks"] or 0) if rows else 0


def memory(count: int = 1_000_000) -> None:
    """Peak memory of the dispatcher over 10^6 one-block tasks, and over a resume at 90 %."""
    with noop(count) as path, tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        run = [PYTHON, "-m", "cluster", "submit", str(path), "--json", "--quiet"]
        peak = peak_mib([*run, "--task-blocks", "1", "--store", str(whole)])
        report("peak memory of a submit, MiB", peak, 200, f"{count} one-block tasks", most=True)
        broken = Path(folder, "broken")
        peak_mib([*run, "--task-blocks", "1", "--store", str(broken)], count * 9 // 10, broken)
        (row,) = json.loads(command("ls", "--store", str(broken), "--json"))
        again = [PYTHON, "-m", "cluster", "resume", row["run"], "--store", str(broken), "--json"]
        peak = peak_mib(again)
        ended = json.loads(command("show", row["run"], "--store", str(broken), "--json"))
        detail = f"killed at {row['blocks']} of {count} blocks, ended {ended['state']}"
        report("peak memory of a resume, MiB", peak, 200, detail, most=True)


# -- the parts --------------------------------------------------------------------------------

PARTS: dict[str, Callable[[], None]] = {
    "kernels": kernels,
    "scaling": scaling,
    "tasks": tasks,
    "help": help,
    "memory": memory,
    **{name: partial(bench_hosts.measure, name) for name in bench_hosts.BACKENDS},
}


def main(names: list[str]) -> int:
    """Measure the named parts, or all; 1 if a target was missed."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    print(f"{cores()} cores of {model}, Python {platform.python_version()}, {platform.system()}")
    for name in names or list(PARTS):
        PARTS[name]()
    return 1 if missed else 0
