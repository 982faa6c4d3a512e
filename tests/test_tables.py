"""What runs do to tables: merges, growing schemas, layouts and documentation, and two writers at one table."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from conftest import Lab
from pyiceberg.table import StaticTable

MERGE = """
@forebay.model(materialization_strategy="MERGE", merge_keys=["id"], delete_when="gone", sorted_by="id desc")
def people(changes=forebay.Model("changes")):
    '''People as they are now.

    Columns:
        id: Which one
        name (text): What they are called
    '''
    return changes
"""


def changes(lab: Lab, *rows: tuple[int, str | None, bool]) -> None:
    ids, names, gone = zip(*rows)
    lab.load("changes", pa.table({"id": ids, "name": pa.array(names, pa.string()), "gone": gone}))


def people(lab: Lab) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in lab.rows("SELECT * FROM people ORDER BY id")]


def test_a_merge_updates_inserts_and_deletes(lab: Lab) -> None:
    project = lab.project(MERGE)
    changes(lab, (1, "ann", False), (2, "bob", False), (3, "cy", True))
    lab.run(project).ok()
    assert people(lab) == [(1, "ann"), (2, "bob")]
    changes(lab, (2, "Bob", False), (1, None, True), (4, "dee", False))
    lab.run(project).ok()
    assert people(lab) == [(2, "Bob"), (4, "dee")]
    head = lab.head()
    lab.run(project).ok()
    assert people(lab) == [(2, "Bob"), (4, "dee")], "the same changes again are the same"
    assert lab.rows("SELECT count(*) AS n FROM people", f"main@{head}") == [{"n": 2}]
    shown = lab.json("table", "get", "people")["table"]
    assert shown["comment"] == "People as they are now."
    assert [field.get("doc") for field in shown["fields"]] == ["Which one", "What they are called"]
    table = StaticTable.from_metadata(shown["metadata_location"])
    assert [field.doc for field in table.schema().fields] == ["Which one", "What they are called"]
    assert [str(field.direction) for field in table.sort_order().fields] == ["DESC"]
    assert table.scan().to_arrow()["id"].to_pylist() == [4, 2]


def test_a_merge_in_sql_with_a_parameter(lab: Lab) -> None:
    sql = """-- People as they are now.
-- forebay: materialization_strategy=MERGE
-- forebay: merge_keys=id
-- forebay: delete_when=name = $gone
SELECT id, name FROM changes
"""
    project = lab.project({"people.sql": sql}, settings='[parameters.gone]\ndefault = "-"\n')
    changes(lab, (1, "ann", False), (2, "bob", False))
    lab.run(project).ok()
    changes(lab, (1, "-", False), (3, "?", False))
    lab.run(project).ok()
    assert people(lab) == [(2, "bob"), (3, "?")]
    lab.run(project, "--param", "gone=?").ok()
    assert people(lab) == [(1, "-"), (2, "bob")]


def test_merges_that_are_refused_change_nothing(lab: Lab) -> None:
    project = lab.project(MERGE)
    changes(lab, (1, "ann", False))
    lab.run(project).ok()
    head = lab.head()
    lab.load("changes", pa.table({"id": [5, 5], "name": ["a", "b"], "gone": [False, True]}))
    failed = lab.run(project).failed()
    assert failed.json["error"]["code"] == "LAK0043" and "(5)" in str(failed.json["error"]), failed
    lab.load("changes", pa.table({"id": pa.array([None], pa.int64()), "name": ["a"], "gone": [False]}))
    assert lab.run(project).failed().json["error"]["code"] == "LAK0043"
    lab.load("changes", pa.table({"id": [0.5], "name": ["a"], "gone": [False]}))
    assert lab.run(project).failed().json["error"]["code"] in ("LAK0013", "LAK0042")
    lab.load("changes", pa.table({"name": ["a"], "gone": [False]}))
    assert lab.run(project).failed().json["error"]["code"] == "LAK0042"
    assert people(lab) == [(1, "ann")] and head != ""


def test_schemas_grow_when_rows_are_added(lab: Lab) -> None:
    source = '@forebay.model(materialization_strategy="APPEND")\ndef t():\n    return pa.table({})\n'
    lab.run(lab.project(source.format('{"a": pa.array([1], pa.int32()), "f": pa.array([0.5], pa.float32())}'))).ok()
    done = lab.run(lab.project(source.format('{"b": ["x"], "f": [0.1], "a": [2**40]}'))).ok()
    logged = lab.forebay("job", "logs", done.json["job_id"]).ok().out + done.err
    assert "added column `b` of `default.t`" in logged and "widened column `a` from Int32 to Int64" in logged, logged
    table = StaticTable.from_metadata(lab.metadata("t"))
    assert [(field.field_id, field.name, str(field.field_type)) for field in table.schema().fields] == [
        (1, "a", "long"),
        (2, "f", "double"),
        (3, "b", "string"),
    ]
    assert lab.rows("SELECT * FROM t ORDER BY a") == [{"a": 1, "f": 0.5, "b": None}, {"a": 2**40, "f": 0.1, "b": "x"}]
    refused = lab.run(lab.project(source.format('{"a": ["text"]}'))).failed()
    assert refused.json["error"]["code"] == "LAK0013"
    assert lab.rows("SELECT count(*) AS n FROM t") == [{"n": 2}]


def test_overwriting_by_any_filter_on_partition_columns(lab: Lab) -> None:
    source = """
@forebay.model(materialization_strategy="OVERWRITE_PARTITIONS", partitioned_by=["day(ts)", "country"],
               overwrite_filter="{filter}")
def t():
    return pa.table({{"ts": pa.array({ts}, pa.timestamp("us")), "country": pa.array({countries}, pa.string())}})
"""
    hour = 3_600_000_000

    def run(filter: str, ts: list[int], countries: list[str | None]) -> list[tuple[int, str | None]]:
        lab.run(lab.project(source.format(filter=filter, ts=[one * hour for one in ts], countries=countries))).ok()
        rows = lab.query("SELECT ts, country FROM t").to_pylist()
        return sorted(((row["ts"].day - 1) * 24 + row["ts"].hour, row["country"]) for row in rows)

    first = [(1, "de"), (3, ""), (30, "it"), (40, "de")]
    assert run("country = 'de'", [1, 3, 30, 40], ["de", "", "it", "de"]) == first
    assert run("date_trunc('day', ts) = DATE '1970-01-02' AND country LIKE 'i%'", [31], ["x"]) == [
        (1, "de"), (3, ""), (31, "x"), (40, "de"),
    ]
    assert run("ts BETWEEN TIMESTAMP '1970-01-01' AND TIMESTAMP '1970-01-01T02:00:00' OR length(country) = 0", [], []) == [
        (31, "x"), (40, "de"),
    ]
    assert run("NOT (country = 'x')", [2], ["x"]) == [(2, "x"), (31, "x")]


WAITING = """
@forebay.model(materialization_strategy="MERGE", merge_keys=["id"])
def people():
    {gate}
    return pa.table({{"id": {ids}, "name": ["late"] * {count}}})
"""


def race(lab: Lab, ids: list[int], meanwhile: list[int]) -> Any:
    """A merge of `ids` that waits while `meanwhile` is appended."""
    gate = lab.gate(f"gate-{ids}-{meanwhile}".replace(" ", ""))
    slow = lab.project(WAITING.format(gate=gate.code, ids=ids, count=len(ids)), name="slow")
    running = lab.start_run(slow)
    gate.wait()
    lab.load("other", pa.table({"id": meanwhile, "name": ["quick"] * len(meanwhile)}))
    copy = '@forebay.model(materialization_strategy="APPEND", name="people")\ndef more(other=forebay.Model("other")):\n    return other\n'
    lab.run(lab.project(copy, name="quick")).ok()
    gate.open()
    return running.wait()


def test_a_merge_beside_an_append(lab: Lab) -> None:
    """Where no key meets, both are kept; where one does, the merge has lost."""
    lab.gate("first")
    first = '@forebay.model(materialization_strategy="REPLACE")\ndef people():\n    return pa.table({"id": [1, 2], "name": ["a", "b"]})\n'
    lab.run(lab.project(first)).ok()
    race(lab, [2, 3], [10, 11]).ok()
    assert people(lab) == [(1, "a"), (2, "late"), (3, "late"), (10, "quick"), (11, "quick")]
    lost = race(lab, [4, 12], [12]).failed()
    assert lost.json["error"]["code"] == "CAT0004", lost
    assert people(lab)[-2:] == [(11, "quick"), (12, "quick")] and len(people(lab)) == 6
