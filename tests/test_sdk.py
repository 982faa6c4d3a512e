"""`forebay.Client` against the real daemon."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Iterator

import forebay
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import FOREBAY, Lab, ends
from forebay import exceptions


@pytest.fixture
def client(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[forebay.Client]:
    """A client of the test's lake."""
    for name, value in lab.environment.items():
        if name.startswith("FOREBAY_") or name == "USER":
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("FOREBAY_BIN", FOREBAY)
    monkeypatch.delenv("FOREBAY_PROFILE", raising=False)
    yield forebay.Client()


GOOD = '@forebay.model(materialization_strategy="REPLACE")\ndef t():\n    print("hello")\n    return pa.table({"x": [1, 2]})\n'


def test_info(client: forebay.Client, lab: Lab) -> None:
    info = client.info()
    assert info.user.name == "ann" and info.active_branch == "main"
    assert info.lake == f"file://{lab.lake}" and info.home == str(lab.home)


def test_a_run(client: forebay.Client, lab: Lab) -> None:
    before = client.get_branch("main").hash
    state = client.run(lab.project(GOOD))
    assert state.job_status == "SUCCESS" and state.error is None and state.duration > 0
    assert state.ref == client.get_branch("main") and state.ref.hash != before
    assert any("hello" in line for line in state.user_logs)
    assert [node.status for node in state.nodes] == ["done", "done"]
    assert client.query("SELECT x FROM t ORDER BY x").to_pylist() == [{"x": 1}, {"x": 2}]
    [job] = client.get_jobs(filter_by_kinds="run")
    assert job.id == state.job_id and client.get_job(state.job_id[:13]).id == job.id
    assert any("hello" in event.message for event in client.get_job_logs(job))


def test_a_run_that_fails_does_not_raise(client: forebay.Client, lab: Lab) -> None:
    state = client.run(lab.project("@forebay.model()\ndef t():\n    raise ValueError('why')\n"))
    assert state.job_status == "FAILED" and "ValueError: why" in (state.traceback or "") and state.error
    with pytest.raises(forebay.ForebayError):
        state.raise_for_status()


def test_a_project_with_mistakes_raises(client: forebay.Client, lab: Lab) -> None:
    project = lab.project('@forebay.model()\ndef t(data=forebay.Model("nothing")):\n    return data\n')
    with pytest.raises(exceptions.InvalidPlanError) as caught:
        client.run(project)
    assert isinstance(caught.value, ValueError) and caught.value.code.startswith("PLN")
    assert caught.value.at["file"] == "models.py" and caught.value.at["line"] == 5
    with pytest.raises(ValueError):
        client.run(lab.project(GOOD), parameters={"nothing": 1})
    with pytest.raises(exceptions.BranchNotFoundError):
        client.run(lab.project(GOOD), ref="nothing")


def test_a_plan(client: forebay.Client, lab: Lab) -> None:
    plan = client.plan(lab.project(GOOD))
    assert "t" in str(plan) and plan.logical and plan.physical


def test_branches_tags_and_commits(client: forebay.Client, lab: Lab) -> None:
    main = client.get_branch("main")
    dev = client.create_branch("dev", "main")
    assert dev.hash == main.hash and client.has_branch("dev") and not client.has_branch("devv")
    client.run(lab.project(GOOD), ref=dev)
    merged = client.merge_branch("dev", "main", commit_message="take it")
    assert merged == client.get_branch("main") and merged.hash == client.get_branch("dev").hash
    tag = client.create_tag("v1", main)
    assert client.get_tag("v1") == tag and tag.hash == main.hash
    assert [commit.hash for commit in client.get_commits("main")] == [merged.hash, main.hash]
    assert [commit.hash for commit in client.get_commits(tag)] == [main.hash]
    assert {branch.name for branch in client.get_branches()} == {"main", "dev"}
    assert client.rename_branch("dev", "old").name == "old"
    assert client.delete_branch("old") and not client.delete_branch("old", if_exists=True)
    assert client.rename_tag("v1", "v2").name == "v2" and client.delete_tag("v2")


def test_exceptions(client: forebay.Client, lab: Lab) -> None:
    raised = {
        exceptions.BranchNotFoundError: lambda: client.get_branch("nothing"),
        exceptions.TagNotFoundError: lambda: client.get_tag("nothing"),
        exceptions.BranchExistsError: lambda: client.create_branch("main", "main"),
        exceptions.RefNotFoundError: lambda: client.query("SELECT 1", ref="@0123456789"),
        exceptions.TableNotFoundError: lambda: client.get_table("nothing", "main"),
        exceptions.NamespaceNotFoundError: lambda: client.get_namespace("nothing", "main"),
        exceptions.ForbiddenError: lambda: client.delete_branch("main"),
        exceptions.ForebayQueryError: lambda: client.query("SELEC 1"),
        exceptions.JobNotFoundError: lambda: client.get_job("ffffffff"),
    }
    for kind, act in raised.items():
        with pytest.raises(kind) as caught:
            act()
        assert isinstance(caught.value, forebay.ForebayError), kind


def test_scans_by_numbers_of_more_than_64_bits(client: forebay.Client, lab: Lab) -> None:
    large = Decimal(200000000000000000000)
    lab.load("numbers", pa.table({"x": pa.array([large, -large, Decimal(1)], pa.decimal128(38, 0))}))
    for filters, found in {
        "x = 200000000000000000000": [large],
        "x < -199999999999999999999": [-large],
        "x IN (1, 200000000000000000000)": [large, Decimal(1)],
        "x BETWEEN -200000000000000000000 AND 1.5": [-large, Decimal(1)],
    }.items():
        assert client.scan("numbers", filters=filters)["x"].to_pylist() == found, filters


def test_merge_conflicts(client: forebay.Client, lab: Lab) -> None:
    client.create_branch("dev", "main")
    client.run(lab.project(GOOD))
    client.run(lab.project(GOOD), ref="dev")
    with pytest.raises(exceptions.MergeConflictError) as caught:
        client.merge_branch("dev", "main")
    assert "default.t" in str(caught.value)


def test_tables_and_imports(client: forebay.Client, lab: Lab) -> None:
    path = lab.folder / "data.parquet"
    pa.parquet.write_table(pa.table({"x": [1, 2, 3], "s": ["a", "b", "b"]}), path)
    table = client.create_table("t", path, partitioned_by="s")
    assert table.fqn == "default.t" and [field.name for field in table.fields] == ["x", "s"]
    imported = client.import_data("t", path)
    assert imported.rows == 3 and len(imported.files) == 1
    assert client.import_data("t", path).rows == 0
    assert client.get_table("t", "main").records == 3
    assert client.scan("t", columns=["x"], filters="s = 'b'").to_pydict() == {"x": [2, 3]}
    with pytest.raises(ValueError):
        client.scan("t", columns=[])
    assert [found.name for found in client.get_tables("main")] == ["t"] and client.has_table("t", "main")
    client.create_namespace("raw", "main")
    assert client.has_namespace("raw", "main") and [n.name for n in client.get_namespaces("main")] == ["default", "raw"]
    client.delete_namespace("raw", "main")
    client.delete_table("t", "main")
    assert not client.has_table("t", "main")


def test_query_results(client: forebay.Client, lab: Lab) -> None:
    sql = "SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, NULL ORDER BY a"
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
    assert client.query(sql).to_pylist() == rows == list(client.query_to_generator(sql))
    assert client.query(sql, max_rows=1).num_rows == 1
    assert pa.parquet.read_table(client.query_to_parquet_file(lab.folder / "a.parquet", sql)).to_pylist() == rows
    assert json.loads(Path(client.query_to_json_file(lab.folder / "a.json", sql)).read_text()) == rows
    assert Path(client.query_to_csv_file(lab.folder / "a.csv", sql)).read_text().count("\n") == 3


def test_results_outlive_the_daemon(client: forebay.Client, lab: Lab) -> None:
    got = client.query("SELECT value AS x FROM generate_series(1, 100000)")
    daemon = lab.daemon()
    lab.forebay("daemon", "stop").ok()
    assert ends(daemon)
    assert sum(got["x"].to_pylist()) == 5000050000
    assert client.query("SELECT 1 AS x").num_rows == 1, "the client starts a new one"


def test_a_detached_run_is_cancelled(client: forebay.Client, lab: Lab) -> None:
    gate = lab.gate()
    state = client.run(lab.project(f"@forebay.model()\ndef t():\n    {gate.code}\n    return {{'x': [1]}}\n"), detach=True)
    assert state.job_status is None
    [process] = gate.wait()
    client.cancel_job(state.job_id)
    assert ends(process, 0)
    assert client.get_job(state.job_id).status == forebay.schema.JobState.ABORT


def test_a_timeout_cancels(client: forebay.Client, lab: Lab) -> None:
    gate = lab.gate()
    project = lab.project(f"@forebay.model()\ndef t():\n    {gate.code}\n    return {{'x': [1]}}\n")
    client.run(lab.project(GOOD, "warm")).raise_for_status()
    with ThreadPoolExecutor() as pool:
        arrived = pool.submit(gate.wait)
        with pytest.raises(exceptions.JobTimeoutError):
            client.run(project, client_timeout=5)
        [process] = arrived.result()
    assert ends(process)


def test_threads_share_a_client(client: forebay.Client) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(client.query(f"SELECT {n} AS n")["n"][0].as_py())) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(8))


def test_a_forked_process_uses_the_client(client: forebay.Client) -> None:
    client.query("SELECT 1 AS n")
    child = os.fork()
    if child == 0:
        try:
            os._exit(client.query("SELECT 42 AS n")["n"][0].as_py())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_a_table_of_parquet_files(client: forebay.Client, lab: Lab) -> None:
    for name, ids in (("a", [1, 2]), ("b", [3])):
        pyarrow.parquet.write_table(pa.table({"id": ids}), lab.folder / f"{name}.parquet")
    made = client.create_external_table_from_parquet("t", lab.folder / "*.parquet", branch="main")
    assert made.is_external() and made.records == 3 and made.fields[0].name == "id"
    assert client.query("SELECT sum(id) AS s FROM t").to_pylist() == [{"s": 6}]
    with pytest.raises(exceptions.TableExistsError):
        client.create_external_table_from_parquet("t", lab.folder / "a.parquet", branch="main")
    again = client.create_external_table_from_parquet("t", [lab.folder / "a.parquet"], branch="main", overwrite=True)
    assert again.records == 2
    with pytest.raises(exceptions.ForbiddenError):
        client.import_data("t", lab.folder / "b.parquet", branch="main")
    with pytest.raises(ValueError, match="no search pattern"):
        client.create_external_table_from_parquet("u", [], branch="main")
