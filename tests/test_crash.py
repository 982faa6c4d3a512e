"""The daemon, a client or a writer dies, or two runs meet: the lake stays whole and the next command works."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from conftest import Gate, Lab, command_line, descendants, ends, node


def waiting(lab: Lab, gate: Gate, table: str = "t", name: str = "project", value: int = 1) -> Path:
    """A project with one result, which waits at the gate before it returns."""
    return lab.project(
        f"""
        @forebay.model(materialization_strategy="REPLACE")
        def {table}():
            {gate.code}
            return pa.table({{"x": [{value}]}})
        """,
        name,
    )


def test_kill_9_of_the_daemon_in_mid_run(lab: Lab) -> None:
    gate = lab.gate()
    project = waiting(lab, gate)
    before = lab.head()
    daemon = lab.daemon()
    run = lab.start_run(project)
    [function] = gate.wait()
    os.kill(daemon, signal.SIGKILL)
    assert ends(daemon) and ends(function), "functions die with the daemon"
    lost = run.wait()
    assert lost.code == 3 and "error[" in lost.err, str(lost)
    assert lab.head() == before and lab.tables() == []
    assert lab.daemon() != daemon
    again = lab.start_run(project)
    gate.wait()
    gate.open()
    again.wait().ok()
    assert lab.rows("SELECT x FROM t") == [{"x": 1}]


def test_a_job_of_a_dead_daemon_is_not_running(lab: Lab) -> None:
    gate = lab.gate()
    job = lab.run(waiting(lab, gate), "--detach").ok().json["job_id"]
    gate.wait()
    daemon = lab.daemon()
    os.kill(daemon, signal.SIGKILL)
    assert ends(daemon)
    assert lab.json("job", "get", job)["job"]["status"] in ("FAILED", "CANCELLED")


@pytest.mark.parametrize("lines", range(1, 9))
def test_kill_9_at_any_moment_of_a_run(lab: Lab, lines: int) -> None:
    """Whatever was told to be done is there; whatever was not, is there whole or not at all."""
    project = lab.project(
        """
        @forebay.model()
        def source():
            return pa.table({"x": [1]})

        @forebay.model(materialization_strategy="APPEND")
        def a(data=forebay.Model("source")):
            return data

        @forebay.model(materialization_strategy="APPEND")
        def b(data=forebay.Model("source")):
            return data
        """
    )
    lab.run(project).ok()
    daemon = lab.daemon()
    run = lab.start("run", "-p", project)
    # Each line is told at another point of the run. A run that says less has ended by itself.
    for _ in range(lines):
        if not run.line():
            break
    os.kill(daemon, signal.SIGKILL)
    assert ends(daemon)
    done = run.wait()
    [counts] = lab.rows("SELECT (SELECT count(*) FROM a) AS a, (SELECT count(*) FROM b) AS b")
    assert counts["a"] == counts["b"], "all of a run or nothing"
    assert counts["a"] == 2 if done.code == 0 else counts["a"] in (1, 2)
    for branch in lab.json("branch", "ls")["branches"]:
        assert lab.tables(branch["name"]) == ["default.a", "default.b"]
    lab.run(project).ok()


def test_two_runs_at_once_on_two_branches(lab: Lab) -> None:
    gate = lab.gate()
    for branch in ("left", "right"):
        lab.forebay("branch", "create", branch, "--from-ref", "main").ok()
    runs = [
        lab.start_run(waiting(lab, gate, "t", name, value), "-r", name)
        for value, name in enumerate(("left", "right"))
    ]
    gate.wait(2)
    gate.open(2)
    for run in runs:
        run.wait().ok()
    assert lab.rows("SELECT x FROM t", "left") == [{"x": 0}]
    assert lab.rows("SELECT x FROM t", "right") == [{"x": 1}]
    assert lab.tables("main") == []


def test_two_runs_at_once_on_one_branch_with_different_tables_both_commit(lab: Lab) -> None:
    gate = lab.gate()
    runs = [lab.start_run(waiting(lab, gate, table, table)) for table in ("one", "two")]
    gate.wait(2)
    gate.open(2)
    for run in runs:
        run.wait().ok()
    assert lab.tables() == ["default.one", "default.two"]


def test_two_runs_at_once_on_one_table(lab: Lab) -> None:
    """Both may have won, one after the other; a loser is told which table."""
    gate = lab.gate()
    runs = [lab.start_run(waiting(lab, gate, "t", f"project{value}", value)) for value in (0, 1)]
    gate.wait(2)
    gate.open(2)
    done = [run.wait() for run in runs]
    won = [value for value, one in enumerate(done) if one.code == 0]
    assert won, [str(one) for one in done]
    for loser in (one for one in done if one.code != 0):
        loser.failed(1)
        assert loser.json["error"]["code"] in ("CAT0004", "CAT0005") and "default.t" in loser.err
    assert lab.rows("SELECT x FROM t")[0]["x"] in won


def test_control_c_cancels_and_leaves_nothing_running(lab: Lab) -> None:
    gate = lab.gate()
    project = waiting(lab, gate)
    before = lab.head()
    run = lab.start_run(project)
    [function] = gate.wait()
    run.interrupt()
    done = run.wait().failed(1)
    assert done.json["status"] == "CANCELLED"
    assert node(done.json, "t")["status"] == "cancelled"
    assert ends(function, 0), "it ended before the command did"
    assert lab.functions() == [] and lab.head() == before and lab.tables() == []
    assert lab.json("job", "get", done.json["job_id"])["job"]["status"] == "CANCELLED"


def test_a_killed_client_cancels_its_run(lab: Lab) -> None:
    gate = lab.gate()
    before = lab.head()
    run = lab.start_run(waiting(lab, gate))
    [function] = gate.wait()
    run.kill()
    run.wait()
    assert ends(function)
    assert lab.head() == before


def test_children_of_a_function_die_with_it(lab: Lab) -> None:
    gate = lab.gate()
    project = lab.project(
        f"""
        @forebay.model(materialization_strategy="REPLACE")
        def parent():
            import subprocess
            child = subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.DEVNULL)
            {gate.code}
            return pa.table({{"running": [child.poll() is None]}})
        """
    )
    run = lab.start_run(project)
    [function] = gate.wait()
    [child] = descendants(function)
    gate.open()
    run.wait().ok()
    assert lab.rows("SELECT running FROM parent") == [{"running": True}]
    assert ends(child)


def test_two_homes_never_meet(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    other = Lab(tmp_path / "second")
    try:
        assert other.daemon() != lab.daemon()
        lab.run(lab.project('@forebay.model(materialization_strategy="REPLACE")\ndef t():\n    return {"x": [1]}\n')).ok()
        assert lab.tables() == ["default.t"] and other.tables() == []
        assert other.json("job", "ls")["jobs"] == []
        # Stopping one leaves the other.
        other.forebay("daemon", "stop").ok()
        assert lab.tables() == ["default.t"]
    finally:
        other.forebay("daemon", "stop")


def test_many_clients_start_one_daemon(lab: Lab) -> None:
    clients = [lab.start("branch", "ls", "-o", "json") for _ in range(8)]
    for client in clients:
        client.wait().ok()
    daemons = [pid for pid in descendants(os.getpid()) if "daemon serve" in command_line(pid)]
    assert daemons == [lab.daemon()]
