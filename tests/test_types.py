"""Values and types survive lake -> function -> lake, and function -> lake -> function."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import Lab

UTC = dt.timezone.utc
NULL = None
#: Before 1970, in summer time somewhere, and before any time zone's rules.
INSTANTS = [dt.datetime(1969, 12, 31, tzinfo=UTC), dt.datetime(2026, 7, 1, tzinfo=UTC), NULL, dt.datetime(1900, 1, 1, tzinfo=UTC)]
MOMENTS = [dt.datetime(1969, 12, 31, 23, 59, 59, 999999), dt.datetime(2026, 1, 1), NULL, dt.datetime(1, 1, 1)]

#: A column of each type: ordinary values, the edges, and nulls.
COLUMNS = {
    "bool": pa.array([True, False, NULL, True], pa.bool_()),
    "int8": pa.array([-128, 127, NULL, 0], pa.int8()),
    "int16": pa.array([-(2**15), 2**15 - 1, NULL, 0], pa.int16()),
    "int32": pa.array([-(2**31), 2**31 - 1, NULL, 0], pa.int32()),
    "int64": pa.array([-(2**63), 2**63 - 1, NULL, 0], pa.int64()),
    "uint8": pa.array([0, 255, NULL, 1], pa.uint8()),
    "uint16": pa.array([0, 2**16 - 1, NULL, 1], pa.uint16()),
    "uint32": pa.array([0, 2**32 - 1, NULL, 1], pa.uint32()),
    "uint64": pa.array([0, 2**64 - 1, NULL, 1], pa.uint64()),
    "float32": pa.array([1.5, float("-inf"), NULL, -0.0], pa.float32()),
    "float64": pa.array([1e308, float("inf"), NULL, 5e-324], pa.float64()),
    "decimal": pa.array([Decimal("123456789.12"), Decimal("-0.01"), NULL, Decimal("0.00")], pa.decimal128(11, 2)),
    "decimal_38": pa.array([Decimal(10) ** 37, -(Decimal(10) ** 37), NULL, Decimal(0)], pa.decimal128(38, 0)),
    "date": pa.array([dt.date(1969, 12, 31), dt.date(9999, 12, 31), NULL, dt.date(1, 1, 1)], pa.date32()),
    "time": pa.array([dt.time(0), dt.time(23, 59, 59, 999999), NULL, dt.time(12)], pa.time64("us")),
    "timestamp": pa.array(MOMENTS, pa.timestamp("us")),
    "timestamp_utc": pa.array(INSTANTS, pa.timestamp("us", "UTC")),
    "timestamp_zone": pa.array(INSTANTS, pa.timestamp("us", "Europe/Berlin")),
    "timestamp_ms": pa.array([dt.datetime(2026, 1, 1, 1, 2, 3, 4000), dt.datetime(1970, 1, 1), NULL, dt.datetime(1900, 1, 1)], pa.timestamp("ms")),
    "string": pa.array(["", "größe 漢字 🦀 e\u0301", NULL, "x" * 1000], pa.string()),
    "large_string": pa.array(["a", "b" * 100, NULL, ""], pa.large_string()),
    "binary": pa.array([b"", bytes(range(256)), NULL, b"\0"], pa.binary()),
    "large_binary": pa.array([b"", bytes(range(256)), NULL, b"\0"], pa.large_binary()),
    "fixed": pa.array([b"abcd", b"\0\0\0\0", NULL, b"wxyz"], pa.binary(4)),
    "list": pa.array([[1, None], [], NULL, [2**40]], pa.list_(pa.int64())),
    "list_of_strings": pa.array([["a", None, ""], [], NULL, ["ü"]], pa.list_(pa.string())),
    "list_of_lists": pa.array([[[1], None], [], NULL, [[], [2, None]]], pa.list_(pa.list_(pa.int32()))),
    "struct": pa.array([{"a": 1, "b": "x"}, {"a": None, "b": None}, NULL, {"a": 3, "b": ""}], pa.struct([("a", pa.int32()), ("b", pa.string())])),
    "list_of_structs": pa.array([[{"a": 1}, None], [], NULL, [{"a": None}]], pa.list_(pa.struct([("a", pa.int64())]))),
    "struct_of_lists": pa.array([{"l": [1, None]}, {"l": None}, NULL, {"l": []}], pa.struct([("l", pa.list_(pa.int16()))])),
    "all_null": pa.array([NULL] * 4, pa.int32()),
    "map": pa.array([[("k", 1), ("j", None)], [], NULL, [("", 0)]], pa.map_(pa.string(), pa.int64())),
}
EVERYTHING = pa.table(COLUMNS)

IDENTITY = """
import forebay
import pyarrow as pa

@forebay.model(materialization_strategy="REPLACE")
def copied(data=forebay.Model("original")):
    print("columns", data.num_columns, "rows", data.num_rows)
    return data
"""


def plain(table: pa.Table) -> pa.Table:
    """The table in one chunk per column, views as what they view."""
    fields = [field.with_type(without_views(field.type)).remove_metadata() for field in table.schema]
    return table.cast(pa.schema(fields)).combine_chunks()


def without_views(kind: pa.DataType) -> pa.DataType:
    """The type a view type shows."""
    views = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return views.get(kind, kind)


def assert_same(got: pa.Table, wanted: pa.Table) -> None:
    """Equal names, types, values and nulls."""
    got, wanted = plain(got), plain(wanted)
    assert got.column_names == wanted.column_names
    wrong = [
        f"{name}: {got[name].type} {got[name].to_pylist()[:4]} is not {wanted[name].type} {wanted[name].to_pylist()[:4]}"
        for name in wanted.column_names
        if not same_type(got[name].type, wanted[name].type) or got[name].to_pylist() != wanted[name].to_pylist()
    ]
    assert not wrong, "\n".join(wrong)


def same_type(got: pa.DataType, wanted: pa.DataType) -> bool:
    """Equal, whatever the inner fields are called; string and large string differ only in how long they may be."""
    small = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary(), pa.string_view(): pa.string()}
    got, wanted = small.get(got, got), small.get(wanted, wanted)
    if pa.types.is_list(got) and pa.types.is_list(wanted):
        return same_type(got.value_type, wanted.value_type)
    if pa.types.is_map(got) and pa.types.is_map(wanted):
        return same_type(got.key_type, wanted.key_type) and same_type(got.item_type, wanted.item_type)
    if pa.types.is_struct(got) and pa.types.is_struct(wanted):
        pairs = zip(got, wanted)
        return got.num_fields == wanted.num_fields and all(a.name == b.name and same_type(a.type, b.type) for a, b in pairs)
    return got == wanted


def round_trip(lab: Lab, table: pa.Table) -> pa.Table:
    """Lake -> function -> lake -> query."""
    lab.load("original", table)
    lab.run(lab.project({"models.py": IDENTITY})).ok()
    return lab.query("SELECT * FROM copied")


def test_every_type(lab: Lab) -> None:
    lab.load("original", EVERYTHING)
    assert_same(lab.query("SELECT * FROM original"), EVERYTHING)
    lab.run(lab.project({"models.py": IDENTITY})).ok()
    assert_same(lab.query("SELECT * FROM copied"), EVERYTHING)


def test_what_a_function_sees(lab: Lab) -> None:
    """The types inside a function are those of the table, not of the file format."""
    lab.load("original", EVERYTHING)
    project = lab.project(
        """
        @forebay.model(materialization_strategy="REPLACE")
        def seen(data=forebay.Model("original")):
            return {"name": data.column_names, "type": [str(kind) for kind in data.schema.types],
                    "nulls": [data[name].null_count for name in data.column_names]}
        """
    )
    lab.run(project).ok()
    seen = {row["name"]: row for row in lab.rows("SELECT * FROM seen")}
    assert list(seen) == EVERYTHING.column_names
    for name in ("bool", "int8", "int64", "uint64", "float32", "decimal", "date", "timestamp", "timestamp_utc"):
        assert seen[name]["type"] == str(EVERYTHING[name].type)
    assert all(row["nulls"] == (4 if name == "all_null" else 1) for name, row in seen.items())


def test_made_in_a_function(lab: Lab) -> None:
    """Function -> lake -> function: nothing was read from a file before."""
    path = lab.folder / "everything.parquet"
    pa.parquet.write_table(EVERYTHING, path)
    source = f"""
        @forebay.model(materialization_strategy="REPLACE")
        def original():
            import pyarrow.parquet
            return pa.parquet.read_table({str(path)!r})
        """
    lab.sandbox(read=[str(path)])
    lab.run(lab.project(source, "maker")).ok()
    assert_same(lab.query("SELECT * FROM original"), EVERYTHING)
    lab.run(lab.project({"models.py": IDENTITY})).ok()
    assert_same(lab.query("SELECT * FROM copied"), EVERYTHING)


def test_through_sql(lab: Lab) -> None:
    lab.load("original", EVERYTHING)
    lab.run(lab.project({"copied.sql": "-- forebay: materialization_strategy=REPLACE\nSELECT * FROM original\n"})).ok()
    assert_same(lab.query("SELECT * FROM copied"), EVERYTHING)


@pytest.mark.parametrize("partition", ["int32", "string", "date", "bool", "day(timestamp)", "month(date)", "hour(timestamp_utc)", "year(timestamp)"])
def test_partitioned(lab: Lab, partition: str) -> None:
    some = EVERYTHING.select(["int32", "string", "date", "bool", "timestamp", "timestamp_utc", "float64", "list"])
    lab.load("original", some, partitioned_by=partition)
    project = lab.project({"models.py": IDENTITY.replace('"REPLACE"', f'"REPLACE", partitioned_by="{partition}"')})
    lab.run(project).ok()
    by_number = [("float64", "ascending")]
    for name in ("original", "copied"):
        assert_same(lab.query(f"SELECT * FROM {name}").sort_by(by_number), some.sort_by(by_number))


def test_nanoseconds(lab: Lab) -> None:
    """Iceberg v2 keeps microseconds: whole ones pass, others are refused by name, never rounded."""
    whole = pa.table({"t": pa.array([1_000, -1_000, None], pa.timestamp("ns"))})
    assert round_trip(lab, whole)["t"].cast(pa.timestamp("ns")).to_pylist() == whole["t"].to_pylist()
    project = lab.project(
        """
        @forebay.model(materialization_strategy="REPLACE")
        def fine():
            return pa.table({"t": pa.array([1], pa.timestamp("ns"))})
        """
    )
    failed = lab.run(project).failed(1)
    assert "`t`" in failed.err and "fine" not in str(lab.tables())


def test_empty_tables(lab: Lab) -> None:
    assert_same(round_trip(lab, EVERYTHING.slice(0, 0)), EVERYTHING.slice(0, 0))


def test_a_thousand_columns(lab: Lab) -> None:
    kinds = [pa.int64(), pa.float64(), pa.int32()]
    wide = pa.table({f"column_{n}": pa.array([n, None, -n], kinds[n % 3]) for n in range(1000)})
    assert_same(round_trip(lab, wide), wide)


def test_unicode_names(lab: Lab) -> None:
    names = ["größe", "漢字", "with space", "UPPER", "upper", "select", "🦀", 'quo"te', "a.b", "e\u0301", "é"]
    table = pa.table({name: [number, None] for number, name in enumerate(names)})
    assert_same(round_trip(lab, table), table)
    lab.load("größe", table)
    assert lab.query('SELECT "größe" FROM "größe"').num_rows == 2


def test_zero_columns_are_refused(lab: Lab) -> None:
    for strategy in ("NONE", "REPLACE"):
        body = f'@forebay.model(materialization_strategy="{strategy}")\ndef none():\n    return pa.table({{}})\n'
        failed = lab.run(lab.project(body)).failed(1)
        assert "column" in failed.err and failed.json["error"]["code"]


def test_many_batches_and_slices(lab: Lab) -> None:
    """Chunks, offsets and dictionaries are layout, not values."""
    project = lab.project(
        """
        @forebay.model()
        def pieces():
            whole = pa.table({"n": pa.array(range(1000)), "s": [str(n) if n % 7 else None for n in range(1000)],
                              "b": [n % 3 == 0 for n in range(1000)], "l": [[n] * (n % 4) for n in range(1000)]})
            parts = [whole.slice(n * 13, 13) for n in range(20)] + [whole.slice(0, 0), whole.slice(999, 1)]
            return pa.concat_tables(parts)

        @forebay.model(materialization_strategy="REPLACE")
        def stored(data=forebay.Model("pieces")):
            return data

        @forebay.model(materialization_strategy="REPLACE")
        def coded(data=forebay.Model("pieces", columns=["n", "s"])):
            return data.set_column(1, "s", data["s"].combine_chunks().dictionary_encode())
        """
    )
    lab.run(project).ok()
    numbers = [*range(260), 999]
    stored = lab.query("SELECT * FROM stored ORDER BY n").to_pylist()
    assert stored == [
        {"n": n, "s": str(n) if n % 7 else None, "b": n % 3 == 0, "l": [n] * (n % 4)} for n in numbers
    ]
    assert lab.query("SELECT * FROM coded ORDER BY n")["s"].to_pylist() == [row["s"] for row in stored]


def test_random_tables(lab: Lab) -> None:
    """Long columns of random values with random nulls: several pages, batches and row groups."""
    random.seed(7)
    rows = 30_000

    def column(make: object) -> list[object]:
        return [None if random.random() < 0.1 else make() for _ in range(rows)]  # type: ignore[operator]

    table = pa.table(
        {
            "i": pa.array(column(lambda: random.randint(-(2**63), 2**63 - 1)), pa.int64()),
            "f": pa.array(column(random.random), pa.float64()),
            "s": pa.array(column(lambda: random.choice(["", "é", "x" * random.randint(0, 200)]))),
            "b": pa.array(column(lambda: random.random() < 0.5)),
            "d": pa.array(column(lambda: Decimal(random.randint(-(10**12), 10**12)).scaleb(-3)), pa.decimal128(18, 3)),
            "l": pa.array(column(lambda: [random.randint(0, 9)] * random.randint(0, 3)), pa.list_(pa.int32())),
            "t": pa.array(column(lambda: random.randint(-(10**15), 10**15)), pa.timestamp("us", "UTC")),
        }
    )
    assert plain(round_trip(lab, table)).equals(plain(table))
