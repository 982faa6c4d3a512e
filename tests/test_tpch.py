"""TPC-H: all 22 queries on our tables give what DuckDB gives on the Parquet files they were imported from."""

from __future__ import annotations

import datetime
import math
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import ROOT, Lab

TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
SCALE = "0.02"


def queries() -> dict[int, str]:
    """The 22 queries by their numbers."""
    parts = re.split(r"^-- query (\d+)\n", (ROOT / "bench/tpch.sql").read_text(), flags=re.MULTILINE)
    return {int(number): text.strip().rstrip(";") for number, text in zip(parts[1::2], parts[2::2])}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Parquet file for each table."""
    folder = tmp_path_factory.mktemp("tpch")
    generator = Path(sys.executable).with_name("tpchgen-cli")
    subprocess.run([generator, "parquet", "-s", SCALE, "-q", "--output-dir", folder], check=True)
    return folder


@pytest.fixture
def tpch(lab: Lab, files: Path) -> Lab:
    """The tables in a lake, the largest in many files."""
    for table in TABLES:
        path = files / f"{table}.parquet"
        partitioned = ["--partitioned-by", "year(l_shipdate)"] if table == "lineitem" else []
        lab.forebay("table", "create", table, "--search-uri", path, *partitioned).ok()
        lab.forebay("table", "import", table, "--search-uri", path).ok()
    return lab


def comparable(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows in an order of their own, numbers of all kinds as floats, rounded to what both engines keep."""

    def value(one: Any) -> Any:
        if isinstance(one, (int, float, Decimal)) and not isinstance(one, bool):
            return float(f"{float(one):.9g}")
        if isinstance(one, (datetime.datetime, datetime.date)):
            return one.isoformat()[:10]
        return one

    return sorted((tuple(map(value, row)) for row in rows), key=repr)


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-6)
    return bool(left == right)


def test_all_queries_are_right(tpch: Lab, files: Path) -> None:
    reference = duckdb.connect()
    for table in TABLES:
        reference.execute(f"CREATE VIEW {table} AS SELECT * FROM '{files / table}.parquet'")
    assert len(queries()) == 22
    for number, sql in queries().items():
        ours = tpch.query(sql)
        theirs = reference.execute(sql).fetchall()
        rows = comparable([tuple(row.values()) for row in ours.to_pylist()])
        wanted = comparable(theirs)
        assert len(rows) == len(wanted), f"query {number}: {len(rows)} rows, DuckDB has {len(wanted)}"
        for row, other in zip(rows, wanted):
            assert len(row) == len(other) and all(map(equal, row, other)), f"query {number}: {row} is not {other}"


def test_all_queries_are_right_in_little_memory(tpch: Lab, files: Path) -> None:
    """What has to spill, or to join by sorting, gives the same."""
    for number, sql in queries().items():
        path = tpch.folder / f"{number}.jsonl"
        small = tpch.folder / f"{number}-small.jsonl"
        tpch.forebay("query", sql, "--to", path).ok()
        tpch.forebay("query", sql, "--memory", "24MiB", "--to", small).ok()
        assert sorted(small.read_text().splitlines()) == sorted(path.read_text().splitlines()), number
