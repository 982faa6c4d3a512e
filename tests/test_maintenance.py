"""Garbage, compaction and expiry of real lakes, on a disk and in a bucket: what goes, what stays, and others at work meanwhile."""

from __future__ import annotations

import time
import uuid
from typing import Iterator

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import PATIENCE_S, Lab
from s3_server import S3Server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server for the tests of this file."""
    server = S3Server(tmp_path_factory.mktemp("s3")).start()
    server.bucket("lakes")
    yield server
    server.kill()


@pytest.fixture(params=["disk", "bucket"])
def either(request: pytest.FixtureRequest, lab: Lab) -> Lab:
    """A lab with its lake in either place."""
    if request.param == "bucket":
        server = request.getfixturevalue("s3")
        lab.environment.update(server.variables(), FOREBAY_LAKE=f"s3://lakes/{uuid.uuid4().hex}")
    return lab


def files(lab: Lab, request: pytest.FixtureRequest) -> set[str]:
    """Names of all files of tables."""
    lake = lab.environment["FOREBAY_LAKE"]
    if lake.startswith("s3://"):
        keys = request.getfixturevalue("s3").keys(lake.removeprefix("s3://") + "/tables")
        return {key.rsplit("/", 1)[1] for key in keys}
    return {path.name for path in (lab.lake / "tables").rglob("*") if path.is_file()}


def numbers(start: int, stop: int) -> pa.Table:
    """One column."""
    return pa.table({"x": pa.array(range(start, stop), pa.int64())})


def test_what_nothing_leads_to_goes(either: Lab, request: pytest.FixtureRequest) -> None:
    """Files of a failed run and of a deleted branch go; every state of `main` stays."""
    either.load("numbers", numbers(0, 10))
    either.load("numbers", numbers(0, 20))
    kept = files(either, request)
    project = either.project("""
        @forebay.model(materialization_strategy="REPLACE")
        def good():
            return pa.table({"x": [1]})

        @forebay.model(materialization_strategy="REPLACE")
        def bad(good=forebay.Model("good")):
            raise ValueError("no")
    """)
    failed = either.run(project).failed().json["failed_branch"]
    either.forebay("branch", "create", "dev").ok()
    either.load("numbers", numbers(0, 30), branch="dev")
    lost = either.head("dev")
    whole = files(either, request)
    assert whole > kept
    # Young files stay, and so does what a branch leads to.
    assert either.json("gc", "--grace", "1h")["table_files"] == 0
    either.json("gc", "--grace", "0s")
    assert files(either, request) >= kept and either.rows("SELECT count(*) AS n FROM numbers", "dev") == [{"n": 30}]
    either.forebay("branch", "rm", "dev").ok()
    either.forebay("branch", "rm", failed).ok()
    found = either.json("gc", "--grace", "0s", "--dry-run")
    assert found["table_files"] > 0 and found["table_bytes"] > 0
    removed = 0
    # A bucket stamps with whole seconds: what was written in the current one is young, and goes in the next.
    end = time.monotonic() + PATIENCE_S
    while files(either, request) != kept and time.monotonic() < end:
        done = either.json("gc", "--grace", "0s")
        removed += done["table_files"]
    assert (removed, done["table_files_kept"]) == (found["table_files"], found["table_files_kept"])
    assert files(either, request) == kept
    assert either.json("gc", "--grace", "0s")["table_files"] == 0
    assert either.rows("SELECT count(*) AS n FROM numbers") == [{"n": 20}]
    assert either.rows("SELECT count(*) AS n FROM numbers", "main~2") == [{"n": 10}]
    assert either.forebay("branch", "create", "again", "--from-ref", f"@{lost}", "-o", "json").failed().json["error"]["code"] == "CAT0001"


def test_a_run_under_way_loses_nothing(either: Lab) -> None:
    """A collection without any grace, between a table's writing and its commit."""
    gate = either.gate()
    project = either.project(f"""
        @forebay.model(materialization_strategy="REPLACE")
        def first():
            return pa.table({{"x": [1, 2, 3]}})

        @forebay.model(materialization_strategy="REPLACE")
        def second(first=forebay.Model("first")):
            {gate.code}
            return first
    """)
    run = either.start_run(project)
    gate.wait()
    either.forebay("gc", "--grace", "0s").ok()
    gate.open()
    assert run.wait().ok().json["status"] == "SUCCESS"
    either.forebay("gc", "--grace", "0s").ok()
    assert either.rows("SELECT sum(x) AS s FROM first") == [{"s": 6}]
    assert either.rows("SELECT sum(x) AS s FROM second") == [{"s": 6}]


def test_writers_and_collectors_at_once(either: Lab, request: pytest.FixtureRequest) -> None:
    """Imports, compactions, expiries and collections of one table, all at the same time."""
    either.load("numbers", numbers(0, 10))
    started = []
    for number in range(1, 5):
        path = either.folder / f"more{number}.parquet"
        pa.parquet.write_table(numbers(number * 10, number * 10 + 10), path)
        started.append(either.start("table", "import", "numbers", "--search-uri", path))
        started.append(either.start("gc", "--grace", "10m"))
        started.append(either.start("table", "compact", "numbers", "-o", "json"))
    done = [command.wait() for command in started]
    assert all(one.code == 0 or "CAT0004" in one.err + one.out for one in done), [str(one) for one in done if one.code]
    imports = [one for one in done if one.args[1] == "import"]
    expected = 10 + 10 * sum(one.code == 0 for one in imports)
    assert either.rows("SELECT count(*) AS n, count(DISTINCT x) AS d FROM numbers") == [{"n": expected, "d": expected}]
    either.forebay("table", "compact", "numbers").ok()
    either.forebay("gc", "--grace", "0s").ok()
    assert either.rows("SELECT count(*) AS n FROM numbers") == [{"n": expected}]


def test_many_small_files_become_one(either: Lab) -> None:
    """Rows, types and history are as before; other engines read the result."""
    for number in range(5):
        path = either.folder / f"small{number}.parquet"
        pa.parquet.write_table(numbers(number * 10, number * 10 + 10), path)
        if number == 0:
            either.forebay("table", "create", "numbers", "--search-uri", path).ok()
        either.forebay("table", "import", "numbers", "--search-uri", path).ok()
    before = either.head()
    done = either.json("table", "compact", "numbers")
    assert (done["files_before"], done["files_after"], done["rows"]) == (5, 1, 50)
    assert sorted(row["x"] for row in either.rows("SELECT x FROM numbers")) == list(range(50))
    assert either.rows("SELECT count(*) AS n FROM numbers", f"@{before}") == [{"n": 50}]
    again = either.json("table", "compact", "numbers")
    assert again["files_before"] == 0 and again["ref"] == done["ref"]
    expired = either.json("table", "expire", "numbers", "--older-than", "0s")
    assert expired["removed"] == 5 and expired["kept"] == 1
    assert sorted(row["x"] for row in either.rows("SELECT x FROM numbers")) == list(range(50))
    assert either.forebay("table", "compact", "nubmers", "-o", "json").failed().code == 1


def test_compacted_partitions_are_read_by_others(lab: Lab) -> None:
    """PyIceberg reads what a compaction of a table with several partitions left."""
    from pyiceberg.table import StaticTable

    table = pa.table({"region": ["eu", "us"] * 20, "x": pa.array(range(40), pa.int64())})
    lab.load("t", table, partitioned_by="region")
    path = lab.folder / "more.parquet"
    pa.parquet.write_table(pa.table({"region": ["eu", "asia"] * 5, "x": pa.array(range(40, 50), pa.int64())}), path)
    lab.forebay("table", "import", "t", "--search-uri", path).ok()
    done = lab.json("table", "compact", "t")
    assert (done["files_before"], done["files_after"]) == (2, 1), done
    read = StaticTable.from_metadata(lab.metadata("t")).scan().to_arrow()
    assert sorted(read["x"].to_pylist()) == list(range(50))
    eu = StaticTable.from_metadata(lab.metadata("t")).scan(row_filter="region = 'eu'").to_arrow()
    assert len(eu) == 25
