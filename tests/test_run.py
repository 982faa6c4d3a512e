"""One run: what succeeds is one commit, what fails changes nothing, whatever way it fails."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest
from conftest import Lab, node

GOOD = """
@forebay.model(materialization_strategy="REPLACE")
def kept():
    return pa.table({"x": [1, 2, 3]})
"""

#: Ways to fail: the body of a model, the words that must be told, and how the node's process ended.
FAILURES = {
    "raises": ('raise ValueError("broken on purpose")', ["ValueError: broken on purpose"]),
    "raises deep inside a library": ('data.column("nothing")', ["nothing"]),
    "returns a number": ("return 42", ["int", "broken"]),
    "returns nothing": ("pass", ["None", "broken"]),
    "returns something else": ("return object()", ["object", "broken"]),
    "returns no columns": ("return pa.table({})", ["column"]),
    "exits": ("import os; os._exit(3)", ["exited with code 3"]),
    "exits politely": ("raise SystemExit(4)", ["4"]),
    "exits with zero": ("import os; os._exit(0)", ["exited with code 0"]),
    "is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ["signal 9"]),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", ["signal 11"]),
    "imports what is not there": ("import not_installed_anywhere", ["not_installed_anywhere"]),
}


@pytest.mark.parametrize("body, words", FAILURES.values(), ids=FAILURES)
def test_a_failing_model_changes_nothing(lab: Lab, body: str, words: list[str]) -> None:
    good = lab.project(GOOD, "good")
    lab.run(good).ok()
    before = lab.head()
    bad = lab.project(
        f"""
        @forebay.model(materialization_strategy="REPLACE")
        def fine():
            return pa.table({{"x": [1]}})

        @forebay.model(materialization_strategy="REPLACE")
        def broken(data=forebay.Model("fine")):
            {body}

        @forebay.model(materialization_strategy="REPLACE")
        def after(data=forebay.Model("broken")):
            return data
        """,
        "bad",
    )
    failed = lab.run(bad).failed(1)
    assert failed.json["status"] == "FAILED"
    assert node(failed.json, "broken")["status"] == "failed"
    assert node(failed.json, "after")["status"] == "skipped"
    assert failed.json["error"]["code"]
    for word in words:
        assert word in failed.err, str(failed)
    assert lab.head() == before
    assert lab.tables() == ["default.kept"]
    assert lab.functions() == []
    assert lab.run(good).ok().json["ref"]["hash"] == lab.head() != before


def test_a_traceback_shows_only_the_users_code(lab: Lab) -> None:
    project = lab.project(
        {
            "models.py": "import forebay\nfrom helper import halve\n\n@forebay.model()\ndef broken():\n    return halve('x')\n",
            "helper.py": "def halve(x):\n    return x / 2\n",
        }
    )
    failed = lab.run(project).failed(1)
    traceback = failed.json["error"]["traceback"]
    assert "Traceback" in traceback and "TypeError" in traceback
    assert "models.py" in traceback and "line 6" in traceback and "helper.py" in traceback and "line 2" in traceback
    assert "_function" not in traceback and "importlib" not in traceback
    assert failed.err.index("TypeError") < failed.err.index("error[")


EXPECTATION = """
@forebay.model(materialization_strategy="REPLACE")
def checked():
    return pa.table({{"x": [1, None]}})

@forebay.expectation()
def no_nulls(data=forebay.Model("checked")):
    {body}
"""


@pytest.mark.parametrize(
    "body, word",
    [
        ('return data["x"].null_count == 0', "no_nulls"),
        ('assert data["x"].null_count == 0, "x has a null"\n    return True', "x has a null"),
    ],
    ids=["false", "assert"],
)
def test_a_failed_expectation_fails_a_strict_run(lab: Lab, body: str, word: str) -> None:
    project = lab.project(EXPECTATION.format(body=body))
    before = lab.head()
    failed = lab.run(project).failed(1)
    assert failed.json["status"] == "FAILED" and word in failed.err
    assert failed.json["error"]["code"] == "RUN0021"
    assert node(failed.json, "no_nulls")["status"] == "failed"
    assert lab.head() == before and lab.tables() == []
    loose = lab.run(project, "--no-strict").ok()
    assert loose.json["status"] == "SUCCESS"
    assert node(loose.json, "no_nulls")["status"] == "failed"
    assert "no_nulls" in loose.err, "the doubt is told"
    assert lab.tables() == ["default.checked"]


def test_an_expectation_must_return_a_truth_value(lab: Lab) -> None:
    for body in ("return 1", 'return "yes"', "return None", "pass"):
        failed = lab.run(lab.project(EXPECTATION.format(body=body))).failed(1)
        assert failed.json["error"]["code"] and lab.tables() == []


def test_the_branch_of_a_failed_run_is_kept_and_cannot_be_merged(lab: Lab) -> None:
    project = lab.project(EXPECTATION.format(body="return False"))
    kept = lab.run(project).failed(1).json["failed_branch"]
    assert kept in [branch["name"] for branch in lab.json("branch", "ls")["branches"]]
    for source in (kept, f"{kept}@{lab.head(kept)}"):
        refused = lab.forebay("branch", "merge", source, "--into", "main", "-o", "json").failed(1)
        assert refused.json["error"]["code"] == "CAT0006", str(refused)
    for noun in ("branch", "tag"):
        refused = lab.forebay(noun, "create", "fork", "--from-ref", kept, "-o", "json").failed(1)
        assert refused.json["error"]["code"] == "CAT0006"
    lab.forebay("branch", "rm", kept).ok()


def test_a_run_is_one_commit(lab: Lab) -> None:
    project = lab.project(
        """
        @forebay.model(materialization_strategy="REPLACE")
        def one():
            return pa.table({"x": [1]})

        @forebay.model(materialization_strategy="REPLACE", name="other.two")
        def two(data=forebay.Model("one")):
            return data

        @forebay.model()
        def passing(data=forebay.Model("one")):
            return data
        """
    )
    before = lab.json("commit", "-n", "100")["commits"]
    result = lab.run(project).ok().json
    after = lab.json("commit", "-n", "100")["commits"]
    assert len(after) == len(before) + 1
    assert after[0]["hash"] == result["ref"]["hash"]
    assert after[0]["parent_hashes"] == [before[0]["hash"]]
    assert after[0]["author"]["name"] == "ann"
    assert result["job_id"] in str(after[0])
    assert lab.tables() == ["default.one", "other.two"]
    assert [branch["name"] for branch in lab.json("branch", "ls")["branches"]] == ["main"]


def test_the_result_object(lab: Lab) -> None:
    result = lab.run(lab.project(GOOD)).ok().json
    assert result["schema"] == 1 and result["status"] == "SUCCESS" and result["error"] is None
    assert set(result["ref"]) >= {"name", "hash"} and result["ref"]["name"] == "main"
    fields = "name kind status rows bytes seconds bytes_copied bytes_referenced bytes_reshared bytes_inline cache"
    for one in result["nodes"]:
        assert set(fields.split()) <= set(one), one
        assert one["status"] == "done"
    assert sorted(one["kind"] for one in result["nodes"]) == ["python", "write"]
    assert node(result, "kept")["rows"] == 3


RESULTS = {
    "pyarrow table": "return pa.table({'x': [1, 2], 'y': ['a', None]})",
    "pyarrow batch": "return pa.record_batch({'x': [1, 2], 'y': ['a', None]})",
    "pyarrow reader": "return pa.table({'x': [1, 2], 'y': ['a', None]}).to_reader()",
    "pandas": "import pandas; return pandas.DataFrame({'x': [1, 2], 'y': ['a', None]})",
    "polars": "import polars; return polars.DataFrame({'x': [1, 2], 'y': ['a', None]})",
    "polars lazy": "import polars; return polars.LazyFrame({'x': [1, 2], 'y': ['a', None]})",
    "duckdb": "import duckdb; return duckdb.sql(\"SELECT unnest([1, 2])::BIGINT AS x, unnest(['a', NULL]) AS y\")",
    "list of dicts": "return [{'x': 1, 'y': 'a'}, {'x': 2, 'y': None}]",
    "dict of lists": "return {'x': [1, 2], 'y': ['a', None]}",
}


def test_a_model_returns_a_table_in_any_form(lab: Lab) -> None:
    pip = '@forebay.python("3.11", pip={"pandas": "2", "polars": "1", "duckdb": "1"})'
    models = [
        f'@forebay.model(materialization_strategy="REPLACE")\n{pip}\ndef form_{number}():\n    {body}\n'
        for number, body in enumerate(RESULTS.values())
    ]
    result = lab.run(lab.project("\n".join(models))).ok()
    assert result.json["status"] == "SUCCESS"
    for number, form in enumerate(RESULTS):
        rows = lab.rows(f"SELECT * FROM form_{number} ORDER BY x")
        assert rows == [{"x": 1, "y": "a"}, {"x": 2, "y": None}], form


def test_a_model_takes_its_input_in_any_form(lab: Lab) -> None:
    forms = {
        "pa.Table": "data.num_rows",
        "pa.RecordBatchReader": "sum(batch.num_rows for batch in data)",
        "pd.DataFrame": "len(data)",
        "pl.DataFrame": "data.height",
        "pl.LazyFrame": "data.collect().height",
        "duckdb.DuckDBPyRelation": "data.count('*').fetchone()[0]",
    }
    pip = '@forebay.python("3.11", pip={"pandas": "2", "polars": "1", "duckdb": "1"})'
    models = [
        f'@forebay.model(materialization_strategy="REPLACE")\n{pip}\n'
        f'def as_{number}(data: {form} = forebay.Model("kept")):\n'
        f'    return {{"kind": [type(data).__module__.split(".")[0]], "rows": [{count}]}}\n'
        for number, (form, count) in enumerate(forms.items())
    ]
    imports = "import duckdb\nimport pandas as pd\nimport polars as pl\n\n"
    guarded = "from __future__ import annotations\nimport forebay\nimport pyarrow as pa\nfrom typing import TYPE_CHECKING\n"
    guarded += "if TYPE_CHECKING:\n" + "".join(f"    {line}\n" for line in imports.split("\n") if line)
    lab.run(lab.project({"models.py": guarded + GOOD + "\n".join(models)})).ok()
    for number, form in enumerate(forms):
        [row] = lab.rows(f"SELECT * FROM as_{number}")
        kind = {"pa": "pyarrow", "pd": "pandas", "pl": "polars", "duckdb": "duckdb"}[form.split(".")[0]]
        assert row["rows"] == 3 and row["kind"].lstrip("_").startswith(kind), form


def test_inputs_are_read_only(lab: Lab) -> None:
    project = lab.project(
        """
        @forebay.model()
        def parent():
            return pa.table({"x": pa.array(range(100_000))})

        @forebay.model()
        @forebay.python("3.11", pip={"numpy": ""})
        def vandal(data=forebay.Model("parent")):
            import ctypes
            address = data["x"].chunk(0).buffers()[1].address
            ctypes.memset(address, 255, 8)
            return data

        @forebay.model(materialization_strategy="REPLACE")
        def sibling(data=forebay.Model("parent")):
            return data
        """
    )
    failed = lab.run(project).failed(1)
    assert node(failed.json, "vandal")["status"] == "failed" and "signal 11" in failed.err


def test_sql_and_filters_between_models(lab: Lab) -> None:
    files = {
        "models.py": """
import forebay
import pyarrow as pa

@forebay.model()
def numbers():
    return pa.table({"n": list(range(10)), "word": [str(n) for n in range(10)]})

@forebay.model(materialization_strategy="REPLACE")
def large(data=forebay.Model("numbers", columns=["n"], filter="n >= $least AND n < 9")):
    assert data.column_names == ["n"]
    return data
""",
        "doubled.sql": "-- forebay: materialization_strategy=REPLACE\nSELECT n * 2 AS twice, word FROM numbers WHERE n < $least\n",
    }
    settings = '[parameters.least]\ntype = "int"\ndefault = 6\n'
    project = lab.project(files, settings=settings)
    lab.run(project).ok()
    assert lab.rows("SELECT n FROM large ORDER BY n") == [{"n": 6}, {"n": 7}, {"n": 8}]
    assert lab.rows("SELECT max(twice) AS top, count(*) AS n FROM doubled") == [{"top": 10, "n": 6}]
    lab.run(project, "--param", "least=8").ok()
    assert lab.rows("SELECT n FROM large") == [{"n": 8}]
    wrong = lab.run(project, "--param", "least=many")
    assert wrong.code in (1, 2) and "least" in wrong.err


def test_lake_inputs_are_pinned_projected_and_filtered(lab: Lab) -> None:
    days = [datetime.date(2023, 1, day) for day in range(1, 31)]
    lab.load("events", pa.table({"day": days, "n": list(range(30)), "unused": ["x"] * 30}), partitioned_by="day")
    project = lab.project(
        """
        @forebay.model(materialization_strategy="REPLACE")
        def early(data=forebay.Model("events", columns=["n"], filter="day BETWEEN 2023-01-03 AND 2023-01-05")):
            assert data.column_names == ["n"]
            return data
        """
    )
    result = lab.run(project).ok().json
    assert sorted(row["n"] for row in lab.rows("SELECT * FROM early")) == [2, 3, 4]
    [scan] = [one for one in result["nodes"] if one["kind"] == "scan"]
    assert scan["rows"] == 3, "the filter reached the scan"


def test_strategies(lab: Lab) -> None:
    def run(strategy: str, values: list[int]) -> None:
        body = f'@forebay.model(materialization_strategy="{strategy}")\ndef t():\n    return pa.table({{"x": {values}}})\n'
        lab.run(lab.project(body)).ok()

    run("APPEND", [1])
    run("APPEND", [2])
    assert sorted(row["x"] for row in lab.rows("SELECT x FROM t")) == [1, 2]
    run("REPLACE", [3])
    assert lab.rows("SELECT x FROM t") == [{"x": 3}]
    before = lab.head()
    run("NONE", [4])
    assert lab.rows("SELECT x FROM t") == [{"x": 3}]
    assert lab.tables() == ["default.t"] and lab.head() == before, "a run without results makes no commit"


def test_prints_appear_while_the_model_runs(lab: Lab) -> None:
    gate = lab.gate()
    project = lab.project(
        f"""
        @forebay.model()
        def talker():
            import sys
            print("größe")
            print("to stderr", file=sys.stderr)
            {gate.code}
            return pa.table({{"x": [1]}})
        """
    )
    started = lab.start("run", "-p", project)
    gate.wait()
    seen: list[str] = []
    while not ({"größe", "to stderr"} <= {line.partition("|")[2].strip() for line in seen}):
        seen.append(started.line())
    assert all(line.startswith("talker") for line in seen if "größe" in line)
    gate.open()
    started.wait().ok()


def test_preview_and_dry_run(lab: Lab) -> None:
    project = lab.project(GOOD)
    before = lab.head()
    shown = lab.forebay("run", "-p", project, "--dry-run", "--preview", "head").ok()
    assert "preview of kept" in shown.err + shown.out
    assert lab.head() == before and lab.tables() == []
    lab.forebay("run", "-p", project, "--dry-run", "-r", f"main@{before}").ok()


def test_a_detached_run(lab: Lab) -> None:
    gate = lab.gate()
    project = lab.project(
        f"""
        @forebay.model(materialization_strategy="REPLACE")
        def slow():
            print("under way")
            {gate.code}
            return pa.table({{"x": [1]}})
        """
    )
    started = lab.run(project, "--detach").ok().json
    assert started["status"] == "RUNNING"
    [process] = gate.wait()
    assert lab.json("job", "get", started["job_id"])["job"]["status"] == "RUNNING"
    stopped = lab.json("job", "stop", started["job_id"])["job"]
    assert stopped["status"] == "CANCELLED" and stopped["finished_at"]
    assert process not in lab.functions() and lab.tables() == []
    assert "under way" in lab.forebay("job", "logs", started["job_id"]).ok().out
    jobs = lab.json("job", "ls", "-k", "run")["jobs"]
    assert [job["id"] for job in jobs] == [started["job_id"]]


def test_a_timeout(lab: Lab) -> None:
    gate = lab.gate()
    project = lab.project(
        f"""
        @forebay.model(materialization_strategy="REPLACE")
        @forebay.resources(timeout=1)
        def endless():
            {gate.code}
            return pa.table({{"x": [1]}})
        """
    )
    failed = lab.run(project).failed(1)
    assert "1 s" in failed.err and lab.tables() == [] and lab.functions() == []


def test_functions_see_nothing_of_the_callers_environment(lab: Lab) -> None:
    lab.environment["SECRET_TOKEN"] = "hunter2"
    project = lab.project(
        """
        @forebay.model(materialization_strategy="REPLACE")
        def environment():
            import os
            return {"name": sorted(os.environ)}
        """
    )
    lab.run(project).ok()
    assert not {"SECRET_TOKEN", "FOREBAY_HOME"} & {row["name"] for row in lab.rows("SELECT name FROM environment")}


def test_declared_columns(lab: Lab) -> None:
    project = lab.project(
        """
        @forebay.model(columns=["x", "y"], materialization_strategy="REPLACE")
        def t():
            return pa.table({"x": [1]})
        """
    )
    failed = lab.run(project).failed(1)
    assert "y" in failed.err and lab.tables() == []
    loose = lab.run(project, "--no-strict").ok()
    assert "y" in loose.err and lab.tables() == ["default.t"]


def test_overwriting_partitions(lab: Lab) -> None:
    def run(month: int, rows: list[tuple[int, str]]) -> None:
        months, values = [row[0] for row in rows], [row[1] for row in rows]
        source = f"""
            @forebay.model(materialization_strategy="OVERWRITE_PARTITIONS", partitioned_by="month", overwrite_filter="month = $month")
            def t():
                return pa.table({{"month": pa.array({months}, pa.int64()), "v": {values}}})
            """
        settings = '[parameters.month]\ntype = "int"\ndefault = 1\n'
        lab.run(lab.project(source, settings=settings), "--param", f"month={month}").ok()

    def stored() -> list[tuple[int, str]]:
        return [(row["month"], row["v"]) for row in lab.rows("SELECT * FROM t ORDER BY month, v")]

    run(1, [(1, "a"), (1, "b")])
    run(2, [(2, "c")])
    assert stored() == [(1, "a"), (1, "b"), (2, "c")]
    run(1, [(1, "new")])
    assert stored() == [(1, "new"), (2, "c")]
    run(2, [])
    assert stored() == [(1, "new")]


def test_an_input_at_another_ref(lab: Lab) -> None:
    source = '@forebay.model(materialization_strategy="REPLACE")\ndef t():\n    return {{"x": [{}]}}\n'
    lab.run(lab.project(source.format(1))).ok()
    lab.forebay("tag", "create", "v1").ok()
    lab.run(lab.project(source.format(2))).ok()
    both = """
        @forebay.model(materialization_strategy="REPLACE")
        def both(old=forebay.Model("t", ref="v1"), new=forebay.Model("t")):
            return {"old": old["x"].to_pylist(), "new": new["x"].to_pylist()}
        """
    lab.run(lab.project(both)).ok()
    assert lab.rows("SELECT * FROM both") == [{"old": 1, "new": 2}]


def test_a_filter_on_columns_that_are_not_handed_over(lab: Lab) -> None:
    project = lab.project(
        """
        @forebay.model()
        def parent():
            return pa.table({"x": [1, 2, None], "y": ["a", "b", "c"]})

        @forebay.model(materialization_strategy="REPLACE")
        def child(data=forebay.Model("parent", columns=["y"], filter="x > 1 OR x IS NULL")):
            assert data.column_names == ["y"]
            return data
        """
    )
    lab.run(project).ok()
    assert sorted(row["y"] for row in lab.rows("SELECT y FROM child")) == ["b", "c"]


def test_parameters_of_every_type(lab: Lab) -> None:
    settings = "".join(
        f"[parameters.{name}]\ntype = \"{kind}\"\n{default}"
        for name, kind, default in [
            ("number", "int", "default = 3\n"),
            ("share", "float", "default = 0.5\n"),
            ("word", "str", "default = \"it's\"\n"),
            ("flag", "bool", "default = false\n"),
            ("nothing", "str", ""),
        ]
    )
    names = ["number", "share", "word", "flag", "nothing"]
    arguments = ", ".join(f'{name}=forebay.Parameter("{name}")' for name in names)
    python = f'@forebay.model(materialization_strategy="REPLACE")\ndef t({arguments}):\n    return [{{"r": repr([{", ".join(names)}])}}]\n'
    sql = "-- forebay: materialization_strategy=REPLACE\nSELECT $number AS number, $share AS share, $word AS word, $flag AS flag\n"
    project = lab.project({"models.py": "import forebay\n" + python, "s.sql": sql}, settings=settings)
    lab.run(project).ok()
    assert lab.rows("SELECT r FROM t") == [{"r": repr([3, 0.5, "it's", False, None])}]
    assert lab.rows("SELECT * FROM s") == [{"number": 3, "share": 0.5, "word": "it's", "flag": False}]
    given = {"number": "-7", "share": "1e3", "word": "x'); DROP TABLE t; --", "flag": "true", "nothing": "ü=1"}
    lab.run(project, *(part for name, value in given.items() for part in ("--param", f"{name}={value}"))).ok()
    assert lab.rows("SELECT r FROM t") == [{"r": repr([-7, 1000.0, given["word"], True, "ü=1"])}]
    assert lab.rows("SELECT * FROM s")[0]["word"] == given["word"]
