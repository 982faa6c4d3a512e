"""How many bytes of an output are handed on where they were born, by the library that made them.

One model per producer, all in one project, run once: the share of bytes that are referenced or reshared, and why the rest
was copied. Then a pass-through pipeline of one table with 3 and with 10 children: bytes copied and peak memory. Nothing is
timed here, so it can be run on a busy machine.
"""

from __future__ import annotations

import json
from typing import Any

from _lab import GIB, MIB, Lab, Memory, facts, options, record, show, size

#: name -> (whether the promise is 99.5 % and not 98.5 %, body of the function)
PRODUCERS: dict[str, tuple[bool, str]] = {
    "numpy": (True, "return pa.table({'a': numpy.arange(ROWS), 'b': numpy.random.default_rng(1).random(ROWS)})"),
    "arrow_compute": (True, "n = numbers(); return pa.table({'a': pc.add(n['i'], 1), 'b': pc.multiply(n['f'], 2.5)})"),
    "arrow_filter": (True, "n = numbers(); return n.filter(pc.less(n['f'], 0.7))"),
    "arrow_sort": (True, "return numbers().sort_by('f')"),
    "arrow_groupby": (True, "return numbers().group_by('k').aggregate([('f', 'sum'), ('i', 'max')])"),
    "arrow_parquet": (True, "import pyarrow.parquet as pq; return pq.read_table(PARQUET)"),
    "arrow_csv": (True, "import pyarrow.csv as csv; return csv.read_csv(CSV)"),
    "arrow_nested": (True, "n = numbers(); s = pa.StructArray.from_arrays([flat(n['i']), flat(n['f'])], names=['i', 'f']); o = pa.array(numpy.arange(0, ROWS + 1, 4, dtype='int32')); return pa.table({'l': pa.ListArray.from_arrays(pc.add(o, 0), pc.take(s, pc.array_sort_indices(flat(n['f']))))})"),
    "arrow_dictionary": (True, "t = text(); d = pa.table({'d': t['s'].dictionary_encode(), 'f': t['f']}); return d.filter(pc.less(d['f'], 0.7))"),
    "pandas_numeric": (True, "p = numbers().to_pandas(); p['g'] = p['f'] * 2 + p['i']; return p"),
    "pandas_filter": (True, "p = numbers().to_pandas(); return p[p['f'] < 0.7]"),
    "pandas_str": (True, "p = text().to_pandas(); p['u'] = p['s'].astype('str').str.upper(); return p"),
    "pandas_object": (True, "p = text(ROWS // 4).to_pandas(); p['o'] = p['s'].astype(object); return p[['o', 'f']]"),
    "pandas_nullable": (True, "p = numbers().to_pandas().convert_dtypes(); p.loc[::7, 'i'] = pandas.NA; return p"),
    "pandas_categorical": (True, "p = text().to_pandas(); p['c'] = p['s'].astype('category'); return p[['c', 'f']]"),
    "pandas_groupby": (True, "return numbers().to_pandas().groupby('k', as_index=False).agg({'f': 'sum', 'i': 'max'})"),
    "polars_expr": (True, "p = polars.from_arrow(numbers()); return p.with_columns((polars.col('f') * 2 + polars.col('i')).alias('g'))"),
    "polars_strings": (True, "p = polars.from_arrow(text()); return p.with_columns(('https://example.org/' + polars.col('s')).alias('u'))"),
    "polars_groupby": (True, "return polars.from_arrow(numbers()).group_by('k').agg(polars.col('f').sum(), polars.col('i').max())"),
    "polars_categorical": (True, "p = polars.from_arrow(text()); return p.with_columns(polars.col('s').cast(polars.Categorical))"),
    "duckdb_scan": (False, "n = numbers(); return duckdb.sql('SELECT i + 1 AS i, f FROM n WHERE f < 0.7')"),
    "duckdb_aggregate": (False, "n = numbers(); return duckdb.sql('SELECT k, sum(f) AS f, max(i) AS i FROM n GROUP BY k')"),
}

HEADER = """
import forebay

ROWS = {rows}
PARQUET = {parquet!r}
CSV = {csv!r}


def numbers(rows=ROWS):
    import pyarrow as pa, pyarrow.compute as pc
    f = pc.random(rows, initializer=1)
    i = pc.cast(pc.multiply(f, 1e12), pa.int64(), safe=False)
    return pa.table({{"k": pc.cast(pc.multiply(pc.random(rows, initializer=2), rows / 4), pa.int64(), safe=False), "i": i, "f": f}})


def text(rows=ROWS):
    import pyarrow as pa, pyarrow.compute as pc
    f = pc.random(rows, initializer=3)
    keys = pc.cast(pc.cast(pc.multiply(f, 10000.0), pa.int64(), safe=False), pa.string())
    return pa.table({{"s": pc.binary_join_element_wise("category number ", keys, ""), "f": f}})


def flat(column):
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
"""

MODEL = """

@forebay.model()
@forebay.python(pip={{"numpy": "", "pandas": "", "polars": "", "duckdb": ""}})
def {name}():
    import duckdb, numpy, pandas, polars, pyarrow as pa, pyarrow.compute as pc
    {body}
"""

SQL = {
    "sql_numbers": "SELECT k, i + 1 AS i, f * 2 AS g FROM bench_source WHERE f < 0.7\n",
    "sql_strings": "SELECT s, upper(s) AS u FROM bench_source ORDER BY f\n",
    "sql_groupby": "SELECT k, sum(f) AS f, max(i) AS i FROM bench_source GROUP BY k\n",
}

# It reads the lake's table, so that the run has a scan to look at; the scan's table passes through.
SCAN = """

@forebay.model()
def of_the_scan(data=forebay.Model("bench_source")):
    return data
"""

PARENT = """
import forebay


@forebay.model()
def parent():
    import pyarrow as pa, pyarrow.compute as pc
    return pa.table({{f"c{{n}}": pc.random({rows}, initializer=n) for n in range(8)}})
"""
CHILD = """

@forebay.model()
def child_{n}(data=forebay.Model("parent")):
    import pyarrow.compute as pc
    for column in data.columns:
        pc.sum(column)
    return data
"""


def source(lab: Lab, rows: int) -> tuple[str, str]:
    """Files to read, and the table `bench_source` of the lake."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet as pq

    f = pc.random(rows, initializer=1)
    k = pc.cast(pc.multiply(pc.random(rows, initializer=2), rows / 4), pa.int64(), safe=False)
    table = pa.table({"k": k, "i": pc.cast(pc.multiply(f, 1e12), pa.int64(), safe=False), "f": f, "s": pc.binary_join_element_wise("category number ", pc.cast(k, pa.string()), "")})
    parquet, csv = lab.folder / "source.parquet", lab.folder / "source.csv"
    lab.let_read(parquet, csv)
    pq.write_table(table, parquet)
    pa.csv.write_csv(table, csv)
    lab.forebay("table", "create", "bench_source", "--search-uri", parquet, "-b", "main")
    lab.forebay("table", "import", "bench_source", "--search-uri", parquet, "-b", "main")
    return str(parquet), str(csv)


def share(node: dict[str, Any]) -> float | None:
    """Bytes handed on where they were, of all bytes."""
    kept = node["bytes_referenced"] + node["bytes_reshared"]
    total = kept + node["bytes_copied"] + node["bytes_inline"]
    return kept / total if total else None


def reasons(node: dict[str, Any]) -> str:
    """Why bytes were copied."""
    return ", ".join(f"{copied['reason']} {size(copied['bytes'])}" for copied in node.get("copies") or ())


def producers(lab: Lab, rows: int) -> list[dict[str, Any]]:
    """Runs every producer once and prints the shares."""
    parquet, csv = source(lab, rows)
    models = HEADER.format(rows=rows, parquet=parquet, csv=csv)
    models += "".join(MODEL.format(name=name, body=body) for name, (_, body) in PRODUCERS.items()) + SCAN
    run = lab.run(lab.project({"models.py": models, **{f"{name}.sql": query for name, query in SQL.items()}}))
    lines, missed = [], []
    for node in run.result["nodes"]:
        if not node.get("bytes"):
            continue
        name, found = node["name"], share(node)
        wanted = 0.985 if name in PRODUCERS and not PRODUCERS[name][0] else 0.995
        lines.append({"name": name, "kind": node["kind"], "share": found, "bytes_copied": node["bytes_copied"], "copies": node.get("copies")})
        if found is not None and found < wanted:
            missed.append(f"{name} {found:.2%} (of {wanted:.1%})")
        node["row"] = [name, node["kind"], size(node["bytes"]), f"{found:.2%}" if found is not None else "-", size(node["bytes_reshared"]), size(node["bytes_copied"]), size(node["bytes_inline"]), reasons(node)]
    show(["producer", "kind", "table", "kept", "reshared", "copied", "inline", "why copied"], [node["row"] for node in run.result["nodes"] if "row" in node])
    print("below what is promised: " + (", ".join(missed) or "none") + "\n")
    return lines


def pass_through(lab: Lab, bytes_: int) -> list[dict[str, Any]]:
    """A table and children that give it back."""
    rows, lines, printed = bytes_ // 64, [], []
    daemon = lab.daemon()
    for children in (3, 10):
        models = PARENT.format(rows=rows) + "".join(CHILD.format(n=n) for n in range(children))
        with Memory([daemon], interval_s=0.01) as memory:
            run = lab.run(lab.project({"models.py": models}), peak=memory)
        total = run.node("parent")["bytes"]
        given = [f"child_{n}" for n in range(children)]
        line = {"children": children, "bytes": total, "bytes_copied": run.bytes("copied"), "bytes_reshared": run.bytes("reshared", given),
                "shared_peak_bytes": memory.shared, "anonymous_peak_bytes": memory.anonymous}
        lines.append(line)
        printed.append([f"{children} children", size(total), size(line["bytes_copied"]), size(line["bytes_reshared"]), size(memory.shared), f"{memory.shared / total:.3f}", size(memory.anonymous)])
    show(["pass-through", "table", "copied", "reshared", "shared memory, peak", "of the table", "private memory, peak"], printed)
    return lines


def main() -> None:
    """Both parts."""
    asked = options(__doc__, rows={"type": int, "help": "rows of each table; 4 million unless told"}).parse_args()
    rows = asked.rows or (200_000 if asked.quick else 4_000_000)
    machine = facts()
    print(json.dumps(machine))
    with Lab("matrix") as lab:
        lines = producers(lab, rows)
        through = pass_through(lab, (64 * MIB if asked.quick else GIB // 2))
    record("matrix", asked.quick, machine, rows=rows, producers=lines, pass_through=through)


if __name__ == "__main__":
    main()
