"""What a run moved and why it copied, asked for afterwards; what a failed run leaves to look at; too few open files."""

from __future__ import annotations

import os
import resource

import forebay
import pytest
from conftest import FOREBAY, Lab

CHAIN = """
@forebay.model()
def parent():
    return pa.table({"x": pa.array(range(100_000), pa.int64())})

@forebay.model(materialization_strategy="REPLACE")
def child(data=forebay.Model("parent")):
    return data
"""


def test_explain(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lab.forebay("explain", "-o", "json").failed(1).json["error"]["code"] == "CLI0011", "nothing has run"
    result = lab.run(lab.project(CHAIN)).ok().json
    ways = ("referenced", "reshared", "copied", "inline")
    assert result["bytes"] == {way: sum(one[f"bytes_{way}"] for one in result["nodes"]) for way in ways}
    for one in result["nodes"]:
        assert {"copies", "receive_seconds", "publish_seconds"} <= set(one)
    explained = lab.json("explain", result["job_id"])
    assert explained["nodes"] == result["nodes"] and explained["bytes"] == result["bytes"]
    assert sum(reason["bytes"] for reason in explained["copies"]) == result["bytes"]["copied"]
    assert 0 <= explained["uncopied_share"] <= 1
    assert lab.json("job", "get", result["job_id"])["job"]["result"]["bytes"] == result["bytes"]
    # Without an argument: the latest run.
    text = lab.forebay("explain").ok().out
    assert result["job_id"] in text and "needed no copy" in text
    for name in ("parent", "child", "write:child", "total"):
        assert any(line.startswith(f"{name} ") for line in text.splitlines()), text

    for name, value in lab.environment.items():
        if name.startswith("FOREBAY_") or name == "USER":
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("FOREBAY_BIN", FOREBAY)
    state = forebay.Client().explain(result["job_id"])
    assert state.bytes.total == sum(result["bytes"].values()) and [one.name for one in state.nodes] == [
        one["name"] for one in result["nodes"]
    ]


def test_what_is_not_a_run_cannot_be_explained(lab: Lab) -> None:
    lab.rows("SELECT 1 AS x")
    [job] = lab.json("job", "ls")["jobs"]
    assert lab.forebay("explain", job["id"], "-o", "json").failed(1).json["error"]["code"] == "CLI0011"
    assert lab.forebay("explain", "ffffffff", "-o", "json").failed(1).json["error"]["code"] == "CTL0016"


def test_a_failed_run_leaves_its_tables_to_look_at(lab: Lab) -> None:
    gate = lab.gate()
    project = lab.project(
        f"""
        @forebay.model(materialization_strategy="REPLACE")
        def fine():
            return pa.table({{"x": [1, 2]}})

        @forebay.model()
        def broken():
            {gate.code}
            raise ValueError("on purpose")
        """
    )
    before = lab.head()
    run = lab.start("run", "-p", project)
    gate.wait()
    while not run.line().startswith("done       write:fine"):
        pass
    gate.open()
    failed = run.wait().failed(1)
    job = lab.json("job", "ls", "-k", "run")["jobs"][0]
    kept = job["result"]["failed_branch"]
    assert job["result"]["kept_tables"] == ["default.fine"]
    assert f'forebay query -r {kept} "SELECT * FROM default.fine"' in failed.err
    assert lab.rows("SELECT * FROM default.fine", kept) == [{"x": 1}, {"x": 2}]
    assert lab.head() == before and lab.tables() == []
    refused = lab.forebay("branch", "merge", kept, "--into", "main", "-o", "json").failed(1)
    assert refused.json["error"]["code"] == "CAT0006"


def test_a_run_that_lost_against_another_leaves_nothing_to_merge(lab: Lab) -> None:
    gate = lab.gate()
    slow = '@forebay.model(materialization_strategy="REPLACE")\ndef t():\n    {}\n    return pa.table({{"x": [{}]}})\n'
    run = lab.start_run(lab.project(slow.format(gate.code, 1), "slow"))
    gate.wait()
    lab.run(lab.project(slow.format("pass", 2), "quick")).ok()
    gate.open()
    lost = run.wait().failed(1).json
    assert lost["error"]["code"] == "CAT0004" and lost["kept_tables"] == ["default.t"]
    assert lab.rows("SELECT x FROM t", lost["failed_branch"]) == [{"x": 1}]
    # No commit of the whole store, named or not, can bring the loser's table in.
    known = {commit["hash"] for commit in lab.json("commit", "main", "-n", "100")["commits"]}
    for commit in (path.name for path in (lab.lake / "catalog/objects").glob("*/*") if path.name not in known):
        merge = lab.forebay("branch", "merge", f"@{commit}", "--into", "main", "-o", "json").failed(1)
        assert merge.json["error"]["code"] in ("CAT0001", "CAT0006"), "no commit at all, or a tainted one"
    assert lab.rows("SELECT x FROM t") == [{"x": 2}]


def test_too_few_open_files_are_told(lab: Lab) -> None:
    count = 100
    files = {f"m{number}.sql": "SELECT value AS x FROM generate_series(1, 20000)\n" for number in range(count)}
    parents = ", ".join(f"(SELECT * FROM m{number} LIMIT 1) AS a{number}" for number in range(count))
    files["last.sql"] = f"-- forebay: materialization_strategy=REPLACE\nSELECT count(*) AS n FROM {parents}\n"
    project = lab.project(files)
    daemon = lab.daemon()
    limits = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
    # Behind its back: at its start it has raised its limit as far as it goes.
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{daemon}/fd")) + 60, limits[1]))
    failed = lab.run(project).failed(3)
    assert "too many open files" in failed.err.lower() and "ulimit -Hn" in failed.err, str(failed)
    # A lowered hard limit cannot be raised again by everybody; a new background process has the old one.
    lab.forebay("daemon", "stop").ok()
    lab.run(project).ok()


def test_the_background_process_raises_its_limit_of_open_files(lab: Lab) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        daemon = lab.daemon()
        assert resource.prlimit(daemon, resource.RLIMIT_NOFILE)[0] == min(hard, 65536)
        found = {check["name"]: check for check in lab.forebay("doctor", "-o", "json").json["checks"]}
        assert found["open files"]["found"].startswith("soft limit 256,")
        assert found["huge pages"]["status"] == "ok"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
