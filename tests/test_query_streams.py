"""Queries that are larger than memory, go on for long, are broken off, or look at the past."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Iterator

import forebay
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from conftest import Lab, ends, until
from forebay.exceptions import ForebayQueryError, JobTimeoutError

ROWS = 400_000


@pytest.fixture
def texts(lab: Lab) -> Lab:
    """A table of about 50 MB in memory."""
    numbers = range(ROWS)
    table = pa.table({"n": numbers, "k": [n * 7919 % ROWS for n in numbers], "s": [f"{n * 7919 % ROWS:0100}" for n in numbers]})
    lab.load("texts", table)
    return lab


@pytest.fixture
def client(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[forebay.Client]:
    for name, value in lab.environment.items():
        monkeypatch.setenv(name, value)
    yield forebay.Client()


def spilled(lab: Lab) -> list[Path]:
    """What lies in the folder of spill files."""
    return list((lab.home / "state/spill").glob("*"))


def no_function_is_left(lab: Lab) -> bool:
    return all(ends(process) for process in lab.functions())


#: What is asked, and with how little memory: the table is 46 MB.
LARGE = {
    "a sort": ("SELECT n, s FROM texts ORDER BY s DESC, n", "12MiB"),
    "an aggregate": ("SELECT s, min(n) AS n, count(*) AS c FROM texts GROUP BY s", "16MiB"),
    "a window": ("SELECT n, row_number() OVER (ORDER BY s) AS r FROM texts", "12MiB"),
    "distinct": ("SELECT DISTINCT s FROM texts", "16MiB"),
}


@pytest.mark.parametrize("sql", LARGE)
def test_larger_than_memory(texts: Lab, sql: str) -> None:
    select, memory = LARGE[sql]
    path, small = texts.folder / "out.parquet", texts.folder / "small.parquet"
    texts.forebay("query", select, "--to", path).ok()
    texts.forebay("query", select, "--memory", memory, "--to", small).ok()
    tables = [pa.parquet.read_table(one) for one in (path, small)]
    keys = [(name, "ascending") for name in tables[0].column_names]
    assert tables[0].num_rows == ROWS
    assert tables[0].sort_by(keys).equals(tables[1].sort_by(keys))
    assert spilled(texts) == []


def test_an_order_is_kept_when_it_spills(texts: Lab) -> None:
    path = texts.folder / "out.parquet"
    texts.forebay("query", "SELECT s FROM texts ORDER BY s", "--memory", "12MiB", "--to", path).ok()
    got = pa.parquet.read_table(path)["s"].to_pylist()
    assert got == [f"{n:0100}" for n in range(ROWS)]


#: What is asked of two tables of 46 MB and 60 MB with 12 MiB, and how many rows that gives.
JOINS = {
    "inner": ("SELECT a.n, b.n AS m, a.s, b.s AS t FROM texts a JOIN more b ON a.s = b.s", ROWS),
    "left": ("SELECT a.n, b.n AS m, a.s, b.t FROM texts a LEFT JOIN more b ON a.n = b.n + 50000", ROWS),
    "right": ("SELECT a.n, b.n AS m, b.s, b.t FROM texts a RIGHT JOIN more b ON a.s = b.s", ROWS + 100_000),
    "full": ("SELECT a.n, b.n AS m, a.s, b.s AS t FROM texts a FULL JOIN more b ON a.n = b.n + 100000", 2 * ROWS + 100_000 - 300_000),
    "semi": ("SELECT b.n, b.s FROM more b WHERE b.s IN (SELECT s FROM texts)", ROWS),
    "anti": ("SELECT b.n, b.s FROM more b WHERE NOT EXISTS (SELECT s FROM texts a WHERE a.s = b.s)", 100_000),
    "not in": ("SELECT b.n, b.s FROM more b WHERE b.s NOT IN (SELECT s FROM texts)", 100_000),
}


@pytest.fixture
def more(texts: Lab) -> Lab:
    """A second table, in another order."""
    count = ROWS + 100_000
    numbers = [n * 7919 % count for n in range(count)]
    table = pa.table({"n": numbers, "s": [f"{n:0100}" for n in numbers], "t": [f"other {n}" for n in numbers]})
    texts.load("more", table)
    return texts


def most_memory(lab: Lab, started: Any) -> int:
    """Kilobytes that the process of a query has had at most, as far as it was seen."""
    most = 0
    while started.popen.poll() is None:
        for process in lab.functions():
            try:
                status = Path(f"/proc/{process}/status").read_text()
            except OSError:
                continue
            most = max([most, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))])
        os.sched_yield()
    return most


@pytest.mark.parametrize("kind", JOINS)
def test_joins_larger_than_memory(more: Lab, kind: str) -> None:
    select, rows = JOINS[kind]
    path, small = more.folder / "out.parquet", more.folder / "small.parquet"
    more.forebay("query", select, "--to", path).ok()
    started = more.start("query", select, "--memory", "12MiB", "--to", small)
    most = most_memory(more, started)
    started.wait().ok()
    tables = [pa.parquet.read_table(one) for one in (path, small)]
    assert tables[0].num_rows == rows
    keys = [(name, "ascending") for name in tables[0].column_names]
    assert tables[0].sort_by(keys).equals(tables[1].sort_by(keys))
    assert spilled(more) == []
    # Pages that are decoded, batches on their way and the engine itself come on top of the 12 MiB.
    assert most < 120_000, f"{most} kB"


def test_ctrl_c_ends_a_join_on_disk(more: Lab) -> None:
    path = more.folder / "out.csv"
    # Every text meets every other.
    sql = "SELECT a.s, b.s AS t FROM texts a JOIN more b ON a.n % 2 = b.n % 2"
    started = more.start("query", sql, "--memory", "12MiB", "--to", path)
    until(lambda: any(files for _, _, files in os.walk(more.home / "state/spill")))
    started.interrupt()
    assert started.wait().code != 0
    assert no_function_is_left(more) and not path.exists()
    until(lambda: spilled(more) == [])


def test_no_room_to_spill(texts: Lab) -> None:
    (texts.home / "config.toml").write_text('[query]\nmemory = "8MiB"\nspill = "1MiB"\n')
    failed = texts.forebay("query", "SELECT n, s FROM texts ORDER BY s", "--to", texts.folder / "x.csv").failed(3)
    assert "RUN0041" in failed.err
    assert spilled(texts) == [] and not list(texts.folder.glob("*.part"))
    (texts.home / "config.toml").write_text('[query]\nmemory = "8MiB"\nspill_folder = "/dev/null/x"\n')
    assert "/dev/null/x" in texts.forebay("query", "SELECT n FROM texts ORDER BY s", "--to", texts.folder / "x.csv").failed(3).err
    (texts.home / "config.toml").write_text('[query]\nmemroy = "8MiB"\n')
    assert "memory" in texts.forebay("query", "SELECT 1 AS x").failed(2).err


def test_too_little_memory_is_told(texts: Lab) -> None:
    failed = texts.forebay("query", "SELECT a.s, b.s AS t FROM texts a CROSS JOIN texts b", "--memory", "8MiB", "-o", "json").failed(1)
    assert "RUN0042" in failed.err and "--memory" in failed.err


def test_what_a_killed_daemon_left_is_removed(texts: Lab) -> None:
    texts.forebay("daemon", "stop").ok()
    left = texts.home / "state/spill/1/2"
    left.mkdir(parents=True)
    (left / "file").write_text("x")
    assert texts.rows("SELECT count(*) AS n FROM texts") == [{"n": ROWS}]
    assert spilled(texts) == []


#: Never ends by itself within a test, and fills any pipe.
ENDLESS = "SELECT a.n, a.s FROM texts a CROSS JOIN texts b"


def test_ctrl_c_ends_a_query(texts: Lab) -> None:
    path = texts.folder / "out.csv"
    started = texts.start("query", ENDLESS, "-o", "json")
    assert os.read(started.popen.stdout.fileno(), 1000)
    started.interrupt()
    assert started.wait().code != 0
    assert no_function_is_left(texts)
    assert spilled(texts) == []
    writes = texts.start("query", ENDLESS, "--to", path)
    until(lambda: any(part.stat().st_size for part in texts.folder.glob("*.part")))
    writes.interrupt()
    assert writes.wait().code != 0
    assert not path.exists() and not list(texts.folder.glob("*.part"))
    assert no_function_is_left(texts)
    assert {job["status"] for job in texts.json("job", "ls", "-k", "query")["jobs"]} == {"CANCELLED"}


@pytest.mark.parametrize("to", ["csv", "parquet", "jsonl", "arrow", None])
def test_a_query_that_fails_when_rows_have_left_says_why(texts: Lab, to: str | None) -> None:
    sql = f"SELECT n, s, 1 / (n - {ROWS - 5}) AS x FROM texts"
    path = texts.folder / f"out.{to}"
    failed = texts.forebay("query", sql, *(("--to", path) if to else ("-o", "json"))).failed(1)
    assert "RUN0017" in failed.err and "zero" in failed.err
    assert not path.exists() and not list(texts.folder.glob("*.part"))


def test_a_reader_that_leaves_ends_a_query(texts: Lab, client: forebay.Client) -> None:
    with client.query_to_batches(ENDLESS) as batches:
        assert batches.schema.names == ["n", "s"]
        assert next(batches).num_rows > 0
    assert no_function_is_left(texts)
    rows = client.query_to_generator(ENDLESS)
    assert next(rows)["n"] == 0
    del rows
    assert no_function_is_left(texts)
    with pytest.raises(JobTimeoutError):
        client.query_to_csv_file(texts.folder / "x.csv", ENDLESS, client_timeout=2)
    assert no_function_is_left(texts)
    assert not list(texts.folder.glob("*.part")) and not (texts.folder / "x.csv").exists()


def test_streams_are_whole_tables(texts: Lab, client: forebay.Client) -> None:
    whole = client.query("SELECT * FROM texts")
    assert whole["n"].to_pylist() == list(range(ROWS))
    with client.query_to_batches("SELECT * FROM texts") as batches:
        assert pa.Table.from_batches(list(batches), batches.schema).equals(whole)
    path = texts.folder / "t.parquet"
    assert client.query_to_parquet_file(path, "SELECT * FROM texts", memory="64M") == path
    assert pa.parquet.read_table(path).equals(whole)
    assert pa.parquet.ParquetFile(path).metadata.num_row_groups == -(-ROWS // 131072)
    client.query_to_csv_file(texts.folder / "t.csv", "SELECT n, k FROM texts")
    assert pa.csv.read_csv(texts.folder / "t.csv").num_rows == ROWS
    assert sum(row["n"] for row in client.query_to_generator("SELECT n FROM texts")) == ROWS * (ROWS - 1) // 2


def test_a_failure_in_the_middle_leaves_no_file(texts: Lab, client: forebay.Client) -> None:
    sql = f"SELECT CAST(CASE WHEN n = {ROWS - 1} THEN 'x' ELSE '1' END AS INT) AS i FROM texts"
    path = texts.folder / "x.csv"
    failed = texts.forebay("query", sql, "--to", path).failed(1)
    assert "RUN0017" in failed.err and not path.exists() and not list(texts.folder.glob("*.part"))
    for ask in (client.query, lambda sql: list(client.query_to_generator(sql)), lambda sql: client.query_to_json_file(path, sql)):
        with pytest.raises(ForebayQueryError) as raised:
            ask(sql)
        assert raised.value.code == "RUN0017"
    assert not path.exists()


def test_wrong_arguments_of_the_client(client: forebay.Client) -> None:
    for wrong in ({"memory": "a lot"}, {"memory": 0}, {"memory": True}, {"priority": 11}, {"args": "x"}, {"cache": "maybe"}):
        with pytest.raises(ValueError):
            client.query("SELECT 1 AS x", **wrong)
    assert client.query("SELECT 1 AS x", args={"a": "b"}, priority=3, memory=1 << 26, cache="off").to_pylist() == [{"x": 1}]
    assert client.query_to_generator("SELECT 1 AS x WHERE false").__next__ and list(client.query_to_generator("SELECT 1 AS x WHERE 1 = 0")) == []


def test_the_past(lab: Lab, client: forebay.Client) -> None:
    lab.load("t", pa.table({"x": [1]}))
    lab.forebay("tag", "create", "first").ok()
    old = lab.head()
    lab.load("t", pa.table({"x": [2, 3]}))
    lab.load("u", pa.table({"y": [4]}))
    for ref in ("first", f"main@{old}"):
        assert client.query("SELECT x FROM t", ref=ref).to_pylist() == [{"x": 1}]
        assert list(client.query_to_generator("SELECT x FROM t", ref=ref)) == [{"x": 1}]
        assert client.scan("t", ref=ref).num_rows == 1
        assert "u" in lab.forebay("query", "SELECT y FROM u", "-r", ref).failed(1).err
    assert client.query("SELECT sum(x) + max(y) AS z FROM t, u").to_pylist() == [{"z": 9}]
