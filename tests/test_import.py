"""Files into tables: formats, folders, plans, files imported once, bad files; tables of other engines; histories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import Lab
from engines import RestServer
from pyiceberg.table import StaticTable


def put(lab: Lab, name: str, rows: Any) -> Path:
    """A file to import: rows as text, or a table."""
    path = lab.folder / "files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, str):
        path.write_text(rows)
    else:
        pyarrow.parquet.write_table(pa.table(rows), path)
    return path


def test_all_formats_and_folders(lab: Lab) -> None:
    put(lab, "h/year=2023/city=a%2Fb/1.csv", "id,at\n1,2023-05-01 10:00:00\n2,\n")
    put(lab, "h/year=2024/city=c/2.jsonl", '{"id": 3, "at": "2024-01-02T03:04:05"}\n{"at": null, "id": 4}\n')
    put(lab, "h/year=2024/city=__HIVE_DEFAULT_PARTITION__/3.parquet", {"id": [5]})
    put(lab, "h/_SUCCESS", "")
    files = lab.folder / "files/h"
    # JSON has no dates: with a CSV file that has, the types differ.
    plan = lab.json("table", "create-plan", "t", "--search-uri", files)
    assert plan["conflicts"] == ["at"] and len(plan["files_to_be_imported"]) == 3
    lab.forebay("table", "create", "t", "--search-uri", files / "year=2023", "--partitioned-by", "year").failed()
    lab.forebay("table", "create", "t", "--search-uri", files / "**/*.csv", "--partitioned-by", "year", "--sorted-by", "id").ok()
    done = lab.json("table", "import", "t", "--search-uri", files)
    assert done["rows"] == 5 and len(done["files"]) == 3
    rows = lab.rows("SELECT id, year, city, CAST(at AS VARCHAR) AS at FROM t ORDER BY id")
    assert [tuple(row.values())[:3] for row in rows] == [
        (1, 2023, "a/b"), (2, 2023, "a/b"), (3, 2024, "c"), (4, 2024, "c"), (5, 2024, None),
    ]
    assert [row["at"] and row["at"][:10] for row in rows] == ["2023-05-01", None, "2024-01-02", None, None]
    table = StaticTable.from_metadata(lab.metadata("t"))
    assert table.scan(row_filter="year = 2023").to_arrow().num_rows == 2
    assert lab.json("table", "get", "t")["table"]["sort_order"] == ["id"]


def test_files_are_imported_once(lab: Lab) -> None:
    one = put(lab, "a.csv", "id\n1\n")
    lab.forebay("table", "create", "t", "--search-uri", one).ok()
    assert lab.json("table", "import", "t", "--search-uri", one)["rows"] == 1
    link = lab.folder / "link"
    link.symlink_to(lab.folder / "files")
    for again in [one, one.parent, f"file://{one}", one.parent / "../files/a.csv", link / "*.csv"]:
        head = lab.head()
        done = lab.json("table", "import", "t", "--search-uri", again)
        assert (done["rows"], len(done["skipped"]), lab.head()) == (0, 1, head), again
    put(lab, "b.csv", "id\n2\n")
    assert lab.json("table", "import", "t", "--search-uri", one.parent)["files"] == [str(one.parent / "b.csv")]
    assert lab.json("table", "import", "t", "--search-uri", one, "--import-duplicate-files")["rows"] == 1
    assert lab.rows("SELECT id FROM t ORDER BY id") == [{"id": 1}, {"id": 1}, {"id": 2}]
    # What was imported on another branch counts there.
    lab.forebay("branch", "create", "dev").ok()
    put(lab, "c.csv", "id\n3\n")
    assert lab.json("table", "import", "t", "--search-uri", one.parent, "-b", "dev")["rows"] == 1
    assert lab.json("table", "import", "t", "--search-uri", one.parent)["rows"] == 1
    # A table made anew has been given nothing.
    lab.forebay("table", "create", "t", "--search-uri", one, "--replace").ok()
    assert lab.json("table", "import", "t", "--search-uri", one.parent)["rows"] == 3


def test_bad_files(lab: Lab) -> None:
    good = put(lab, "a.csv", "id,name\n1,x\n")
    lab.forebay("table", "create", "t", "--search-uri", good).ok()
    put(lab, "b.csv", "id,name\n2.5,y\n")
    put(lab, "c.csv", "id,name,more\n3,z,1\n")
    put(lab, "d.parquet", "no parquet")
    put(lab, "e.jsonl", '{"id": 5}\n[1]\n')
    head = lab.head()
    failed = lab.forebay("table", "import", "t", "--search-uri", good.parent, "-o", "json").failed()
    assert failed.json["error"]["code"] == "LAK0023" and "row 1" in failed.json["error"]["message"]
    assert lab.head() == head
    done = lab.json("table", "import", "t", "--search-uri", good.parent, "--continue-on-error")
    assert done["rows"] == 1 and [Path(one["file"]).name for one in done["failed"]] == ["b.csv", "c.csv", "d.parquet", "e.jsonl"]
    assert [code for code in ("LAK0023", "LAK0022", "LAK0020") if code in json.dumps(done["failed"])] == ["LAK0023", "LAK0022", "LAK0020"]
    # What was refused can be imported when it is forgiven.
    done = lab.json("table", "import", "t", "--search-uri", good.parent, "--continue-on-error", "--best-effort")
    assert done["rows"] == 1 and [Path(one).name for one in done["files"]] == ["c.csv"]
    assert lab.rows("SELECT * FROM t ORDER BY id") == [{"id": 1, "name": "x"}, {"id": 3, "name": "z"}]


def mixed(lab: Lab) -> Path:
    put(lab, "m/a.parquet", {"id": pa.array([1], pa.int32()), "v": [1], "at": ["31/01/2024 10:00"]})
    put(lab, "m/b.parquet", {"id": [2**40], "v": ["two"], "at": ["01/02/2024 11:30"]})
    return lab.folder / "files/m"


def test_a_plan_is_edited_and_applied(lab: Lab) -> None:
    files = mixed(lab)
    refused = lab.forebay("table", "create", "t", "--search-uri", files, "-o", "json").failed().json["error"]
    assert refused["code"] == "LAK0021" and "create-plan" in refused["hint"] and "Int64 in" in refused["message"]
    assert lab.tables() == []
    path = lab.folder / "plan.yml"
    told = lab.forebay("table", "create-plan", "t", "--search-uri", files, "--partitioned-by", "bucket(2, id)", "-p", path).ok()
    assert "files disagree about column `v`" in told.err and told.out == ""
    text = path.read_text()
    assert lab.forebay("table", "create-plan-apply", "--plan", path, "-o", "json").failed().json["error"]["code"] == "CTL0052"
    id, v, at = (text.index(f"- column_name: {name}\n") for name in ("id", "v", "at"))
    assert "    - datatype: int\n" in text[id:v] and "    dst_datatype:\n    - datatype: long\n" in text[id:v]
    assert "    dst_datatype:\n    - datatype: long\n    - datatype: string\n" in text[v:at]
    assert "- from_column_name: id\n    transform:\n      name: bucket[2]\n" in text[at:]
    conflicts = text[text.index("  conflicts:") : text.index("  detected_schemas:")]
    assert "column_with_conflict: v" in conflicts and "reconcile_step: " in conflicts
    text = text.replace(conflicts, "  conflicts: []\n")
    text = text.replace("    - datatype: long\n    - datatype: string\n", "    - datatype: string\n")
    head, tail = text.split("- column_name: at\n")
    time = "timestamp\n      unit: us\n      timezone: UTC\n      parse_format: '%d/%m/%Y %H:%M'\n"
    tail = tail.replace("    dst_datatype:\n    - datatype: string\n", f"    dst_datatype:\n    - datatype: {time}")
    path.write_text(f"{head}- column_name: at\n{tail}")
    made = lab.json("table", "create-plan-apply", "--plan", path)["table"]
    assert [(field["name"], field["type"]) for field in made["fields"]] == [("id", "long"), ("v", "string"), ("at", "timestamptz")]
    assert made["partitions"][0]["transform"] == "bucket[2]" and "forebay.import-casts" not in made["properties"]
    assert lab.json("table", "import", "t", "--search-uri", files)["rows"] == 2
    rows = lab.rows("SELECT v, CAST(at AS VARCHAR) AS at FROM t ORDER BY id")
    assert [row["v"] for row in rows] == ["1", "two"]
    assert [row["at"][:16].replace(" ", "T") for row in rows] == ["2024-01-31T10:00", "2024-02-01T11:30"]
    again = lab.forebay("table", "create-plan-apply", "--plan", path, "-o", "json").failed()
    assert again.json["error"]["code"] == "CTL0020"
    path.write_text("nothing: here")
    assert lab.forebay("table", "create-plan-apply", "--plan", path, "-o", "json").failed().json["error"]["code"] == "CTL0052"
    # Without conflicts a plan is applied as it comes.
    put(lab, "one/a.csv", "id\n1\n")
    whole = lab.forebay("table", "create-plan", "u", "--search-uri", lab.folder / "files/one").ok()
    path.write_text(whole.out)
    lab.forebay("table", "create-plan-apply", "--plan", path).ok()
    assert lab.tables() == ["default.t", "default.u"]


class Foreign:
    """A table of another lake, which is another engine's to this one."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.add({"id": [1, 2], "name": ["a", "b"]})

    def add(self, rows: dict[str, list[Any]]) -> None:
        source = f'@forebay.model(materialization_strategy="APPEND")\ndef t():\n    return pa.table({rows!r})\n'
        self.there(lambda: self.lab.run(self.lab.project(source, name="there")).ok())

    def location(self) -> str:
        return self.there(lambda: self.lab.metadata("t"))

    def there(self, work: Callable[[], Any]) -> Any:
        ours = self.lab.environment["FOREBAY_LAKE"]
        self.lab.environment["FOREBAY_LAKE"] = f"file://{self.lab.folder}/warehouse"
        try:
            return work()
        finally:
            self.lab.environment["FOREBAY_LAKE"] = ours


def test_a_table_of_another_engine_is_read_only(lab: Lab) -> None:
    other = Foreign(lab)
    location = other.location()
    made = lab.json("table", "create-external", "orders", "--metadata-json-uri", location)["table"]
    assert made["kind"] == "EXTERNAL_TABLE" == lab.json("table", "ls")["tables"][0]["kind"]
    assert "external, read only" in lab.forebay("table", "get", "orders").ok().out
    assert lab.rows("SELECT * FROM orders ORDER BY id") == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    project = lab.project("""
@forebay.model(materialization_strategy="REPLACE")
def copied(orders=forebay.Model("orders", filter="id > 1")):
    return orders
""")
    lab.run(project).ok()
    assert lab.rows("SELECT * FROM copied") == [{"id": 2, "name": "b"}]
    head = lab.head()
    file = put(lab, "a.csv", "id,name\n3,c\n")
    for strategy in ('"REPLACE"', '"APPEND"', '"MERGE", merge_keys="id"'):
        writing = lab.project(f'@forebay.model(materialization_strategy={strategy})\ndef orders():\n    return pa.table({{"id": [9]}})\n')
        assert lab.run(writing).failed().json["error"]["code"] == "CTL0051", strategy
    for command in (["import", "orders"], ["create", "orders", "--replace"]):
        refused = lab.forebay("table", *command, "--search-uri", file, "-o", "json").failed()
        assert refused.json["error"]["code"] == "CTL0051", command
    with RestServer(lab) as server:
        table = server.pyiceberg().load_table("default.orders")
        assert table.scan().to_arrow().num_rows == 2
        with pytest.raises(Exception, match="external"):
            table.append(pa.table({"id": [9], "name": ["z"]}))
    assert lab.head() == head and other.location() == location
    # Newer metadata is another state; the older commit keeps the older one.
    other.add({"id": [3], "name": ["c"]})
    newer = other.location()
    exists = lab.forebay("table", "create-external", "orders", "--metadata-json-uri", newer, "-o", "json").failed()
    assert exists.json["error"]["code"] == "CTL0020"
    lab.forebay("table", "create-external", "orders", "--metadata-json-uri", newer, "--overwrite").ok()
    assert lab.rows("SELECT count(*) AS n FROM orders") == [{"n": 3}]
    assert lab.rows("SELECT count(*) AS n FROM orders", f"main@{head}") == [{"n": 2}]
    lab.forebay("table", "rm", "orders").ok()
    assert StaticTable.from_metadata(newer).scan().to_arrow().num_rows == 3, "its files stay"


def test_what_cannot_be_registered(lab: Lab) -> None:
    lab.load("t", pa.table({"id": [1]}))
    inside = lab.forebay("table", "create-external", "u", "--metadata-json-uri", lab.metadata("t"), "-o", "json").failed()
    assert inside.json["error"]["code"] == "CTL0053"
    moved = lab.folder / "elsewhere.json"
    shutil.copy(lab.metadata("t"), moved)
    hidden = lab.forebay("table", "create-external", "u", "--metadata-json-uri", moved, "-o", "json").failed()
    assert hidden.json["error"]["code"] == "CTL0053", "its files are the lake's, wherever the metadata lies"
    broken = moved.with_name("broken.json")
    broken.write_text("{}")
    broken = lab.forebay("table", "create-external", "u", "--metadata-json-uri", broken, "-o", "json").failed(3)
    assert broken.json["error"]["code"] == "LAK0001"
    assert lab.tables() == ["default.t"]


def test_the_history_of_a_table(lab: Lab) -> None:
    files = put(lab, "a.csv", "id\n1\n2\n").parent
    lab.forebay("table", "create", "t", "--search-uri", files).ok()
    lab.forebay("table", "import", "t", "--search-uri", files).ok()
    lab.load("other", pa.table({"x": [1]}))
    lab.forebay("branch", "create", "dev").ok()
    put(lab, "b.csv", "id\n3\n")
    lab.forebay("table", "import", "t", "--search-uri", files, "-b", "dev").ok()
    lab.load("more", pa.table({"x": [1]}))
    lab.forebay("checkout", "main").ok()
    lab.forebay("branch", "merge", "dev").ok()
    changes = lab.json("table", "history", "t", "-r", "main")["changes"]
    shown = [(one["change"], one.get("operation"), one.get("records"), one.get("added_records")) for one in changes]
    assert shown == [("changed", "append", 3, 1), ("changed", "append", 2, 2), ("created", None, 0, None)]
    assert all(len(one["hash"]) == 64 and one["author"] == "ann" for one in changes)
    assert len(lab.json("table", "history", "t", "--limit", "1")["changes"]) == 1
    lab.forebay("table", "rm", "t").ok()
    assert lab.json("table", "history", "t")["changes"][0]["change"] == "deleted"
    assert lab.rows("SELECT count(*) AS n FROM t", f"@{changes[1]['hash']}") == [{"n": 2}]
    text = lab.forebay("table", "history", "t").ok().out
    assert text.splitlines()[0].split() == ["COMMIT", "TIME", "AUTHOR", "CHANGE", "ROWS", "ADDED", "DELETED", "MESSAGE"]
    assert lab.forebay("table", "history", "none", "-o", "json").failed().json["error"]["code"] == "CTL0019"
