"""`forebay query`: one SELECT at a ref, for a person, a program or a file."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
import pytest
from conftest import Lab

PEOPLE = pa.table({"id": [1, 2, 3], "name": ["ann", "bo", None], "score": [1.5, None, -2.0]})


@pytest.fixture
def people(lab: Lab) -> Lab:
    lab.load("people", PEOPLE)
    return lab


def test_constants_need_no_table(lab: Lab) -> None:
    assert lab.rows("SELECT 1 AS one, 'x' AS x") == [{"one": 1, "x": "x"}]


def test_json(people: Lab) -> None:
    done = people.forebay("query", "SELECT * FROM people ORDER BY id", "-o", "json").ok().json
    assert done["schema"] == 1 and done["job_id"]
    assert [field["name"] for field in done["fields"]] == ["id", "name", "score"]
    rows = [{key: value for key, value in row.items() if value is not None} for row in done["results"]]
    assert rows == [{"id": 1, "name": "ann", "score": 1.5}, {"id": 2, "name": "bo"}, {"id": 3, "score": -2.0}]


def test_printed(people: Lab) -> None:
    printed = people.forebay("query", "SELECT name FROM people ORDER BY id").ok()
    assert "ann" in printed.out and "bo" in printed.out and "name" in printed.out
    many = people.forebay("query", "SELECT a.id FROM people a, people b, people c").ok()
    assert "--all-rows" in many.err and len(many.out.splitlines()) < 20
    all_rows = people.forebay("query", "SELECT a.id FROM people a, people b, people c", "--all-rows").ok()
    assert len(all_rows.out.splitlines()) >= 27
    assert len(people.forebay("query", "SELECT * FROM people", "--max-rows", "1", "-o", "json").ok().json["results"]) == 1
    long = people.forebay("query", "SELECT repeat('x', 100) AS x").ok().out
    assert "x" * 100 not in long
    assert "x" * 100 in people.forebay("query", "SELECT repeat('x', 100) AS x", "--no-trunc").ok().out


def test_files(people: Lab) -> None:
    sql = "SELECT * FROM people ORDER BY id"
    read = {
        "arrow": lambda path: pa.ipc.open_file(path).read_all().to_pylist(),
        "parquet": lambda path: pa.parquet.read_table(path).to_pylist(),
        "json": lambda path: json.loads(path.read_text()),
        "jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    }
    wanted = PEOPLE.to_pylist()
    for ending, reader in read.items():
        path = people.folder / f"out.{ending}"
        assert people.forebay("query", sql, "--to", path).ok().out == ""
        rows = [{name: row.get(name) for name in PEOPLE.column_names} for row in reader(path)]
        assert rows == wanted, ending
    path = people.folder / "out.csv"
    people.forebay("query", sql, "--to", path).ok()
    assert path.read_text().splitlines()[:2] == ["id,name,score", "1,ann,1.5"]
    refused = people.forebay("query", sql, "--to", people.folder / "out.xyz")
    assert refused.code == 2 and ".parquet" in refused.err


def test_from_a_file(people: Lab) -> None:
    path = people.folder / "question.sql"
    path.write_text("SELECT count(*) AS n\nFROM people;\n")
    assert people.forebay("query", "-f", path, "-o", "json").ok().json["results"] == [{"n": 3}]


def test_zero_rows_have_columns(people: Lab) -> None:
    got = people.query("SELECT id, name FROM people WHERE id > 99")
    assert got.num_rows == 0 and got.column_names == ["id", "name"]
    assert people.query("SELECT * FROM people WHERE false").column_names == people.query("SELECT * FROM people").column_names


def test_names(lab: Lab) -> None:
    table = pa.table({"Camel": [1], "with space": [2], "größe": [3]})
    lab.load("Mixed", table)
    lab.load("other.t", pa.table({"x": [4]}))
    assert lab.rows('SELECT "Camel", "with space", "größe" FROM "Mixed"') == table.to_pylist()
    assert lab.rows("SELECT x FROM other.t") == [{"x": 4}]
    done = lab.forebay("query", "-n", "other", "SELECT x FROM t", "-o", "json").ok()
    assert done.json["results"] == [{"x": 4}]


MISTAKES = {
    "SELEC 1": "SELEC",
    "SELECT nothing FROM people": "nothing",
    "SELECT * FROM poeple": "people",
    "SELECT 1; SELECT 2": "",
    "DROP TABLE people": "",
    "INSERT INTO people VALUES (1, 'x', 2)": "",
    "CREATE TABLE x AS SELECT 1": "",
    "SELECT 'x' + DATE '2020-01-01' FROM people": "",
    "": "",
}


@pytest.mark.parametrize("sql", MISTAKES)
def test_mistakes(people: Lab, sql: str) -> None:
    failed = people.forebay("query", sql)
    assert failed.code in (1, 2) and "error[" in failed.err and MISTAKES[sql] in failed.err, str(failed)
    assert people.rows("SELECT count(*) AS n FROM people") == [{"n": 3}]


def test_failures_while_running(people: Lab) -> None:
    failed = people.forebay("query", "SELECT CAST(name AS INT) FROM people").failed(1)
    assert "ann" in failed.err
    people.forebay("query", "SELECT 1 / (id - id) FROM people").failed(1)


def test_no_file_of_the_machine_can_be_read(people: Lab) -> None:
    path = people.folder / "secret.csv"
    path.write_text("secret\n42\n")
    for sql in (f"SELECT * FROM '{path}'", f"SELECT * FROM \"{path}\""):
        assert "42" not in people.forebay("query", sql).failed(1).out
