"""What the preloaded allocator costs ordinary work: each workload with and without it, in pairs, alternating in one run.

A measurement is a fresh process that imports, makes its data, then works; counted are user and system time and wall-clock
time from there to its end, the first touch of memory and the exit included. No Forebay runs here, only its library. The control row uses Python objects
alone, which the library does not serve: how far it is from 1.00 is the noise.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _lab import facts, median, options, record, show, size, touch

#: name -> (imports, data, work, repetitions)
WORK: dict[str, tuple[str, str, str, int]] = {
    "numpy temporaries": ("import numpy as np", "a = np.random.default_rng(1).random(N)", "b = a * 2 + 1; c = np.sqrt(b) + a; d = c[c > 1.5].sum()", 8),
    "numpy sort": ("import numpy as np", "a = np.random.default_rng(1).random(N)", "np.sort(a)", 3),
    "pandas groupby": ("import numpy as np, pandas as pd", "r = np.random.default_rng(1); p = pd.DataFrame({'k': r.integers(0, 50000, N), 'v': r.random(N)})", "p.groupby('k').agg({'v': ['sum', 'mean']})", 4),
    "pandas merge": ("import numpy as np, pandas as pd", "r = np.random.default_rng(1); p = pd.DataFrame({'k': r.integers(0, 50000, N), 'v': r.random(N)}); q = pd.DataFrame({'k': np.arange(50000), 'w': 1.0})", "p[p['v'] > 0.3].merge(q, on='k')", 4),
    "pandas sort": ("import numpy as np, pandas as pd", "r = np.random.default_rng(1); p = pd.DataFrame({'k': r.integers(0, 50000, N), 'v': r.random(N)})", "p.sort_values('v')", 2),
    "pandas strings": ("import numpy as np, pandas as pd", "s = pd.Series(['item %d' % (n * 7919 % 100003) for n in range(N // 8)])", "s.str.upper().str.replace('ITEM', 'thing').str.len().sum()", 4),
    "polars groupby": ("import numpy as np, polars as pl", "r = np.random.default_rng(1); p = pl.DataFrame({'k': r.integers(0, 50000, N), 'v': r.random(N)})", "p.group_by('k').agg(pl.col('v').sum(), pl.col('v').max().alias('m'))", 8),
    "polars join": ("import numpy as np, polars as pl", "r = np.random.default_rng(1); p = pl.DataFrame({'k': r.integers(0, 50000, N), 'v': r.random(N)}); q = pl.DataFrame({'k': np.arange(50000), 'w': 1.0})", "p.filter(pl.col('v') > 0.3).join(q, on='k')", 6),
    "polars sort": ("import numpy as np, polars as pl", "r = np.random.default_rng(1); p = pl.DataFrame({'k': r.integers(0, 50000, N), 'v': r.random(N)})", "p.sort('v')", 4),
    "polars strings": ("import polars as pl", "s = pl.DataFrame({'s': ['item %d' % (n * 7919 % 100003) for n in range(N // 4)]})", "s.select(pl.col('s').str.to_uppercase().str.replace('ITEM', 'thing').str.len_chars().sum())", 4),
    "duckdb aggregate": ("import numpy as np, pyarrow as pa, duckdb", "r = np.random.default_rng(1); t = pa.table({'k': r.integers(0, 500, N), 'v': r.random(N)})", "duckdb.sql('SELECT k, sum(v), max(v) FROM t GROUP BY k').to_arrow_table()", 12),
    "duckdb large aggregate": ("import numpy as np, pyarrow as pa, duckdb", "r = np.random.default_rng(1); t = pa.table({'k': r.integers(0, N, N), 'v': r.random(N)})", "duckdb.sql('SELECT k, sum(v) AS v FROM t GROUP BY k').to_arrow_table()", 2),
    "duckdb join": ("import numpy as np, pyarrow as pa, duckdb", "r = np.random.default_rng(1); t = pa.table({'k': r.integers(0, 50000, N), 'v': r.random(N)}); u = pa.table({'k': np.arange(50000), 'w': np.ones(50000)})", "duckdb.sql('SELECT t.k, v * w AS x FROM t JOIN u USING (k) WHERE v > 0.3').to_arrow_table()", 4),
    "arrow filter": ("import pyarrow as pa, pyarrow.compute as pc", "f = pc.random(N, initializer=1); t = pa.table({'f': f, 'g': pc.add(f, 1), 's': pc.cast(pc.cast(pc.multiply(f, 1000.0), pa.int64(), safe=False), pa.string())})", "t.filter(pc.less(t['f'], 0.7))", 8),
    "arrow sort": ("import pyarrow as pa, pyarrow.compute as pc", "f = pc.random(N, initializer=1); t = pa.table({'f': f, 'g': pc.add(f, 1)})", "t.sort_by('f')", 1),
    "arrow groupby": ("import pyarrow as pa, pyarrow.compute as pc", "f = pc.random(N, initializer=1); t = pa.table({'k': pc.cast(pc.multiply(f, 50000.0), pa.int64(), safe=False), 'g': pc.add(f, 1)})", "t.group_by('k').aggregate([('g', 'sum'), ('g', 'max')])", 6),
    "arrow csv read": ("import tempfile, pyarrow as pa, pyarrow.compute as pc, pyarrow.csv as csv", "f = pc.random(N // 2, initializer=1); w = tempfile.NamedTemporaryFile(suffix='.csv'); csv.write_csv(pa.table({'f': f, 'g': pc.add(f, 1)}), w.name)", "csv.read_csv(w.name)", 3),
    "arrow parquet read": ("import tempfile, pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq", "f = pc.random(N, initializer=1); w = tempfile.NamedTemporaryFile(suffix='.parquet'); pq.write_table(pa.table({'f': f, 's': pc.cast(pc.cast(pc.multiply(f, 1000.0), pa.int64(), safe=False), pa.string())}), w.name)", "pq.read_table(w.name)", 8),
}
CONTROL = "Python objects (control)"
ALL = {**WORK, CONTROL: ("import json", "o = [{'a': n, 'b': str(n)} for n in range(N // 40)]", "json.loads(json.dumps(o)); sorted(o, key=lambda x: x['b'])", 3)}

PROGRAM = """
import resource, sys, time
N = {rows}
{imports}
{data}
def work():
    {work}
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, time.monotonic(), flush=True)
for _ in range({repetitions}):
    work()
"""


def library() -> Path:
    """The library beside the installed package."""
    return Path(sysconfig.get_path("purelib")) / "forebay" / "preload.so"


def measure(program: str, preload: Path | None) -> dict[str, float]:
    """One process."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    if preload:
        environment["LD_PRELOAD"] = str(preload)
    reader, writer = os.pipe()
    popen = subprocess.Popen([sys.executable, "-I", "-c", program], env=environment, stdout=writer)
    os.close(writer)
    _, status, used = os.wait4(popen.pid, 0)
    ended = time.monotonic()
    popen.returncode = os.waitstatus_to_exitcode(status)
    with open(reader) as file:
        words = file.read().split()
    if popen.returncode:
        sys.exit(f"a workload ended with {popen.returncode}, preload {preload}:\n{program}")
    return {"cpu": used.ru_utime + used.ru_stime - float(words[0]), "wall": ended - float(words[1]), "rss": used.ru_maxrss * 1024}


def compare(name: str, rows: int, pairs: int, preload: Path) -> dict[str, Any]:
    """One workload: alternating pairs; the median of the pairs' ratios, and their quartiles."""
    imports, data, work, repetitions = ALL[name]
    program = PROGRAM.format(rows=rows, imports=imports, data=data, work=work, repetitions=repetitions)
    measure(program, None)  # brings files and idle memory back
    without, with_ = [], []
    for number in range(pairs):
        order = [(None, without), (preload, with_)]
        for library_, found in order if number % 2 else order[::-1]:
            found.append(measure(program, library_))
    result: dict[str, Any] = {"name": name}
    for what in ("cpu", "wall", "rss"):
        ratios = sorted(b[what] / a[what] for a, b in zip(without, with_))
        result[what] = median(one[what] for one in without)
        result[f"{what}_ratio"] = median(ratios)
        result[f"{what}_quartiles"] = [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]]
    return result


def main() -> None:
    """Every workload."""
    parser = options(__doc__, library={"type": Path, "help": "the preload library; beside the installed package unless told"}, pairs={"type": int, "help": "7 unless told"}, rows={"type": int, "help": "2 million unless told"}, only={"help": "workloads whose name holds this word"})
    asked = parser.parse_args()
    preload = (asked.library or library()).resolve()
    if not preload.exists():
        sys.exit(f"there is no {preload}: install the package, or name the library with --library")
    pairs = asked.pairs or (1 if asked.quick else 7)
    rows = asked.rows or (200_000 if asked.quick else 2_000_000)
    mapped = [sys.executable, "-I", "-c", f"import sys; sys.exit({str(preload)!r} not in open('/proc/self/maps').read())"]
    if subprocess.run(mapped, env=dict(os.environ, LD_PRELOAD=str(preload))).returncode:
        sys.exit(f"{preload} does not load")
    # Not imported here: a process starts with the maximum RSS of the one that started it.
    machine = facts({package: version(package) for package in ("pyarrow", "pandas", "polars", "duckdb", "numpy")})
    print(json.dumps(machine))
    touch(1 << 30)
    results = []
    for name in ALL:
        if asked.only and asked.only not in name:
            continue
        results.append(compare(name, rows, pairs, preload))
        print(f"{name}: CPU {results[-1]['cpu_ratio']:.2f}", file=sys.stderr, flush=True)
    show(
        ["workload", "CPU s", "CPU ratio", "quartiles", "wall ratio", "quartiles", "max RSS", "RSS ratio"],
        [[one["name"], one["cpu"], f"{one['cpu_ratio']:.3f}", "{:.2f}-{:.2f}".format(*one["cpu_quartiles"]), f"{one['wall_ratio']:.3f}", "{:.2f}-{:.2f}".format(*one["wall_quartiles"]), size(one["rss"]), f"{one['rss_ratio']:.2f}"] for one in results],
    )
    means = {}
    for what in ("cpu", "wall", "rss"):
        logarithms = [math.log(one[f"{what}_ratio"]) for one in results if one["name"] != CONTROL]
        means[what] = math.exp(sum(logarithms) / len(logarithms)) if logarithms else float("nan")
    print("geometric mean without the control: " + "   ".join(f"{what} {value:.3f}" for what, value in means.items()) + "   bytes copied 0 (nothing is handed over)")
    record("preload", asked.quick or bool(asked.only), machine, pairs=pairs, rows=rows, results=results, geometric_mean=means)


if __name__ == "__main__":
    main()
