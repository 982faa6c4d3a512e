"""Tables of Parquet files that lie elsewhere: read as they are by us and by other engines, never written, never copied."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import Lab
from engines import RestServer, duck
from pyiceberg.table import StaticTable


def put(lab: Lab, name: str, rows: Any, **options: Any) -> Path:
    path = lab.folder / "files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(rows if isinstance(rows, pa.Table) else pa.table(rows), path, **options)
    return path


def everything(rows: int) -> pa.Table:
    """Every type that Parquet, Iceberg and Arrow have in common."""
    at = datetime.datetime(2024, 2, 29, 12, 30, 15, 123456)
    columns = {
        "id": pa.array(range(rows), pa.int64()),
        "small": pa.array([n % 100 for n in range(rows)], pa.int32()),
        "real": pa.array([n / 4 for n in range(rows)], pa.float64()),
        "single": pa.array([n / 2 for n in range(rows)], pa.float32()),
        "yes": pa.array([n % 2 == 0 for n in range(rows)]),
        "word": pa.array([None if n % 7 == 3 else f"w{n:05}" for n in range(rows)]),
        "raw": pa.array([bytes([n % 256]) for n in range(rows)], pa.binary()),
        "money": pa.array([decimal.Decimal(n) / 100 for n in range(rows)], pa.decimal128(9, 2)),
        "large": pa.array([decimal.Decimal(n) * 10**20 for n in range(rows)], pa.decimal128(38, 0)),
        "day": pa.array([datetime.date(2024, 1, 1) + datetime.timedelta(n % 300) for n in range(rows)]),
        "at": pa.array([at + datetime.timedelta(hours=n) for n in range(rows)], pa.timestamp("us")),
        "instant": pa.array([at + datetime.timedelta(hours=n) for n in range(rows)], pa.timestamp("us", "UTC")),
        "many": pa.array([[n, None] for n in range(rows)], pa.list_(pa.int64())),
        "pair": pa.array([{"a": n, "b": None if n % 5 else str(n)} for n in range(rows)]),
    }
    return pa.table(columns)


def test_every_type_for_every_reader(lab: Lab) -> None:
    """PyIceberg, DuckDB, a query and a filtered scan, over two files of several row groups."""
    table = everything(300)
    put(lab, "all/a.parquet", table.slice(0, 200), row_group_size=64)
    put(lab, "all/b.parquet", table.slice(200), row_group_size=64, compression="zstd", version="1.0")
    lab.forebay("table", "create-external", "t", "--search-pattern", lab.folder / "files/all").ok()
    location = lab.metadata("t")
    theirs = StaticTable.from_metadata(location).scan().to_arrow().sort_by("id")
    assert theirs.cast(table.schema).equals(table)
    assert StaticTable.from_metadata(location).scan(row_filter="word = 'w00250' AND day >= '2024-02-01'").to_arrow().num_rows == 1
    with duck() as engine:
        found = engine.execute(f"SELECT count(*), sum(id), max(word), sum(money), max(day), count(pair.b) FROM iceberg_scan('{location}')").fetchone()
    assert found == (300, sum(range(300)), "w00299", decimal.Decimal("448.50"), table["day"][299].as_py(), 60)
    assert lab.query("SELECT * FROM t ORDER BY id").cast(table.schema).equals(table)
    for filter, rows in [
        ("id >= 250", 50), ("word = 'w00250'", 1), ("money > 2.50", 49), ("instant >= '2024-03-12T00:00:00Z'", None), ("yes", 150),
        ("word IS NULL", len([n for n in range(300) if n % 7 == 3])), ("large = CAST('200000000000000000000' AS DECIMAL(38, 0))", 1), ("real < 0.5", 2),
    ]:
        counted = lab.rows(f"SELECT count(*) AS n FROM t WHERE {filter}")[0]["n"]
        assert rows is None or counted == rows, filter


def test_a_table_of_folders_for_every_reader(lab: Lab) -> None:
    for year, country, first in [(2023, "de", 0), (2023, "a%2Fb", 10), (2024, "de", 20), (2024, "__HIVE_DEFAULT_PARTITION__", 30)]:
        put(lab, f"h/year={year}/country={country}/x.parquet", {"id": list(range(first, first + 5))})
    made = lab.json("table", "create-external", "t", "--search-pattern", lab.folder / "files/h")["table"]
    assert [part["name"] for part in made["partitions"]] == ["year", "country"]
    expected = [
        *({"id": n, "year": 2023, "country": "de"} for n in range(5)), *({"id": n, "year": 2023, "country": "a/b"} for n in range(10, 15)),
        *({"id": n, "year": 2024, "country": "de"} for n in range(20, 25)), *({"id": n, "year": 2024, "country": None} for n in range(30, 35)),
    ]
    assert lab.rows("SELECT id, year, country FROM t ORDER BY id") == expected
    theirs = StaticTable.from_metadata(lab.metadata("t")).scan().to_arrow().select(["id", "year", "country"]).sort_by("id")
    assert theirs.to_pylist() == expected
    with duck() as engine:
        found = engine.execute(f"SELECT id, year, country FROM iceberg_scan('{lab.metadata('t')}') ORDER BY id").fetchall()
    assert found == [tuple(row.values()) for row in expected]
    assert lab.rows("SELECT year, count(*) AS n FROM t WHERE country = 'de' OR country IS NULL GROUP BY year ORDER BY year") == [
        {"year": 2023, "n": 5}, {"year": 2024, "n": 10},
    ]
    project = lab.project("""
        @forebay.model(materialization_strategy="REPLACE")
        def copied(t=forebay.Model("t", columns=["country", "id"], filter="year = 2024 AND country IS NULL")):
            return t
    """)
    lab.run(project).ok()
    assert lab.rows("SELECT * FROM copied ORDER BY id")[0] == {"country": None, "id": 30}


def test_it_is_only_read(lab: Lab) -> None:
    one = put(lab, "d/a.parquet", {"id": [1]})
    before = one.read_bytes()
    lab.forebay("table", "create-external", "t", "--search-pattern", one, "--search-pattern", lab.folder / "files/d/*").ok()
    assert lab.rows("SELECT * FROM t") == [{"id": 1}], "found twice, there once"
    head = lab.head()
    for command in (
        ["import", "t", "--search-uri", one], ["create", "t", "--replace", "--search-uri", one], ["compact", "t"],
        ["expire", "t", "--older-than", "0s", "--keep", "1"],
    ):
        refused = lab.forebay("table", *command, "-o", "json").failed()
        assert refused.json["error"]["code"] == "CTL0051", command
    with RestServer(lab) as server:
        table = server.pyiceberg().load_table("default.t")
        assert table.scan().to_arrow().num_rows == 1
        with pytest.raises(Exception, match="external"):
            table.append(pa.table({"id": [9]}))
    exists = lab.forebay("table", "create-external", "t", "--search-pattern", one, "-o", "json").failed()
    assert exists.json["error"]["code"] == "CTL0020" and lab.head() == head
    lab.forebay("gc", "--grace", "0s").ok()
    assert lab.rows("SELECT * FROM t") == [{"id": 1}]
    lab.forebay("table", "rm", "t").ok()
    assert one.read_bytes() == before, "its files stay"


def test_what_cannot_be_a_table(lab: Lab) -> None:
    def code(*patterns: Any, exit: int = 1) -> str:
        words = [word for pattern in patterns for word in ("--search-pattern", pattern)]
        return lab.forebay("table", "create-external", "t", *words, "-o", "json").failed(exit).json["error"]["code"]

    lab.load("mine", pa.table({"id": [1]}))
    data = Path(lab.metadata("mine")).parents[1] / "data"
    assert code(data) == "CTL0053"
    put(lab, "types/a.parquet", {"v": [1]})
    put(lab, "types/b.parquet", {"v": [1.5]})
    assert code(lab.folder / "files/types") == "LAK0050"
    put(lab, "words/a.parquet", {"v": ["x"]})
    assert code(lab.folder / "files/types/a.parquet", lab.folder / "files/words") == "LAK0021"
    text = lab.folder / "files/a.csv"
    text.write_text("id\n1\n")
    assert code(text) == "LAK0050"
    assert code(lab.folder / "files/none-*") == "LAK0018"
    lab.forebay("table", "create-external", "t").failed(2)
    lab.forebay("table", "create-external", "t", "--search-pattern", text, "--metadata-json-uri", text).failed(2)
    assert lab.tables() == ["default.mine"]
