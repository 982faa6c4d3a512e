"""Files to import, and files that are tables, in the buckets of a real S3 server: by lakes on the disk and in a bucket."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import Lab
from s3_server import S3Server


class Bucket:
    """A prefix of its own in the bucket of sources, and the lab that reads it."""

    def __init__(self, lab: Lab, s3: S3Server, name: str) -> None:
        self.lab, self.files, self.uri = lab, s3.files(), f"s3://sources/{name}"
        lab.environment.update(s3.variables())

    def put(self, name: str, rows: Any) -> str:
        """A file: rows as text, or a table."""
        if isinstance(rows, str):
            content = rows.encode()
        else:
            memory = io.BytesIO()
            pyarrow.parquet.write_table(pa.table(rows), memory)
            content = memory.getvalue()
        with self.files.open_output_stream(f"{self.uri.removeprefix('s3://')}/{name}") as out:
            out.write(content)
        return f"{self.uri}/{name}"


@pytest.fixture(params=["on the disk", "in a bucket"])
def bucket(request: pytest.FixtureRequest, lab: Lab, s3: S3Server) -> Bucket:
    """Sources for a lake of each kind."""
    name = f"{lab.folder.name}-{abs(hash(request.node.name))}"
    if request.param == "in a bucket":
        lab.environment["FOREBAY_LAKE"] = f"s3://lakes/{name}"
    return Bucket(lab, s3, name)


def test_all_formats_and_folders(bucket: Bucket) -> None:
    lab = bucket.lab
    bucket.put("h/year=2023/city=a%2Fb/1.csv", "id,at\n1,2023-05-01 10:00:00\n2,\n")
    bucket.put("h/year=2024/city=c/2.jsonl", '{"id": 3}\n{"id": 4}\n')
    bucket.put("h/year=2024/city=__HIVE_DEFAULT_PARTITION__/3.parquet", {"id": [5]})
    bucket.put("h/_SUCCESS", "")
    bucket.put("other/1.csv", "no,part\n1,2\n")
    files = f"{bucket.uri}/h"
    plan = lab.json("table", "create-plan", "t", "--search-uri", files)
    assert plan["conflicts"] == [] and len(plan["files_to_be_imported"]) == 3
    assert all(file.startswith(files) for file in plan["files_to_be_imported"])
    lab.forebay("table", "create", "t", "--search-uri", f"{files}/**/*.csv", "--partitioned-by", "year").ok()
    done = lab.json("table", "import", "t", "--search-uri", files)
    assert done["rows"] == 5 and len(done["files"]) == 3 and done["skipped"] == []
    rows = lab.rows("SELECT id, year, city FROM t ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [
        (1, 2023, "a/b"), (2, 2023, "a/b"), (3, 2024, "c"), (4, 2024, "c"), (5, 2024, None),
    ]
    # A glob that finds the same files, and `s3a`: none is new.
    for again in (f"{files}/*/*/*", files.replace("s3://", "s3a://"), f"{files}/year=2023", f"{files}/year=2023/city=a%2Fb/1.csv"):
        done = lab.json("table", "import", "t", "--search-uri", again)
        assert done["rows"] == 0 and done["skipped"], again
    bucket.put("h/year=2025/city=d/4.csv", "id,at\n6,\n")
    assert lab.json("table", "import", "t", "--search-uri", f"{files}/year=202?")["files"] == [f"{files}/year=2025/city=d/4.csv"]
    assert lab.json("table", "import", "t", "--search-uri", f"{files}/year=2025", "--import-duplicate-files")["rows"] == 1


def test_bad_files(bucket: Bucket) -> None:
    lab = bucket.lab
    good = bucket.put("a.csv", "id,name\n1,x\n")
    lab.forebay("table", "create", "t", "--search-uri", good).ok()
    bucket.put("b.csv", "id,name\n2.5,y\n")
    bucket.put("c.csv", "id,name,more\n3,z,1\n")
    bucket.put("d.parquet", "no parquet")
    bucket.put("e.jsonl", '{"id": 5}\n[1]\n')
    head = lab.head()
    failed = lab.forebay("table", "import", "t", "--search-uri", bucket.uri, "-o", "json").failed()
    assert failed.json["error"]["code"] == "LAK0023" and lab.head() == head
    done = lab.json("table", "import", "t", "--search-uri", bucket.uri, "--continue-on-error")
    assert done["rows"] == 1 and [Path(one["file"]).name for one in done["failed"]] == ["b.csv", "c.csv", "d.parquet", "e.jsonl"]
    text = json.dumps(done["failed"])
    assert all(code in text for code in ("LAK0023", "LAK0022", "LAK0020")) and "LAK0083" not in text
    done = lab.json("table", "import", "t", "--search-uri", bucket.uri, "--continue-on-error", "--best-effort")
    assert done["rows"] == 1 and [Path(one).name for one in done["files"]] == ["c.csv"]
    for uri, code in (("nothing", "LAK0018"), ("*.orc", "LAK0018")):
        refused = lab.forebay("table", "import", "t", "--search-uri", f"{bucket.uri}/{uri}", "-o", "json").failed()
        assert refused.json["error"]["code"] == code
    missing = lab.forebay("table", "import", "t", "--search-uri", "s3://no-such-bucket-here/x", "-o", "json").failed(2)
    assert missing.json["error"]["code"] == "LAK0081"


def test_what_keeps_from_a_bucket_is_said(lab: Lab, s3: S3Server) -> None:
    """A lake on the disk: nobody has looked at credentials before."""
    bucket = Bucket(lab, s3, "closed")
    file = bucket.put("a.csv", "id\n1\n")
    lab.forebay("table", "create", "t", "--search-uri", file).ok()

    def code(**variables: str | None) -> str:
        kept = dict(lab.environment)
        for name, value in variables.items():
            lab.environment.pop(name, None)
            if value is not None:
                lab.environment[name] = value
        done = lab.forebay("table", "import", "t", "--search-uri", file, "-o", "json")
        lab.environment = kept
        assert done.code != 0 and "secret-of" not in done.out + done.err, str(done)
        return done.json["error"]["code"]

    nobody = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_METADATA_ENDPOINT": "http://127.0.0.1:1", "HOME": str(lab.folder)}
    assert code(**nobody) == "LAK0080"
    assert code(AWS_SECRET_ACCESS_KEY="secret-of-somebody-else") == "LAK0082"
    assert code(AWS_ENDPOINT_URL="http://127.0.0.1:1") == "LAK0083"
    assert lab.json("table", "import", "t", "--search-uri", file)["rows"] == 1


def test_files_of_several_parts(bucket: Bucket) -> None:
    """Larger than what is read ahead; several row groups."""
    lab, rows = bucket.lab, 300_000
    lines = "\n".join(f"{n},{'x' * 30}{n}" for n in range(rows))
    bucket.put("a.csv", f"id,name\n{lines}\n")
    memory = io.BytesIO()
    table = pa.table({"id": pa.array(range(rows, 2 * rows)), "name": [f"{'y' * 30}{n}" for n in range(rows)]})
    pyarrow.parquet.write_table(table, memory, row_group_size=50_000)
    with bucket.files.open_output_stream(f"{bucket.uri.removeprefix('s3://')}/b.parquet") as out:
        out.write(memory.getvalue())
    lab.forebay("table", "create", "t", "--search-uri", f"{bucket.uri}/*").ok()
    assert lab.json("table", "import", "t", "--search-uri", bucket.uri)["rows"] == 2 * rows
    found = lab.rows("SELECT count(*) AS n, sum(id) AS s, count(DISTINCT name) AS d FROM t")[0]
    assert found == {"n": 2 * rows, "s": sum(range(2 * rows)), "d": 2 * rows}


def test_a_table_of_parquet_files(bucket: Bucket) -> None:
    """Nothing is copied; it is read by runs, queries and other engines, and only read."""
    lab = bucket.lab
    bucket.put("p/year=2023/a.parquet", {"id": [1, 2], "name": ["a", None]})
    bucket.put("p/year=2024/b.parquet", {"id": [3], "name": ["c"]})
    made = lab.json("table", "create-external", "t", "--search-pattern", f"{bucket.uri}/p/*/*.parquet")["table"]
    assert (made["kind"], made["records"], [field["name"] for field in made["fields"]]) == ("EXTERNAL_TABLE", 3, ["id", "name", "year"])
    expected = [{"id": 1, "name": "a", "year": 2023}, {"id": 2, "name": None, "year": 2023}, {"id": 3, "name": "c", "year": 2024}]
    assert lab.rows("SELECT * FROM t ORDER BY id") == expected
    project = lab.project("""
        @forebay.model(materialization_strategy="REPLACE")
        def copied(t=forebay.Model("t", filter="year = 2023")):
            return t
    """)
    lab.run(project).ok()
    assert lab.rows("SELECT id, year FROM copied ORDER BY id") == [{"id": 1, "year": 2023}, {"id": 2, "year": 2023}]
    refused = lab.forebay("table", "import", "t", "--search-uri", f"{bucket.uri}/p", "-o", "json").failed()
    assert refused.json["error"]["code"] == "CTL0051"
    bucket.put("p/year=2025/c.parquet", {"id": [4]})
    assert lab.rows("SELECT count(*) AS n FROM t") == [{"n": 3}]
    lab.forebay("table", "create-external", "t", "--search-pattern", f"{bucket.uri}/p/*/*.parquet", "--overwrite").ok()
    assert lab.rows("SELECT count(*) AS n, max(year) AS y FROM t") == [{"n": 4, "y": 2025}]
