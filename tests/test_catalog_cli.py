"""Branches, tags, commits, namespaces and tables from the command line."""

from __future__ import annotations

import pyarrow as pa
import pytest
from conftest import Lab

ONE = pa.table({"x": [1]})


def code(done: object) -> str:
    """The error code a command answered with."""
    return done.json["error"]["code"]  # type: ignore[attr-defined]


def names(lab: Lab, what: str, *args: str) -> list[str]:
    """Names from a list command."""
    listed = lab.json(what, "ls", *args)
    [key] = [key for key in listed if key != "schema"]
    return [one["name"] for one in listed[key]]


def test_a_new_lake(lab: Lab) -> None:
    assert names(lab, "branch") == ["main"]
    assert names(lab, "namespace") == ["default"]
    assert names(lab, "tag") == [] and lab.tables() == []
    [root] = lab.json("commit")["commits"]
    assert root["parent_hashes"] == [] and root["hash"] == lab.head()


def test_branches(lab: Lab) -> None:
    lab.load("t", ONE)
    lab.forebay("branch", "create", "dev").ok()
    assert lab.head("dev") == lab.head() and lab.tables("dev") == ["default.t"]
    lab.load("u", ONE, branch="dev")
    assert lab.tables("dev") == ["default.t", "default.u"] and lab.tables() == ["default.t"]
    diff = lab.json("branch", "diff", "main", "dev")
    assert (diff["added"], diff["removed"], diff["changed"]) == (["default.u"], [], [])
    merged = lab.json("branch", "merge", "dev", "--into", "main")
    assert lab.head() == lab.head("dev") and lab.tables() == ["default.t", "default.u"], merged
    lab.forebay("branch", "rename", "dev", "develop.2").ok()
    assert names(lab, "branch") == ["develop.2", "main"]
    assert names(lab, "branch", "^dev.*$") == ["develop.2"]
    lab.forebay("branch", "rm", "develop.2").ok()
    assert names(lab, "branch") == ["main"]
    lab.forebay("branch", "rm", "develop.2", "--if-exists").ok()


def test_refused(lab: Lab) -> None:
    lab.load("t", ONE)
    lab.forebay("branch", "create", "dev").ok()
    lab.forebay("branch", "create", "dev", "--if-not-exists").ok()
    lab.forebay("tag", "create", "v1").ok()
    refused = {
        ("branch", "create", "dev"): "CAT0003",
        ("branch", "create", "v1"): "CAT0003",
        ("branch", "rm", "main"): "CAT0007",
        ("branch", "rename", "main", "x"): "CAT0007",
        ("branch", "rm", "nothing"): "CAT0001",
        ("branch", "get", "mian"): "CAT0001",
        ("branch", "create", "x", "--from-ref", "@0123456789"): "CAT0001",
        ("branch", "merge", "nothing", "--into", "main"): "CAT0001",
        ("table", "rm", "t", "-b", "v1"): "CTL0014",
        ("namespace", "create", "n", "-b", "v1"): "CTL0014",
        ("namespace", "rm", "default", "-b", "main"): "CAT0007",
        ("namespace", "rm", "nothing", "-b", "main"): "CAT0015",
        ("table", "rm", "nothing", "-b", "main"): "CTL0019",
    }
    for args, wanted in refused.items():
        done = lab.forebay(*args, "-o", "json").failed(1)
        assert code(done) == wanted, str(done)
        assert f"error[{wanted}]" in done.err
    assert "did you mean `main`" in lab.forebay("branch", "get", "mian").err


def test_conflicts_name_the_table(lab: Lab) -> None:
    lab.load("t", ONE)
    lab.load("u", ONE)
    lab.forebay("branch", "create", "dev").ok()
    lab.load("t", pa.table({"x": [2]}))
    lab.load("u", pa.table({"x": [3]}), branch="dev")
    lab.forebay("branch", "merge", "dev", "--into", "main", "-m", "take u").ok()
    assert lab.rows("SELECT x FROM t") == [{"x": 2}] and lab.rows("SELECT x FROM u") == [{"x": 3}]
    [merge] = lab.json("commit", "-n", "1")["commits"]
    assert len(merge["parent_hashes"]) == 2 and merge["message"].startswith("take u")
    before = lab.head()
    lab.load("t", pa.table({"x": [4]}), branch="dev")
    lab.load("t", pa.table({"x": [5]}))
    after = lab.head()
    failed = lab.forebay("branch", "merge", "dev", "--into", "main", "-o", "json").failed(1)
    assert code(failed) == "CAT0005" and "`default.t`" in failed.err
    assert lab.head() == after != before


def test_tags_and_hashes_stay_where_they_are(lab: Lab) -> None:
    lab.load("t", ONE)
    first = lab.head()
    lab.forebay("tag", "create", "v1").ok()
    lab.load("t", pa.table({"x": [2]}))
    for ref in ("v1", f"main@{first}", f"@{first}", f"@{first[:8]}"):
        assert lab.rows("SELECT x FROM t", ref) == [{"x": 1}], ref
    assert lab.rows("SELECT x FROM t") == [{"x": 2}]
    lab.forebay("tag", "rename", "v1", "v1.0").ok()
    assert names(lab, "tag") == ["v1.0"]
    lab.forebay("branch", "create", "back", "--from-ref", "v1.0").ok()
    assert lab.head("back") == first
    lab.forebay("tag", "rm", "v1.0").ok()
    assert names(lab, "tag") == []


def test_namespaces(lab: Lab) -> None:
    lab.forebay("namespace", "create", "raw", "--commit-property", "team=data", "--commit-body", "why").ok()
    assert names(lab, "namespace") == ["default", "raw"]
    [commit] = lab.json("commit", "-n", "1")["commits"]
    assert commit["properties"].get("team") == "data" and "why" in commit["message"]
    assert code(lab.forebay("namespace", "create", "raw", "-o", "json").failed(1)) == "CAT0003"
    lab.forebay("namespace", "create", "raw", "--if-not-exists").ok()
    lab.load("raw.t", ONE)
    assert code(lab.forebay("namespace", "rm", "raw", "-o", "json").failed(1)) == "CAT0014"
    assert lab.rows("SELECT x FROM raw.t") == [{"x": 1}]
    lab.forebay("table", "rm", "raw.t").ok()
    lab.forebay("namespace", "rm", "raw").ok()
    lab.forebay("namespace", "rm", "raw", "--if-exists").ok()
    assert names(lab, "namespace") == ["default"]


def test_the_log(lab: Lab) -> None:
    for name in ("a", "b", "c"):
        lab.forebay("namespace", "create", name, "--commit-property", f"n={name}").ok()
    log = lab.json("commit")["commits"]
    assert len(log) == 4
    assert [one["hash"] for one in log[1:]] == [one["parent_hashes"][0] for one in log[:-1]]
    assert all(one["author"]["name"] == "ann" for one in log[:-1])
    assert len(lab.json("commit", "-n", "2")["commits"]) == 2
    assert [one["hash"] for one in lab.json("commit", "--property", "n=b")["commits"]] == [log[1]["hash"]]
    assert len(lab.json("commit", "--author-name", "^an.*$")["commits"]) == 3
    assert lab.json("commit", "--author-name", "bob")["commits"] == []
    for form in ("oneline", "short", "medium", "full", "fuller"):
        assert log[0]["hash"][:8] in lab.forebay("commit", "--format", form).ok().out


def test_the_active_branch(lab: Lab) -> None:
    lab.forebay("checkout", "-b", "dev").ok()
    assert lab.json("info")["active_branch"] == "dev" or "dev" in str(lab.json("info"))
    lab.run(lab.project('@forebay.model(materialization_strategy="REPLACE")\ndef t():\n    return {"x": [1]}\n')).ok()
    assert lab.tables("dev") == ["default.t"] and lab.tables("main") == []
    assert lab.forebay("query", "SELECT x FROM t", "-o", "json").ok().json["results"] == [{"x": 1}]
    lab.forebay("checkout", "main").ok()
    lab.forebay("query", "SELECT x FROM t").failed(1)
    lab.forebay("checkout", "nothing").failed(1)


def test_tables(lab: Lab) -> None:
    lab.load("t", pa.table({"x": pa.array([1, None], pa.int64()), "s": ["a", "b"]}), partitioned_by="s")
    table = lab.json("table", "get", "t")["table"]
    assert (table["namespace"], table["name"], table["records"], table["kind"]) == ("default", "t", 2, "TABLE")
    assert [(field["name"], field["type"]) for field in table["fields"]] == [("x", "long"), ("s", "string")]
    assert [(part["name"], part["transform"]) for part in table["partitions"]] == [("s", "identity")]
    missing = lab.forebay("table", "get", "tt", "-o", "json").failed(1)
    assert code(missing)
    lab.forebay("table", "rm", "t").ok()
    assert lab.tables() == []
    lab.forebay("table", "rm", "t", "--if-exists").ok()


def test_imports(lab: Lab) -> None:
    data = lab.folder / "data"
    data.mkdir()
    for n in range(3):
        (data / f"part-{n}.csv").write_text(f"x,s\n{n},a\n{n},\n")
    lab.forebay("table", "create", "t", "--search-uri", data / "*.csv").ok()
    assert lab.rows("SELECT * FROM t") == []
    first = lab.json("table", "import", "t", "--search-uri", data / "part-[01].csv")
    assert first["rows"] == 4 and len(first["files"]) == 2 and first["skipped"] == []
    second = lab.json("table", "import", "t", "--search-uri", data)
    assert second["rows"] == 2 and len(second["files"]) == 1 and len(second["skipped"]) == 2
    again = lab.json("table", "import", "t", "--search-uri", data, "--import-duplicate-files")
    assert again["rows"] == 6
    assert lab.rows("SELECT sum(x) AS total, count(s) AS n FROM t") == [{"total": 12, "n": 6}]
    (data / "odd.csv").write_text("x,s,more\n9,b,1\n")
    before = lab.head()
    failed = lab.forebay("table", "import", "t", "--search-uri", data / "odd.csv").failed(1)
    assert "more" in failed.err and lab.head() == before
    lab.forebay("table", "import", "t", "--search-uri", data / "odd.csv", "--best-effort").ok()
    (data / "broken.parquet").write_bytes(b"PAR1 not really")
    lab.forebay("table", "import", "t", "--search-uri", data / "broken.parquet").failed(1)
    partly = lab.json("table", "import", "t", "--search-uri", data, "--continue-on-error", "--import-duplicate-files", "--best-effort")
    assert [one["file"].endswith("broken.parquet") for one in partly["failed"]] == [True]
    lab.forebay("table", "create", "t", "--search-uri", data / "part-0.csv").failed(1)
    lab.forebay("table", "import", "nothing", "--search-uri", data / "part-0.csv").failed(1)
    lab.forebay("table", "create", "u", "--search-uri", data / "nothing*.csv").failed(1)


def test_commands_write_data_to_stdout_and_talk_to_stderr(lab: Lab) -> None:
    done = lab.forebay("branch", "create", "dev", "-o", "json").ok()
    assert done.json["schema"] == 1
    quiet = lab.forebay("branch", "create", "dev2", "-q").ok()
    assert quiet.err == ""
    assert "\x1b" not in done.err + lab.forebay("branch", "ls").ok().out


@pytest.mark.parametrize("args", [("nonsense",), ("branch",), ("run", "--nonsense"), ("query",), ("table", "create", "t")])
def test_wrong_usage(lab: Lab, args: tuple[str, ...]) -> None:
    assert lab.forebay(*args).failed(2).out == ""


def test_a_lake_that_is_not_one(lab: Lab) -> None:
    (lab.lake / "catalog").mkdir(parents=True)
    (lab.lake / "catalog" / "letter.txt").write_text("dear")
    assert code(lab.forebay("branch", "ls", "-o", "json").failed(2)) == "CAT0011"
    assert [path.name for path in (lab.lake / "catalog").iterdir()] == ["letter.txt"]
