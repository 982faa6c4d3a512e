"""Memory of pipelines over long texts, 1 to 16 at a time: what their tables share, and what each pipeline adds.

A pipeline is filter (half of the rows), sort, add a column, filter (half again); all pipelines read one table, and every
table stays until the end, when one function has looked at all of them. Forebay runs it with Polars functions and with SQL
models; the baseline (a) runs the Polars functions in as many workers as there are processors, already started, and keeps
every table as an Arrow IPC file on /dev/shm. Runs that would pass the memory limit are ended and said to be over it.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import queue
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from _chains import STEPS, sql
from _lab import BENCH, GIB, Lab, Memory, available, facts, options, record, show, size, touch

KINDS = {"polars": "Forebay, Polars", "sql": "Forebay, SQL", "ipc-file": "(a) IPC files, Polars"}
TEXT_BYTES = 150

SOURCE = """
import forebay


@forebay.model()
@forebay.python(pip={"polars": ""})
def source(data=forebay.Model("bench_source")):
    import sys, pyarrow, polars
    print("note python", sys.executable)
    print("note pyarrow", pyarrow.__version__)
    print("note polars", polars.__version__)
    return data
"""
STEP = """

@forebay.model()
@forebay.python(pip={{"polars": ""}})
def {name}(data: "pl.DataFrame" = forebay.Model("{source}")):
    from shared import chains
    return chains.run("{step}", {chain}, data)
"""
END = """

@forebay.model()
@forebay.python(pip={{"polars": ""}})
def end({inputs}):
    return {{"rows": [table.height for table in ({names},)]}}
"""


def names(chains: int) -> list[tuple[str, str, str, int]]:
    """(name, what it reads, step, chain) of every step, an order in which they can run."""
    found = []
    for chain in range(chains):
        source = "source"
        for step in STEPS:
            found.append((f"c{chain}_{step}", source, step, chain))
            source = f"c{chain}_{step}"
    return found


def project(lab: Lab, kind: str, chains: int) -> Path:
    """All chains as one project."""
    files = {"shared/chains.py": (BENCH / "_chains.py").read_text()}
    models = SOURCE
    for name, source, step, chain in names(chains):
        if kind == "sql":
            files[f"{name}.sql"] = sql(step, chain, source)
        else:
            models += STEP.format(name=name, source=source, step=step, chain=chain)
    tables = ["source"] + [name for name, *_ in names(chains)]
    # As Polars frames: a pyarrow.Table would hold plain strings, made from the views, of all tables.
    inputs = ", ".join(f'{name}: "pl.DataFrame" = forebay.Model("{name}")' for name in tables)
    files["models.py"] = models + END.format(inputs=inputs, names=", ".join(tables))
    return lab.project(files)


def make_source(lab: Lab, bytes_: int) -> Path:
    """The table of texts, as Parquet and in the lake."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = bytes_ // (TEXT_BYTES + 4 + 16)

    def words(seed: int) -> pa.Array:
        return pc.cast(pc.cast(pc.multiply(pc.random(rows, initializer=seed), 1e17), pa.int64(), safe=False), pa.string())

    text = pc.binary_join_element_wise(pa.scalar("https://www.example.org/articles"), *[words(seed) for seed in range(7)], "/")
    path = lab.folder / "source.parquet"
    pq.write_table(pa.table({"id": pa.array(range(rows), pa.int64()), "score": pc.random(rows, initializer=99), "url": text}), path)
    lab.forebay("table", "create", "bench_source", "--search-uri", path, "-b", "main")
    lab.forebay("table", "import", "bench_source", "--search-uri", path, "-b", "main")
    return path


def through_forebay(lab: Lab, kind: str, chains: int, limit: int) -> dict[str, Any]:
    """One run without and one with a look at memory."""
    daemon = lab.daemon()
    folder = project(lab, kind, chains)
    with Memory([daemon], limit=limit) as memory:
        looked = lab.run(folder, peak=memory)
    if memory.stopped:
        return {"over": True}
    run = lab.run(folder)
    ours = [name for name, *_ in names(chains)]
    ways = {way: looked.bytes(way, ours) for way in ("referenced", "reshared", "copied", "inline")}
    return {"seconds": run.seconds, "peak": memory.peak, "tables": memory.shared, "source": looked.node("source")["bytes"], **ways}


class Workers:
    """Processes that execute steps, one task each at a time."""

    def __init__(self, python: str, count: int) -> None:
        command = [python, "-u", str(BENCH / "_chains.py")]
        self.all = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        self.idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        for worker in self.all:
            assert worker.stdout and worker.stdout.readline()
            self.idle.put(worker)

    def execute(self, task: dict[str, Any]) -> dict[str, Any]:
        """Runs one task in the next idle worker."""
        worker = self.idle.get()
        assert worker.stdin and worker.stdout
        try:
            worker.stdin.write(json.dumps(task) + "\n")
            worker.stdin.flush()
            return json.loads(worker.stdout.readline() or '{"bytes": 0, "ended": true}')
        except BrokenPipeError:
            return {"bytes": 0, "ended": True}
        finally:
            self.idle.put(worker)

    def end(self) -> None:
        """Ends them all."""
        for worker in self.all:
            assert worker.stdin
            try:
                worker.stdin.close()
            except BrokenPipeError:
                pass
            worker.wait()


def through_files(lab: Lab, python: str, parquet: Path, chains: int, limit: int) -> dict[str, Any]:
    """The same twice, with files on /dev/shm between steps; chains side by side, steps of a chain one after the other."""
    result: dict[str, Any] = {}
    for looking in (True, False):
        workers = Workers(python, os.cpu_count() or 1)
        memory = Memory([worker.pid for worker in workers.all], lab.shm, limit=limit)
        copied = [0]
        lock = threading.Lock()

        def task(step: str, chain: int, inputs: list[str], output: str) -> None:
            paths = [path if path.startswith("/") else str(lab.shm / path) for path in inputs]
            done = workers.execute({"step": step, "chain": chain, "inputs": paths, "output": str(lab.shm / output)})
            with lock:
                copied[0] += done["bytes"] if chain >= 0 else 0

        def chain_of(chain: int) -> None:
            for name, source, step, number in names(chains):
                if number == chain:
                    task(step, chain, [source], name)

        def all_of_it() -> None:
            task("source", -1, [str(parquet)], "source")
            with concurrent.futures.ThreadPoolExecutor(chains) as pool:
                list(pool.map(chain_of, range(chains)))
            task("end", -1, [name for name, *_ in names(chains)], "end")

        start = time.perf_counter()
        if looking:
            with memory:
                all_of_it()
            result = {"peak": memory.peak, "tables": memory.shared, "over": memory.stopped, "copied": copied[0], "source": (lab.shm / "source").stat().st_size}
        else:
            all_of_it()
            result["seconds"] = time.perf_counter() - start
        workers.end()
        for path in lab.shm.iterdir():
            path.unlink()
        if memory.stopped:
            return {"over": True}
    return result


def made(one: dict[str, Any]) -> int:
    """Bytes that the steps of all chains made anew."""
    return one["copied"] + one.get("referenced", 0)


def report(found: dict[str, dict[int, dict[str, Any]]], limit: int) -> list[dict[str, Any]]:
    """Prints all counts of chains and gives the lines of the history."""
    rows, lines = [], []
    for kind, by_count in found.items():
        first = by_count.get(min(by_count), {})
        for count, one in by_count.items():
            if one.get("over"):
                rows.append([KINDS[kind], count, None, f"over {size(limit)}", None, None, None, None, None, None])
                lines.append({"kind": kind, "chains": count, "over": True})
                continue
            base = found.get("ipc-file", {}).get(count, {})
            one["made_per_chain"] = made(one) / count
            fewer = min(by_count)
            one["added_per_chain"] = (one["peak"] - first["peak"]) / (count - fewer) if count > fewer else None
            theirs = made(base) / made(one) if base.get("peak") else None
            rows.append([KINDS[kind], count, f"{one['seconds']:.2f}", size(one["peak"]), size(one["added_per_chain"]), size(one["made_per_chain"]), f"{theirs:.2f}" if theirs else None,
                         size(one["copied"]), size(one.get("reshared")), size(one.get("referenced"))])
            lines.append({"kind": kind, "chains": count, **one})
    show(["", "chains", "seconds", "peak", "added/chain", "made/chain", "(a)/this", "copied", "reshared", "referenced"], rows)
    for kind in ("polars", "sql"):
        both = [(count, one["added_per_chain"], found["ipc-file"][count].get("added_per_chain")) for count, one in found.get(kind, {}).items() if "ipc-file" in found and count in found["ipc-file"] and one.get("added_per_chain")]
        for count, ours, theirs in both[-1:]:
            if theirs:
                print(f"{KINDS[kind]}: with {count} chains (a) adds {theirs / ours:.1f} times the memory per chain, everything counted")
    print(flush=True)
    return lines


def main() -> None:
    """Every kind with 1 to 16 chains."""
    parser = options(__doc__, source={"type": float, "help": "GiB of the source table; 0.25 unless told"}, chains={"help": "comma separated; 1,2,4,8,16 unless told"},
                     limit={"type": float, "help": "GiB of memory a run may take; three quarters of what is free unless told"}, kinds={"default": ",".join(KINDS)})
    asked = parser.parse_args()
    bytes_ = int((asked.source or (0.02 if asked.quick else 0.25)) * GIB)
    counts = [int(text) for text in (asked.chains or ("1,2" if asked.quick else "1,2,4,8,16")).split(",")]
    limit = int(asked.limit * GIB) if asked.limit else available() * 3 // 4
    kinds = [kind for kind in KINDS if kind in asked.kinds.split(",")]
    with Lab("reshare") as lab:
        parquet = make_source(lab, bytes_)
        notes = lab.run(project(lab, "polars", 1)).notes  # builds the environment
        machine = facts({"pyarrow": notes["pyarrow"], "polars": notes["polars"]})
        print(json.dumps(machine))
        found: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in kinds}
        for count in counts:
            for kind in kinds:
                touch(min(bytes_ * 2 * count + GIB // 4, limit))
                if kind == "ipc-file":
                    found[kind][count] = through_files(lab, notes["python"], parquet, count, limit)
                else:
                    found[kind][count] = through_forebay(lab, kind, count, limit)
        lines = report(found, limit)
    record("reshare", asked.quick, machine, source_bytes=bytes_, limit_bytes=limit, results=lines)


if __name__ == "__main__":
    main()
