"""Refs that walk back, merges, diffs, reverts and protected branches, from the command line and the client."""

from __future__ import annotations

import re
import shlex
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Iterator

import forebay
import pyarrow as pa
import pytest
from conftest import FOREBAY, Lab
from forebay import exceptions

GUIDE = Path(__file__).parents[1] / "docs/guide/branches.md"
TWO = """
@forebay.model(materialization_strategy="REPLACE")
def a():
    return {"x": [%d]}

@forebay.model(materialization_strategy="REPLACE")
def b():
    return {"x": [%d]}
"""
APPEND = """
@forebay.model(materialization_strategy="APPEND")
def t():
    %s
    return {"x": [%d]}
"""


@pytest.fixture
def client(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[forebay.Client]:
    """A client of the test's lake."""
    for name, value in lab.environment.items():
        if name.startswith("FOREBAY_") or name == "USER":
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("FOREBAY_BIN", FOREBAY)
    monkeypatch.delenv("FOREBAY_PROFILE", raising=False)
    yield forebay.Client()


def table(*values: int) -> pa.Table:
    """A column `x`."""
    return pa.table({"x": pa.array(values, pa.int64())})


def code(lab: Lab, *args: str, exit: int = 1) -> str:
    """The error code of a command that must fail."""
    return lab.forebay(*args, "-o", "json").failed(exit).json["error"]["code"]


def xs(lab: Lab, name: str = "t", ref: str = "main") -> list[int]:
    """The values of a table of one column."""
    return [row["x"] for row in lab.rows(f"SELECT x FROM {name} ORDER BY x", ref)]


def test_refs_walk_back(lab: Lab, client: forebay.Client) -> None:
    lab.load("t", table(1))
    lab.load("t", table(2))
    lab.forebay("branch", "create", "dev").ok()
    lab.load("u", table(9), branch="dev")
    lab.load("t", table(3))
    merged = client.merge_branch("dev", "main")
    log = list(client.get_commits("main"))
    assert xs(lab) == [3] and xs(lab, ref="main~3") == [2] and xs(lab, ref="main~~^") == [2]
    assert xs(lab, "u", "main^2") == [9] and xs(lab, ref=f"@{merged.hash}~1") == [3]
    newest = log[0].authored_date.isoformat()
    assert next(client.get_commits(f"main@{newest}", limit=1)).hash == merged.hash
    first = min(commit.authored_date for commit in log if commit.parent_hashes)
    east = first.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()
    assert client.create_branch("at-first", f"main@{east}").hash == log[-2].hash
    assert client.create_tag("v0", "main@2000-01-01").hash == log[-1].hash
    client.create_tag("v1", "main")
    assert xs(lab, ref="v1~1") == [3] and xs(lab, ref="v1*2999-01-01") == [3]
    assert code(lab, "query", "SELECT 1", "--ref", "main~99") == "CAT0018"
    assert code(lab, "query", "SELECT 1", "--ref", "main@yesterday", exit=2) == "CTL0022"
    with pytest.raises(exceptions.RefNotFoundError):
        client.query("SELECT 1", ref="main^3")
    with pytest.raises(exceptions.NotAWriteBranchRefError):
        client.create_namespace("n", "main~1")
    # Inputs of models, too.
    project = lab.project('@forebay.model(materialization_strategy="REPLACE")\ndef old(t=forebay.Model("t", ref="main~3")):\n    return t\n')
    lab.run(project).ok()
    assert xs(lab, "old") == [2]


def test_commits_by_time_and_parent(lab: Lab, client: forebay.Client) -> None:
    for name in ("a", "b", "c"):
        client.create_namespace(name, "main")
    log = list(client.get_commits("main"))
    second = log[1]
    since = [one.hash for one in client.get_commits("main", filter_by_authored_date_start_at=second.authored_date)]
    until = [one.hash for one in client.get_commits("main", filter_by_authored_date_end_at=second.authored_date, limit=2)]
    assert log[0].hash in since and log[-1].hash not in since and second.hash in since and second.hash in until
    assert [one.hash for one in client.get_commits("main", filter_by_authored_date=second.authored_date)] == [second.hash]
    assert [one.hash for one in client.get_commits("main", filter_by_parent_hash=second.hash[:10])] == [log[0].hash]
    assert list(client.get_commits("main", filter_by_authored_date_end_at="1999-01-01")) == [log[-1]]
    listed = lab.json("commit", "--since", second.authored_date.isoformat(), "--parent", second.hash)["commits"]
    assert [one["hash"] for one in listed] == [log[0].hash]
    assert code(lab, "commit", "--since", "soon", exit=2) == "CTL0023"
    shown = lab.forebay("commit", "-n", "1").ok().out.split()
    assert shown[2].endswith("Z"), "times can be pasted into refs"


def test_branches_of_a_user(lab: Lab, client: forebay.Client) -> None:
    for name in ("ann.a", "ann.b", "bob.a", "annex"):
        client.create_branch(name, "main")
    assert [one.name for one in client.get_branches(user="ann", limit=1)] == ["ann.a"]
    assert [one.name for one in client.get_branches(user="ann")] == ["ann.a", "ann.b"]
    assert [one.name for one in client.get_branches(user="ann", name="^ann.b$")] == ["ann.b"]
    listed = lab.json("branch", "ls", "--user", "~", "--limit", "5")["branches"]
    assert [one["name"] for one in listed] == ["ann.a", "ann.b"]


def test_diffs_come_from_metadata(lab: Lab, client: forebay.Client) -> None:
    lab.load("gone", table(1))
    lab.load("t", pa.table({"x": [1, 5], "s": ["b", "c"], "old": [1, 1]}))
    lab.forebay("branch", "create", "dev").ok()
    lab.load("t", pa.table({"x": [0, 7, None], "s": ["a", "c", "c"], "new": [1.5, 2.5, None]}), branch="dev")
    lab.load("raw.u", table(3), branch="dev")
    lab.forebay("table", "rm", "gone", "-b", "dev").ok()
    diff = client.diff_branches("main", "dev")
    assert (diff.added, diff.removed, diff.changed) == (("raw.u",), ("default.gone",), ("default.t",))
    assert (diff.added_namespaces, diff.removed_namespaces) == (("raw",), ())
    [changed] = [one for one in diff.tables if one.table == "default.t"]
    assert (changed.change, changed.before.records, changed.after.records) == ("changed", 2, 3)
    columns = {one.name: one for one in changed.columns}
    assert {name: one.change for name, one in columns.items()} == {"x": "changed", "s": "changed", "new": "added", "old": "removed"}
    x = columns["x"]
    assert (x.before.nulls, x.before.lower, x.before.upper) == (0, "1", "5")
    assert (x.after.nulls, x.after.lower, x.after.upper) == (1, "0", "7")
    assert columns["s"].after.lower == "a" and columns["new"].after.type == "double"
    text = lab.forebay("branch", "diff", "main", "dev").ok().out
    assert "~ default.t" in text and "rows 2 → 3" in text and "+ new double" in text and "+ namespace raw" in text
    names = client.diff_branches("main", "dev", names_only=True)
    assert names.changed == diff.changed and names.tables == ()
    assert client.diff_branches("main", "dev", namespace="raw").changed == ()
    assert lab.forebay("branch", "diff", "main", "main").ok().out.strip() == ""
    # No data file is opened for it.
    for file in lab.lake.rglob("*.parquet"):
        file.unlink()
    assert client.diff_branches("main", "dev") == diff


def test_merge_conflicts_by_table_and_reason(lab: Lab, client: forebay.Client) -> None:
    lab.load("both", table(1))
    lab.load("gone", table(1))
    for name in ("a", "b"):
        client.create_branch(name, "main")
        lab.load("both", table(2), branch=name)
        lab.load("new", table(1), branch=name)
    lab.forebay("table", "rm", "gone", "-b", "b").ok()
    lab.load("gone", table(3), branch="a")
    client.merge_branch("a", "main")
    with pytest.raises(exceptions.MergeConflictError) as caught:
        client.merge_branch("b", "main", commit_message="take b")
    assert sorted(caught.value.causes) == [
        "`default.both`: changed on both sides",
        "`default.gone`: changed on the target, deleted on the source",
        "`default.new`: created on both sides",
    ]
    with pytest.raises(exceptions.SameRefError):
        client.merge_branch("a", "main")
    assert code(lab, "branch", "merge", "main", "--into", "main") == "CTL0027"


def test_the_published_scenarios(lab: Lab, client: forebay.Client) -> None:
    """What two people do to one lake, as the system we follow documents it."""
    # Both make the same table, even of the same rows: who merges second is told.
    for name in ("ann.a", "bob.b"):
        client.create_branch(name, "main")
        lab.load("t", table(1), branch=name)
    lab.load("lab.t", table(8), branch="bob.b")
    client.merge_branch("ann.a", "main")
    with pytest.raises(exceptions.MergeConflictError):
        client.merge_branch("bob.b", "main")
    assert lab.tables() == ["default.t"], "nothing of a refused merge"
    # In another namespace both are there.
    client.delete_table("t", "bob.b")
    client.revert_table("t", source_ref="main", into_branch="bob.b")
    client.merge_branch("bob.b", "main")
    assert lab.tables() == ["default.t", "lab.t"] and xs(lab) == [1] and xs(lab, "lab.t") == [8]
    # Who branches afterwards replaces the table, also with other columns; the branch of before keeps what it saw.
    before = client.create_tag("before", "main")
    client.create_branch("bob.c", "main")
    lab.load("t", pa.table({"y": ["other"]}), branch="bob.c")
    client.merge_branch("bob.c", "main")
    assert lab.rows("SELECT * FROM t") == [{"y": "other"}] and xs(lab, ref="before") == [1]
    # An expectation that looks at the columns keeps such a change away.
    source = """
@forebay.model(materialization_strategy="REPLACE")
def t():
    return {"z": [1.5]}

@forebay.expectation()
def same(t=forebay.Model("t")):
    return t.column_names == ["y"]
"""
    client.create_branch("ann.d", "main")
    failed = lab.run(lab.project(source), "--ref", "ann.d").failed(1).json
    assert failed["failed_branch"] and client.get_branch("ann.d").hash == client.get_branch("main").hash
    with pytest.raises(exceptions.SameRefError):
        client.merge_branch("ann.d", "main")
    # Repaired on a branch, and merged once.
    client.create_branch("fix", "main")
    client.revert_table("t", source_ref=before, into_branch="fix", replace=True)
    lab.load("u", table(5), branch="fix")
    assert client.merge_branch("fix", "main").hash == client.get_branch("fix").hash, "a merge that just moves"
    assert xs(lab) == [1] and xs(lab, "u") == [5]


def test_merges_say_what_they_were_told(lab: Lab, client: forebay.Client) -> None:
    client.create_branch("dev", "main")
    client.create_namespace("raw", "dev")
    properties = {"ticket": "42"}
    client.merge_branch("dev", "main", commit_message="Take raw", commit_body="It is time.", commit_properties=properties, always_commit=True)
    [merge] = client.get_commits("main", limit=1)
    assert (merge.subject, merge.body, len(merge.parent_hashes)) == ("Take raw", "It is time.", 2)
    assert merge.properties["ticket"] == "42" and client.has_namespace("raw", "main")
    client.create_namespace("more", "dev")
    assert client.merge_branch("main", "dev").hash != client.get_branch("main").hash
    assert client.merge_branch("dev", "main") == client.get_branch("main"), "it just moved"
    assert client.get_branch("main").hash == client.get_branch("dev").hash


def test_a_run_is_undone_whole(lab: Lab, client: forebay.Client) -> None:
    lab.run(lab.project(TWO % (1, 1))).ok()
    good = client.get_branch("main")
    bad = lab.run(lab.project(TWO % (2, 2))).ok().json["job_id"]
    lab.load("other", table(1))
    for args in (("a",), ("b",)):
        refused = lab.forebay("table", "revert", *args, "-s", str(good), "--replace", "-o", "json").failed(1)
        assert refused.json["error"]["code"] == "CAT0021" and bad in refused.err
    with pytest.raises(exceptions.PartialRevertError):
        client.revert_table("a", source_ref=good, into_branch="main", replace=True)
    assert xs(lab, "a") == [2] and xs(lab, "b") == [2]
    lab.forebay("revert", "--job", bad[:13], "-m", "The feed was broken").ok()
    assert xs(lab, "a") == [1] and xs(lab, "b") == [1] and xs(lab, "other") == [1]
    [made] = client.get_commits("main", limit=1)
    assert made.subject == "The feed was broken" and made.properties["forebay.reverts"]
    with pytest.raises(exceptions.NothingToRevertError):
        client.revert_run(bad, "main")
    # Undoing the undoing.
    client.revert_commit("main", into_branch="main")
    assert xs(lab, "a") == [2]
    lab.load("a", table(7))
    with pytest.raises(exceptions.RevertConflictError) as caught:
        client.revert_run(bad, "main")
    assert caught.value.causes == ["`default.a`: changed since"]
    with pytest.raises(exceptions.ResourceNotFoundError):
        client.revert_run("nothing-of-the-kind", "main")


def test_tables_are_put_back(lab: Lab, client: forebay.Client) -> None:
    lab.load("t", table(1))
    good = client.get_branch("main")
    lab.load("t", table(2))
    client.create_branch("fix", "main")
    with pytest.raises(exceptions.RevertDestinationTableExistsError):
        client.revert_table("t", source_ref=good, into_branch="fix")
    properties = {"why": "corrupt"}
    client.revert_table("t", source_ref=good, into_branch="fix", replace=True, commit_properties=properties)
    assert xs(lab, ref="fix") == [1] and xs(lab) == [2]
    [made] = client.get_commits("fix", limit=1)
    assert made.properties["why"] == "corrupt" and "default.t" in made.subject
    with pytest.raises(exceptions.RevertIdenticalTableError):
        client.revert_table("t", source_ref=good, into_branch="fix", replace=True)
    with pytest.raises(exceptions.TableNotFoundError):
        client.revert_table("nothing", source_ref=good, into_branch="fix")
    client.merge_branch("fix", "main")
    assert xs(lab) == [1]
    client.delete_table("t", "main")
    client.revert_table(["t"], namespace="default", source_ref="main~1", into_branch="main")
    assert xs(lab) == [1]


def test_nothing_of_a_failed_run_gets_elsewhere(lab: Lab, client: forebay.Client) -> None:
    lab.load("t", table(1))
    source = '@forebay.model(materialization_strategy="REPLACE")\ndef t():\n    return {"x": [2]}\n'
    source += '@forebay.model(materialization_strategy="REPLACE")\ndef u(t=forebay.Model("t")):\n    raise ValueError\n'
    kept = lab.run(lab.project(source)).failed(1).json["failed_branch"]
    bad = client.get_branch(kept)
    assert bad.failed_job
    for ref in (kept, str(bad), f"@{bad.hash}", f"{kept}~0"):
        for attempt in (
            lambda: client.merge_branch(ref, "main"),
            lambda: client.create_branch("fork", ref),
            lambda: client.create_tag("fork", ref),
            lambda: client.revert_table("t", source_ref=ref, into_branch="main", replace=True),
        ):
            with pytest.raises((exceptions.ForbiddenError, exceptions.TableNotFoundError, exceptions.RevertIdenticalTableError)):
                attempt()
    client.rename_branch(kept, "look")
    with pytest.raises(exceptions.ForbiddenError):
        client.create_branch("fork", "look")
    lab.run(lab.project(source), "--ref", "look").failed(1)
    assert client.get_branch("main").hash == client.get_branch("main").hash and xs(lab) == [1]
    assert [one.failed_job for one in client.get_commits("look", limit=1)] == [bad.failed_job]


def test_protected_branches(lab: Lab, client: forebay.Client) -> None:
    lab.load("t", table(1))
    assert client.protect_branch("main").protected and client.get_branch("main").protected
    assert "protected" in lab.forebay("branch", "ls").ok().out
    before = lab.head()
    marker = lab.folder / "ran"
    source = f'@forebay.model(materialization_strategy="REPLACE")\ndef t():\n    open({str(marker)!r}, "w").close()\n    return {{"x": [2]}}\n'
    refused = lab.run(lab.project(source)).failed(1)
    assert refused.json["error"]["code"] == "CAT0019" and not marker.exists(), "refused before anything runs"
    assert code(lab, "table", "rm", "t") == "CAT0019" and code(lab, "namespace", "create", "n") == "CAT0019"
    assert code(lab, "revert", "main") == "CAT0019"
    client.create_branch("dev", "main")
    for attempt in (lambda: client.delete_branch("dev"), lambda: client.rename_branch("dev", "x")):
        client.protect_branch("dev")
        with pytest.raises(exceptions.ForbiddenError):
            attempt()
    client.unprotect_branch("dev")
    lab.load("t", table(2), branch="dev")
    assert lab.head() == before
    client.merge_branch("dev", "main")
    assert xs(lab) == [2] and client.get_branch("main").protected
    lab.forebay("branch", "unprotect", "main").ok()
    lab.load("t", table(3))
    assert xs(lab) == [3]


def test_two_runs_that_append_to_one_table_both_land(lab: Lab) -> None:
    lab.load("t", table(1))
    gate = lab.gate()
    slow = lab.start_run(lab.project(APPEND % (gate.code, 2), name="slow"))
    gate.wait()
    lab.run(lab.project(APPEND % ("pass", 3), name="fast")).ok()
    gate.open()
    slow.wait().ok()
    assert xs(lab) == [1, 2, 3]
    log = lab.json("commit", "-n", "2")["commits"]
    assert [len(one["parent_hashes"]) for one in log] == [1, 1]


def test_an_append_that_read_its_table_is_a_conflict(lab: Lab) -> None:
    lab.load("t", table(1))
    gate = lab.gate()
    body = (
        "@forebay.model(materialization_strategy='APPEND')\n"
        f"def t(old=forebay.Model('t', ref='main')):\n    {gate.code}\n    return {{'x': [old.num_rows + 1]}}\n"
    )
    slow = lab.start_run(lab.project(body, name="slow"))
    gate.wait()
    lab.run(lab.project(APPEND % ("pass", 3), name="fast")).ok()
    gate.open()
    assert slow.wait().failed(1).json["error"]["code"] == "CAT0004"
    assert xs(lab) == [1, 3]


def test_gc(lab: Lab, client: forebay.Client) -> None:
    lab.load("t", table(1))
    client.create_branch("dev", "main")
    lab.load("t", table(2), branch="dev")
    client.create_tag("v1", "dev~1")
    lost = client.get_branch("dev").hash
    client.delete_branch("dev")
    assert lab.json("gc")["removed"] == 0
    found = lab.json("gc", "--grace", "0s", "--dry-run")
    assert found["removed"] == 3 and lab.json("gc", "--grace", "0s") == found
    assert lab.json("gc", "--grace", "0s")["removed"] == 0
    assert code(lab, "branch", "create", "again", "--from-ref", f"@{lost}") == "CAT0001"
    assert xs(lab) == [1] and xs(lab, ref="v1") == []
    lab.load("t", table(3))
    assert xs(lab) == [3]


def test_the_lines_of_the_guide(lab: Lab, client: forebay.Client) -> None:
    lab.load("flights", table(1))
    lab.load("delays", table(1))
    settings = '[parameters.min_delay]\ntype = "int"\ndefault = 15\n'
    source = '@forebay.model(materialization_strategy="REPLACE")\ndef late(minimum=forebay.Parameter("min_delay")):\n    return {"x": [minimum]}\n'
    project = lab.project(source, settings=settings)
    lines = re.findall(r"^\$ forebay (.*)$", GUIDE.read_text(), re.M)
    assert len(lines) > 15
    job = ""
    for line in lines:
        now = datetime.now(timezone.utc)
        line = line.replace("2026-11-01T09:30", now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")[:-4] + "Z")
        east = (now + timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        line = line.replace("2026-11-01 09:30:05+01:00", east + "+01:00")
        line = line.replace("1a2b3c4d", lab.head()[:8]).replace("0199e5", job)
        args = shlex.split(line)
        if args[0] == "run":
            args += ["-p", str(project), "-o", "json"]
        done = lab.forebay(*args).ok()
        job = done.json["job_id"] if args[0] == "run" else job
    # Two reverts later: `delays` came back, and the run is undone.
    assert xs(lab, "delays") == [1] and lab.tables() == ["default.delays", "default.flights"]
