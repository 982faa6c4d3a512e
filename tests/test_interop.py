"""Other engines read our tables from their metadata files alone, and find equal values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from conftest import Lab
from pyiceberg.table import StaticTable
from test_types import EVERYTHING, plain

#: What an engine gets wrong by itself: PyIceberg 0.12 makes a null list of structs empty (pyarrow and DuckDB do not).
DEFECTS = {("PyIceberg", "list_of_structs")}


@pytest.fixture(scope="module")
def duck() -> duckdb.DuckDBPyConnection:
    """DuckDB with its Iceberg extension, loaded from the wheels' files; no network."""
    import duckdb_extension_avro
    import duckdb_extension_iceberg

    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    connection.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false; SET TimeZone = 'UTC'")
    for name, module in (("avro", duckdb_extension_avro), ("iceberg", duckdb_extension_iceberg)):
        [file] = Path(module.__file__).parent.glob(f"extensions/v{duckdb.__version__}/{name}.duckdb_extension")
        connection.execute(f"LOAD '{file}'")
    return connection


def by_pyiceberg(location: str) -> pa.Table:
    return StaticTable.from_metadata(location).scan().to_arrow()


def by_duckdb(duck: duckdb.DuckDBPyConnection, location: str) -> pa.Table:
    path = location.removeprefix("file://")
    return duck.execute(f"SELECT * FROM iceberg_scan('{path}')").to_arrow_table()


def values(table: pa.Table, names: list[str]) -> list[dict[str, Any]]:
    """Rows as comparable values, in an order that does not depend on the engine."""
    rows = [{name: value(row[name]) for name in names} for row in table.to_pylist()]
    return sorted(rows, key=str)


def value(one: Any) -> Any:
    """Whole decimals are numbers for everyone; -0.0 is 0.0; times of day and instants as text."""
    if isinstance(one, list):
        return [value(item) for item in one]
    if isinstance(one, dict):
        return {name: value(item) for name, item in one.items()}
    if hasattr(one, "astimezone") and getattr(one, "tzinfo", None) is not None:
        import datetime

        return one.astimezone(datetime.timezone.utc).isoformat()
    if type(one).__name__ == "Decimal":
        return format(one.normalize(), "f")
    if isinstance(one, (int, float)) and not isinstance(one, bool):
        return str(one + 0)
    return one


def check(lab: Lab, duck: duckdb.DuckDBPyConnection, name: str, ref: str = "main") -> None:
    """PyIceberg, DuckDB and we agree about a table."""
    ours = plain(lab.query(f"SELECT * FROM {name}", ref))
    location = lab.metadata(name, ref)
    theirs = {"PyIceberg": by_pyiceberg(location), "DuckDB": by_duckdb(duck, location)}
    for engine, table in theirs.items():
        assert table.column_names == ours.column_names, engine
        assert table.num_rows == ours.num_rows, engine
        for column in ours.column_names:
            if (engine, column) in DEFECTS:
                continue
            assert values(table.select([column]), [column]) == values(ours.select([column]), [column]), f"{engine}: {column}"


def test_an_imported_table(lab: Lab, duck: duckdb.DuckDBPyConnection) -> None:
    lab.load("everything", EVERYTHING)
    check(lab, duck, "everything")


MODELS = """
@forebay.model(materialization_strategy="{strategy}", partitioned_by={partition!r})
def made():
    n = [None if i % 11 == 0 else i + {start} for i in range(500)]
    return pa.table({{
        "n": pa.array(n, pa.int64()),
        "s": [None if i is None else "x" * 80 + str(i) for i in n],
        "country": [["de", "it", None][i % 3] for i in range(500)],
        "ts": pa.array([i * 3_600_000_000 for i in range(500)], pa.timestamp("us")),
        "u": pa.array(range(500), pa.uint64()),
        "l": pa.array([[i, None] if i % 2 else None for i in range(500)], pa.list_(pa.int32())),
    }})
"""


TRANSFORMS = [
    None, "country", "day(ts)", ["month(ts)", "country"], "year(ts)", "hour(ts)", "bucket(3, n)", "truncate(2, country)",
    ["bucket(4, country)", "truncate(100, n)"], "truncate(83, s)", ["bucket(2, ts)", "u"],
]


@pytest.mark.parametrize("partition", TRANSFORMS, ids=str)
def test_append_then_replace(lab: Lab, duck: duckdb.DuckDBPyConnection, partition: Any) -> None:
    for number, strategy in enumerate(["APPEND", "APPEND", "REPLACE", "APPEND"]):
        source = MODELS.format(strategy=strategy, partition=partition, start=number * 1000)
        lab.run(lab.project(source)).ok()
        check(lab, duck, "made")
    assert lab.rows("SELECT count(*) AS n FROM made") == [{"n": 1000}]


FILTERS = [
    ("n > 100 AND n <= 120", "n > 100 and n <= 120"),
    ("country = 'de'", "country = 'de'"),
    ("n IS NULL", "n is null"),
    ("s > 'x'", "s > 'x'"),
    (f"s >= '{'x' * 80}49' AND s < '{'x' * 80}5'", f"s >= '{'x' * 80}49' and s < '{'x' * 80}5'"),
    ("ts >= TIMESTAMP '1970-01-05 00:00:00'", "ts >= '1970-01-05T00:00:00'"),
]


@pytest.mark.parametrize("sql, theirs", FILTERS, ids=[sql[:20] for sql, _ in FILTERS])
def test_filters_find_the_same_rows(lab: Lab, duck: duckdb.DuckDBPyConnection, sql: str, theirs: str) -> None:
    """Bounds and partitions that we write prune nothing that they should find."""
    lab.run(lab.project(MODELS.format(strategy="REPLACE", partition="country", start=0))).ok()
    location = lab.metadata("made")
    ours = lab.query(f"SELECT * FROM made WHERE {sql}").num_rows
    assert StaticTable.from_metadata(location).scan(row_filter=theirs).to_arrow().num_rows == ours
    path = location.removeprefix("file://")
    [(count,)] = duck.execute(f"SELECT count(*) FROM iceberg_scan('{path}') WHERE {sql}").fetchall()
    whole = duckdb.from_arrow(lab.query("SELECT * FROM made"))
    [(expected,)] = whole.filter(sql).count("*").fetchall()
    assert count == ours == expected


def test_old_commits_stay_readable(lab: Lab, duck: duckdb.DuckDBPyConnection) -> None:
    source = '@forebay.model(materialization_strategy="REPLACE")\ndef t():\n    return pa.table({{"x": [{}]}})\n'
    lab.run(lab.project(source.format(1))).ok()
    first = f"main@{lab.head()}"
    lab.run(lab.project(source.format(2))).ok()
    assert lab.rows("SELECT x FROM t", first) == [{"x": 1}]
    assert by_pyiceberg(lab.metadata("t", first)).to_pylist() == [{"x": 1}]
    assert by_duckdb(duck, lab.metadata("t")).to_pylist() == [{"x": 2}]


def test_schema_changes_of_a_replaced_table(lab: Lab, duck: duckdb.DuckDBPyConnection) -> None:
    for columns in ('{"a": [1]}', '{"a": ["now text"], "b": [2.5]}', '{"b": [1], "c": [None]}'):
        source = f'@forebay.model(materialization_strategy="REPLACE")\ndef t():\n    return pa.table({columns})\n'
        lab.run(lab.project(source)).ok()
        check(lab, duck, "t")


def test_pyiceberg_sees_schema_partitions_and_history(lab: Lab) -> None:
    lab.run(lab.project(MODELS.format(strategy="APPEND", partition="day(ts)", start=0))).ok()
    lab.run(lab.project(MODELS.format(strategy="APPEND", partition="day(ts)", start=0))).ok()
    table = StaticTable.from_metadata(lab.metadata("made"))
    assert table.format_version == 2
    assert [field.transform.__class__.__name__ for field in table.spec().fields] == ["DayTransform"]
    assert [snapshot.summary.operation.value for snapshot in table.metadata.snapshots] == ["append", "append"]
    shown = lab.json("table", "get", "made")["table"]
    assert shown["records"] == 1000 == sum(task.file.record_count for task in table.scan().plan_files())
    assert shown["size"] == sum(task.file.file_size_in_bytes for task in table.scan().plan_files())
    assert shown["snapshots"] == 2 and shown["current_snapshot_id"] == table.metadata.current_snapshot_id
    assert shown["partitions"][0]["transform"] == "day"


@pytest.mark.parametrize("partition", TRANSFORMS[1:], ids=str)
def test_filters_over_every_transform(lab: Lab, duck: duckdb.DuckDBPyConnection, partition: Any) -> None:
    """The partition values that we write are those that others compute from a filter."""
    lab.run(lab.project(MODELS.format(strategy="REPLACE", partition=partition, start=0))).ok()
    location = lab.metadata("made")
    whole = duckdb.from_arrow(lab.query("SELECT * FROM made"))
    for sql, theirs in [*FILTERS, ("n = 17", "n = 17"), ("ts = TIMESTAMP '1970-01-05 07:00:00'", "ts = '1970-01-05T07:00:00'")]:
        [(expected,)] = whole.filter(sql).count("*").fetchall()
        assert lab.query(f"SELECT * FROM made WHERE {sql}").num_rows == expected, sql
        assert StaticTable.from_metadata(location).scan(row_filter=theirs).to_arrow().num_rows == expected, sql
        path = location.removeprefix("file://")
        [(count,)] = duck.execute(f"SELECT count(*) FROM iceberg_scan('{path}') WHERE {sql}").fetchall()
        assert count == expected, sql


class Sequence:
    """A table, and the rows it should have."""

    def __init__(self, lab: Lab, duck: duckdb.DuckDBPyConnection, layout: str) -> None:
        self.lab, self.duck, self.layout = lab, duck, layout
        self.rows: list[dict[str, Any]] = []

    def run(self, settings: str, rows: list[dict[str, Any]], types: str) -> None:
        """Writes rows with a model of these settings, and lets all readers look."""
        source = f"""
@forebay.model({settings}{self.layout})
def t():
    types = {{{types}}}
    rows = {rows!r}
    return pa.table({{name: pa.array([row.get(name) for row in rows], kind) for name, kind in types.items()}})
"""
        self.lab.run(self.lab.project(source)).ok()
        self.check()

    def check(self) -> None:
        check(self.lab, self.duck, "t")
        names = self.lab.query("SELECT * FROM t LIMIT 0").column_names
        expected = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in self.rows] or [dict.fromkeys(names)])
        found = self.lab.query("SELECT * FROM t")
        assert values(found, names) == (values(expected, names) if self.rows else [])
        table = StaticTable.from_metadata(self.lab.metadata("t"))
        for filter, test in [
            ("id > 3 AND id <= 12", lambda row: row["id"] is not None and 3 < row["id"] <= 12),
            ("k = 'b'", lambda row: row.get("k") == "b"),
            ("k IS NULL", lambda row: row.get("k") is None),
        ]:
            count = sum(map(test, self.rows))
            assert table.scan(row_filter=filter).to_arrow().num_rows == count, filter
            path = self.lab.metadata("t").removeprefix("file://")
            [(seen,)] = self.duck.execute(f"SELECT count(*) FROM iceberg_scan('{path}') WHERE {filter}").fetchall()
            assert seen == count == self.lab.query(f"SELECT * FROM t WHERE {filter}").num_rows, filter
        if table.current_snapshot() is not None and self.rows:
            files = table.inspect.files().to_pylist()
            summary = table.current_snapshot().summary
            assert int(summary["total-records"]) == sum(file["record_count"] for file in files) == len(self.rows)
            assert int(summary["total-data-files"]) == len(files)
            assert int(summary["total-files-size"]) == sum(file["file_size_in_bytes"] for file in files)


@pytest.mark.parametrize(
    "layout", ["", ', partitioned_by=["truncate(1, k)", "bucket(3, k)"], sorted_by="id desc"', ', partitioned_by="k"'], ids=str
)
def test_every_operation_one_after_the_other(lab: Lab, duck: duckdb.DuckDBPyConnection, layout: str) -> None:
    it = Sequence(lab, duck, layout)
    narrow = '"id": pa.int32(), "k": pa.string()'

    def rows(ids: Any, **more: Any) -> list[dict[str, Any]]:
        return [{"id": id, "k": ["a", "b", None, "x" * 90][id % 4], **more} for id in ids]

    it.rows = rows(range(10))
    it.run('materialization_strategy="REPLACE"', it.rows, narrow)
    it.rows += rows(range(8, 14))
    it.run('materialization_strategy="APPEND"', rows(range(8, 14)), narrow)
    start = lab.head()
    # Small files become few: the same rows, and the snapshots before can be forgotten.
    compacted = lab.json("table", "compact", "t")
    assert compacted["files_before"] > compacted["files_after"] or layout
    it.check()
    lab.forebay("table", "expire", "t", "--older-than", "0s", "--keep", "1").ok()
    it.check()
    assert len(StaticTable.from_metadata(lab.metadata("t")).metadata.snapshots) == 1
    # Widen, add, and turn the columns.
    wide = '"k": pa.string(), "v": pa.float32(), "id": pa.int64()'
    it.rows += rows([2**40, 21], v=0.5)
    it.run('materialization_strategy="APPEND"', rows([2**40, 21], v=0.5), wide)
    # By key: 9 is there twice, 30 is new, 3 goes; `v` is not given and stays.
    given = rows([9, 30, 21, 3])
    it.rows = [row for row in it.rows if row["id"] not in (9, 30, 21, 3)] + rows([9, 30]) + rows([21], v=0.5)
    it.run('materialization_strategy="MERGE", merge_keys="id", delete_when="id = 3"', given, narrow)
    if layout:
        it.rows = [row for row in it.rows if row["k"] != "b"] + rows([41], v=0.25)
        it.run('materialization_strategy="OVERWRITE_PARTITIONS", overwrite_filter="k = \'b\'"', rows([41], v=0.25), wide)
    kept = it.rows
    it.rows = rows(range(5), w=True)
    it.run('materialization_strategy="REPLACE"', it.rows, '"w": pa.bool_(), "id": pa.int64(), "k": pa.string()')
    it.rows = []
    it.run('materialization_strategy="MERGE", merge_keys=["id"], delete_when="true"', rows(range(5)), narrow)
    it.rows = rows([7])
    it.run('materialization_strategy="APPEND"', it.rows, narrow)
    lab.forebay("table", "revert", "t", "-s", f"main@{start}", "--replace").ok()
    it.rows = rows(range(10)) + rows(range(8, 14))
    it.check()
    it.rows += rows([50])
    it.run('materialization_strategy="APPEND"', rows([50]), narrow)
    lab.forebay("table", "compact", "t").ok()
    it.check()
    assert kept


def test_bounds_over_row_groups_and_long_strings(lab: Lab, duck: duckdb.DuckDBPyConnection) -> None:
    """Three row groups of one file, whose bounds are longer than what Parquet keeps of them."""
    source = """
@forebay.model(materialization_strategy="REPLACE")
def t():
    n = 128 * 1024
    return pa.table({"s": ["z" * 100] * n + ["m"] * n + ["a" * 100] * 5, "i": list(range(2 * n + 5))})
"""
    lab.run(lab.project(source)).ok()
    location = lab.metadata("t")
    [file] = StaticTable.from_metadata(location).scan().plan_files()
    assert file.file.record_count == 2 * 128 * 1024 + 5
    for filter, count in [("s > 'y'", 128 * 1024), ("s < 'b'", 5), (f"s = '{'z' * 100}'", 128 * 1024), (f"s > '{'z' * 100}'", 0)]:
        assert StaticTable.from_metadata(location).scan(row_filter=filter).to_arrow().num_rows == count
        [(seen,)] = duck.execute(f"SELECT count(*) FROM iceberg_scan('{location}') WHERE {filter}").fetchall()
        assert seen == count == lab.query(f"SELECT * FROM t WHERE {filter}").num_rows
