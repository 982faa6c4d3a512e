"""Tables are born in shared memory: what libraries return is passed on where it is, nothing else is, and nobody can change it."""

from __future__ import annotations

import resource
import subprocess
from typing import Any

import pyarrow as pa
import pytest
from conftest import FOREBAY, Lab, node

ROWS = 1_000_000


def share(one: dict[str, Any]) -> float:
    """The part of a table's bytes that was not copied."""
    total = one["bytes_referenced"] + one["bytes_reshared"] + one["bytes_copied"] + one["bytes_inline"]
    return (one["bytes_referenced"] + one["bytes_reshared"]) / total


NUMPY = f"""
import numpy as np
n = {ROWS}
numbers = np.arange(n, dtype="int64")
"""

ARROW = (
    NUMPY
    + """
import pyarrow.compute as pc
table = pa.table({"i": numbers, "f": numbers * 0.5, "s": pc.binary_join_element_wise("a string number", pc.cast(numbers, pa.string()), " ")})
"""
)

PRODUCERS = {
    "numpy": (NUMPY + 'result = pa.table({"x": numbers * 2, "y": np.sqrt(numbers)})', 0.995),
    "arrow": (ARROW + "result = table", 0.995),
    "arrow_filter": (ARROW + 'result = table.filter(pc.greater(table["i"], 1000))', 0.995),
    "arrow_sort": (ARROW + 'result = table.sort_by([("i", "descending")])', 0.995),
    "arrow_group": (ARROW + 'result = table.group_by(pc.bit_wise_and(table["i"], 0x7ffff) if False else "i").aggregate([("f", "sum")])', 0.995),
    "arrow_nested": (
        ARROW + 'lists = pa.ListArray.from_arrays(pa.array(np.arange(0, n + 1, 4), pa.int32()), table["s"].chunk(0) if table["s"].num_chunks == 1 else table["s"].combine_chunks())\n'
        'result = pa.table({"l": lists, "t": pa.StructArray.from_arrays([pa.array(numbers[: n // 4]), pa.array(numbers[: n // 4] * 0.1)], ["a", "b"])})',
        0.995,
    ),
    "arrow_dictionary": (ARROW + 'result = pa.table({"d": pc.dictionary_encode(pc.cast(pa.array(numbers % 1000), pa.string())), "i": numbers})', 0.985),
    "arrow_slice": (ARROW + "result = table.slice(1000, n // 2)", 0.995),
    "arrow_chunks": (ARROW + "result = pa.Table.from_batches(table.to_batches(max_chunksize=50_000))", 0.985),
    "pandas": (ARROW + 'import pandas as pd\nresult = pd.DataFrame({"x": numbers, "y": numbers * 0.5})\nresult["z"] = result.x + result.y', 0.995),
    "pandas_filter": (ARROW + 'import pandas as pd\nresult = pd.DataFrame({"x": numbers, "y": numbers * 0.5})\nresult = result[result.x % 3 == 0]', 0.985),
    "pandas_strings": (ARROW + "result = table.to_pandas()", 0.985),
    "polars": (ARROW + 'import polars as pl\nresult = pl.from_arrow(table).with_columns(z=pl.col("i") * 3)', 0.995),
    "polars_filter": (ARROW + 'import polars as pl\nresult = pl.from_arrow(table).filter(pl.col("i") % 2 == 0)', 0.985),
    "polars_sort": (ARROW + 'import polars as pl\nresult = pl.from_arrow(table).sort("f", descending=True)', 0.995),
    "polars_group": (ARROW + 'import polars as pl\nresult = pl.from_arrow(table).group_by("i").agg(pl.col("f").sum())', 0.995),
    "duckdb": (ARROW + 'import duckdb\nresult = duckdb.sql("SELECT i, f, s FROM table WHERE i > 10").to_arrow_table()', 0.985),
}


@pytest.mark.parametrize("producer", PRODUCERS)
def test_what_libraries_return_is_not_copied(lab: Lab, producer: str) -> None:
    code, least = PRODUCERS[producer]
    code = code.replace("FROM table", "FROM source").replace("result = duckdb", "source = table\nresult = duckdb")
    body = "\n".join(f"    {line}" for line in code.strip().splitlines())
    packages = '@forebay.python("3.11", pip={"pyarrow": "", "numpy": "", "pandas": "", "polars": "", "duckdb": ""})\n'
    models = f"{packages}@forebay.model()\ndef made():\n{body}\n    return result\n"
    models += f'{packages}@forebay.model()\ndef read(data=forebay.Model("made")):\n    return {{"rows": [data.num_rows], "ok": [data.validate(full=True) is None]}}\n'
    result = lab.run(lab.project(models)).ok().json
    made = node(result, "made")
    assert share(made) >= least, made
    assert made["bytes_reshared"] == 0


def test_a_scan_and_a_query_are_not_copied(lab: Lab) -> None:
    table = pa.table({"i": range(ROWS), "f": [n * 0.5 for n in range(ROWS)], "s": [f"a string number {n}" for n in range(ROWS)]})
    lab.load("source", table)
    models = {
        "twice.sql": "SELECT i * 2 AS i, f, s FROM source",
        "sorted.sql": "SELECT i, f FROM twice ORDER BY f DESC",
        "models.py": 'import forebay\n@forebay.model()\ndef last(a=forebay.Model("sorted"), b=forebay.Model("twice")):\n    return {"n": [a.num_rows + b.num_rows]}\n',
    }
    result = lab.run(lab.project(models)).ok().json
    scan = next(one for one in result["nodes"] if one["kind"] == "scan")
    for one in (scan, node(result, "twice"), node(result, "sorted")):
        assert share(one) >= 0.995, one
    assert node(result, "twice")["bytes_reshared"] > 0, "columns that pass through are not made again"


@pytest.mark.parametrize("children", [3, 10])
def test_passing_through_copies_nothing(lab: Lab, children: int) -> None:
    models = f"@forebay.model()\ndef parent():\n    import numpy as np\n    return pa.table({{'x': np.arange({ROWS})}})\n"
    for n in range(children):
        models += f'@forebay.model()\ndef child_{n}(data=forebay.Model("parent")):\n    return data\n'
    packages = '@forebay.python("3.11", pip={"pyarrow": "", "numpy": ""})\n@forebay.model()'
    result = lab.run(lab.project(models.replace("@forebay.model()", packages))).ok().json
    for n in range(children):
        one = node(result, f"child_{n}")
        assert (one["bytes_copied"], one["bytes_reshared"]) == (0, 8 * ROWS), one


# What a child can see of its parent: every byte of every segment it maps, and of the files behind them.
SEEN = """
def seen():
    import re
    data = []
    for line in open("/proc/self/maps"):
        place, mode, *rest = line.split(None, 5)
        if "memfd:" in line and mode.startswith("r--"):
            start, end = (int(part, 16) for part in place.split("-"))
            import ctypes
            at = start
            while at < end:
                size = min(end - at, 1 << 24)
                data.append(ctypes.string_at(at, size))
                at += size
    return data
"""

PARENTS = {
    "heap": """
    import ctypes
    secrets = [bytearray(MARK * 200_000), ctypes.create_string_buffer(MARK * 100_000), [MARK + str(n).encode() for n in range(100_000)]]
    import numpy as np
    array = np.frombuffer(MARK * 1_000_000, dtype="uint8").copy()
    freed = np.frombuffer(MARK * 500_000, dtype="uint8").copy(); del freed
    return pa.table({"x": np.arange(100_000)})""",
    "column": """
    import numpy as np
    table = pa.table({"x": np.arange(200_000), "s": [MARK.decode() + str(n) for n in range(200_000)]})
    return table.select(["x"])""",
    "slice": """
    table = pa.table({"s": ["open" + str(n) if 50_000 <= n < 150_000 else MARK.decode() + str(n) for n in range(200_000)]})
    return table.slice(50_000, 100_000)""",
    "list": """
    table = pa.table({"l": [["open" + str(n), "more"] if 50_000 <= n < 150_000 else [MARK.decode() + str(n)] for n in range(200_000)]})
    return table.slice(50_000, 100_000)""",
    "arrow_filter": """
    import pyarrow.compute as pc
    table = pa.table({"x": range(200_000), "s": [MARK.decode() + str(n) if n % 2 else "open to everybody" + str(n) for n in range(200_000)]})
    return table.filter(pc.equal(pc.bit_wise_and(table["x"], 1), 0))""",
    "polars_filter": """
    import polars as pl
    frame = pl.DataFrame({"x": range(200_000), "s": [MARK.decode() + str(n) if n % 3 == 0 else "open to everybody" + str(n) for n in range(200_000)]})
    return frame.filter(pl.col("x") % 3 != 0)""",
    "polars_slice": """
    import polars as pl
    frame = pl.DataFrame({"s": ["open to everybody" + str(n) if 50_000 <= n < 150_000 else MARK.decode() + str(n) for n in range(200_000)]})
    return frame.slice(50_000, 100_000)""",
    "batches": """
    def batches():
        for start in range(0, 200_000, 20_000):
            yield pa.record_batch({"x": pa.array(range(start, start + 20_000))})
            secret = bytearray(MARK * 100_000)
    return pa.RecordBatchReader.from_batches(pa.schema({"x": pa.int64()}), batches())""",
}


@pytest.mark.parametrize("parent", PARENTS)
def test_a_child_sees_nothing_of_its_parent_but_the_table(lab: Lab, parent: str) -> None:
    packages = '@forebay.python("3.11", pip={"pyarrow": "", "numpy": "", "polars": ""})\n@forebay.model()\n'
    # The mark is put together at run time, so that no constant of the code holds it.
    models = SEEN + "\nMARK = bytes(reversed(b'=terces='))\n"
    models += f"{packages}def parent():{PARENTS[parent]}\n"
    models += (
        f'{packages}def child(data=forebay.Model("parent")):\n    pieces = seen()\n'
        "    return {'bytes': [sum(map(len, pieces))], 'marks': [sum(piece.count(MARK) for piece in pieces)], 'rows': [data.num_rows]}\n"
    )
    models += '@forebay.expectation()\ndef sees_nothing(data=forebay.Model("child")):\n    row = data.to_pylist()[0]\n    assert row["bytes"] > 500_000 and row["marks"] == 0, row\n    return True\n'
    lab.run(lab.project(models)).ok()


ATTACKS = {
    "memset": "ctypes.memset(address, 0, 4096)",
    "mprotect": "assert libc.mprotect(ctypes.c_void_p(page), 4096, 3) == -1; raise ValueError('refused')",
    "mremap": "new = libc.mremap(ctypes.c_void_p(page), 0, 4096, 1); assert libc.mprotect(ctypes.c_void_p(new), 4096, 3) == -1; raise ValueError('refused')",
    "memory_file": "memory = open('/proc/self/mem', 'r+b', buffering=0); memory.seek(address); memory.write(b'x' * 4096)",
    "descriptors": """
    for fd in os.listdir('/proc/self/fd'):
        try:
            if 'memfd:' in os.readlink('/proc/self/fd/' + fd):
                twin = os.open('/proc/self/fd/' + fd, os.O_RDWR)
                size = os.fstat(twin).st_size
                if size < 1 << 33:
                    os.pwrite(twin, b'x' * 4096, 0)
        except FileNotFoundError:
            pass
    raise ValueError('refused')""",
    "map_files": "line = next(l for l in open('/proc/self/maps') if 'memfd:' in l and l.split()[1] == 'r--s'); twin = os.open('/proc/self/map_files/' + line.split()[0].replace('-', '-'), os.O_RDWR); os.pwrite(twin, b'x' * 4096, 0)",
    "numpy": "numpy.asarray(data['x'].chunk(0).to_numpy())[:] = 0",
    "buffer": "memoryview(data['x'].chunk(0).buffers()[1])[0] = 1",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_writes_to_a_published_table(lab: Lab, attack: str) -> None:
    packages = '@forebay.python("3.11", pip={"pyarrow": "", "numpy": ""})\n'
    lines = "\n".join("    " + line.strip() if ATTACKS[attack].count("\n") == 0 else line for line in ATTACKS[attack].strip("\n").splitlines())
    gate, go = lab.gate("first"), lab.gate("second")
    models = f"""
{packages}@forebay.model()
def parent():
    import numpy
    return pa.table({{"x": numpy.arange({ROWS})}})

{packages}@forebay.model()
def attacker(data=forebay.Model("parent")):
    import ctypes, os, numpy
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mremap.restype = ctypes.c_void_p
    address = data["x"].chunk(0).buffers()[1].address
    page = address & ~4095
    try:
        pass
{chr(10).join("    " + line for line in lines.splitlines())}
    except Exception as error:
        print("refused:", repr(error))
    return {{"n": [0]}}

{packages}@forebay.model(materialization_strategy="REPLACE")
def reader(data=forebay.Model("parent"), after=forebay.Model("attacker")):
    import numpy
    assert (data["x"].to_numpy() == numpy.arange({ROWS})).all(), "the table has changed"
    return {{"sum": [int(data["x"].to_numpy().sum())]}}
"""
    done = lab.run(lab.project(models))
    if attack == "memset":
        assert done.code == 1, str(done)
        assert "RUN0011" in done.out, str(done)  # Killed by a signal: told as such, and nobody else is harmed.
        assert lab.tables() == []
    else:
        done.ok()
        assert "refused:" in done.err, str(done)
        assert lab.rows("SELECT sum FROM reader") == [{"sum": ROWS * (ROWS - 1) // 2}]


FORKS = {
    "fork": """
    big = numpy.arange(n)
    child = os.fork()
    if child == 0:
        big[:] = 7
        os._exit(0 if (big == 7).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (big == numpy.arange(n)).all()
    big += 1
    return pa.table({"x": big})""",
    "fork_while_alive": """
    reader, writer = os.pipe()
    big = numpy.arange(n)
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0 if (big == numpy.arange(n)).all() else 1)
    big += 1
    more = numpy.arange(n) + 1
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0, "the child saw what its parent wrote after the fork"
    assert (big == more).all()
    return pa.table({"x": more})""",
    "pool_fork": """
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as pool:
        parts = pool.map(square, [numpy.arange(100_000)] * 4)
    assert all((part == numpy.arange(100_000) ** 2).all() for part in parts)
    return pa.table({"x": numpy.arange(n) + 1})""",
    "many_forks": """
    keep = [numpy.full(50_000, k) for k in range(50)]
    for k in range(80):
        child = os.fork()
        if child == 0:
            keep[k % 50][:] = -1
            os._exit(0)
        keep[k % 50] = numpy.full(50_000, k % 50)
        os.waitpid(child, 0)
    assert all((part == k).all() for k, part in enumerate(keep))
    return pa.table({"x": numpy.arange(n) + 1})""",
    "threads": """
    import threading
    failed = []
    def work(seed):
        for k in range(200):
            size = 10_000 + (seed * 7919 + k * 104729) % 300_000
            part = numpy.full(size, seed * 1000 + k)
            other = numpy.zeros(size)
            if not (part == seed * 1000 + k).all() or other.any():
                failed.append((seed, k))
    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    [worker.start() for worker in workers]
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    [worker.join() for worker in workers]
    assert not failed, failed
    return pa.table({"x": numpy.arange(n) + 1})""",
    "subprocess": """
    import subprocess, sys
    assert subprocess.run(["/bin/sh", "-c", "echo $LD_PRELOAD$FOREBAY_ARENA_LIMIT"], stdout=subprocess.PIPE).stdout == b"\\n"
    out = subprocess.run([sys.executable, "-c", "print(sum(range(10)))"], stdout=subprocess.PIPE).stdout
    assert out == b"45\\n", out
    return pa.table({"x": numpy.arange(n) + 1})""",
    "late_writer": """
    import atexit, threading
    big = numpy.arange(n) + 1
    other = numpy.arange(n)
    atexit.register(lambda: [numpy.ones(200_000) for _ in range(20)])
    return pa.table({"x": big})""",
    "freed_late": """
    table = pa.table({"x": numpy.arange(n) + 1})
    class Late:
        def __init__(self, table): self.table = table
        def __arrow_c_stream__(self, schema=None): return self.table.__arrow_c_stream__(schema)
        def __del__(self): self.table = None; numpy.zeros(n)
    return Late(table)""",
    "mmap": """
    import mmap
    area = mmap.mmap(-1, 64 << 20)
    area.write(b"x" * (8 << 20))
    del area
    private = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    private.write((numpy.arange(1 << 20) + 1).tobytes())
    return pa.table({"x": numpy.concatenate([numpy.frombuffer(private, dtype="int64", count=n)])})""",
}


@pytest.mark.parametrize("fork", FORKS)
def test_forks_and_threads_see_their_own_memory(lab: Lab, fork: str) -> None:
    packages = '@forebay.python("3.11", pip={"pyarrow": "", "numpy": ""})\n'
    models = f"""
def square(part):
    return part ** 2

{packages}@forebay.model()
def made():
    import os, numpy
    n = {ROWS}
{FORKS[fork].lstrip(chr(10))}

{packages}@forebay.model(materialization_strategy="REPLACE")
def checked(data=forebay.Model("made")):
    import numpy
    assert (data["x"].to_numpy() == numpy.arange({ROWS}) + 1).all()
    return {{"rows": [data.num_rows]}}
"""
    lab.run(lab.project(models)).ok()
    assert lab.rows("SELECT rows FROM checked") == [{"rows": ROWS}]


def test_multiprocessing_spawn(lab: Lab) -> None:
    packages = '@forebay.python("3.11", pip={"pyarrow": "", "numpy": "", "joblib": ""})\n'
    models = f"""
def square(part):
    return part ** 2

{packages}@forebay.model(materialization_strategy="REPLACE")
def made():
    import numpy
    from joblib import Parallel, delayed
    parts = Parallel(n_jobs=2, backend="loky")(delayed(square)(numpy.arange(200_000)) for _ in range(4))
    assert all((part == numpy.arange(200_000) ** 2).all() for part in parts)
    return pa.table({{"x": numpy.concatenate(parts)}})
"""
    one = node(lab.run(lab.project(models)).ok().json, "made")
    assert one["rows"] == 800_000 and share(one) > 0.98, one


def test_ten_thousand_columns(lab: Lab) -> None:
    models = """
@forebay.model()
def wide():
    return pa.table({f"c{n}": pa.array([n, n + 1, n + 2] * 100) for n in range(10_000)})

@forebay.model(materialization_strategy="REPLACE")
def last(data=forebay.Model("wide")):
    assert data["c9999"].to_pylist()[:3] == [9999, 10000, 10001]
    return data.select(["c0", "c9999"])
"""
    result = lab.run(lab.project(models)).ok().json
    assert node(result, "last")["bytes_copied"] == 0
    assert lab.rows("SELECT max(c9999) AS m FROM last") == [{"m": 10001}]


def test_few_descriptors(lab: Lab) -> None:
    """With 256 open files a run of several dozen tables works."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))  # noqa: E731
    subprocess.run([FOREBAY, "daemon", "start"], env=lab.environment, check=True, preexec_fn=limits, capture_output=True)
    models = "".join(f"@forebay.model()\ndef m{n}():\n    return pa.table({{'x': range(20_000)}})\n" for n in range(40))
    arguments = ", ".join(f'm{n}=forebay.Model("m{n}")' for n in range(40))
    models += f'@forebay.model(materialization_strategy="REPLACE")\ndef last({arguments}):\n    return {{"n": [sum(t.num_rows for t in locals().values())]}}\n'
    lab.run(lab.project(models)).ok()
    assert lab.rows("SELECT n FROM last") == [{"n": 800_000}]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
