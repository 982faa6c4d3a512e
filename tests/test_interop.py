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


@pytest.mark.parametrize("partition", [None, "country", "day(ts)", ["month(ts)", "country"], "year(ts)"], ids=str)
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
