"""Types, arguments and exceptions of the client, without a daemon."""

import pickle
import re
from datetime import datetime, timezone
from pathlib import Path

import pytest

from forebay import _convert, exceptions, schema
from forebay._client_jobs import JobMethods, _Watch
from forebay._connection import Answer
from forebay._errors import _BY_AREA, _BY_CODE, from_wire
from forebay.state import BytesState, CopiedState, RunExecutionContext, RunState

ROOT = Path(__file__).parents[2]
WIRE = {
    "code": "PLN0004",
    "message": "could not find the input `flihgts`",
    "causes": ["no such table\nor model"],
    "hint": "did you mean `flights`?",
    "at": {"file": "models.py", "line": 3, "column": 9, "excerpt": "data=…"},
    "fault": "request",
    "others": [{"code": "PLN0005", "message": "could not read the filter", "causes": [], "hint": None, "fault": "request"}],
}


def test_an_error_reads_like_on_the_command_line():
    error = from_wire(WIRE, "run")
    assert isinstance(error, exceptions.InvalidPlanError) and isinstance(error, ValueError)
    assert str(error) == (
        "[PLN0004] could not find the input `flihgts`\n  --> models.py:3:9\n   | data=…\n  Caused by: no such table\n"
        "    or model\n\nhint: did you mean `flights`?\n\n[PLN0005] could not read the filter"
    )
    assert [other.code for other in error.others] == ["PLN0005"]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("name", exceptions.__all__)
def test_every_exception_is_ours_can_be_raised_and_pickled(name):
    kind = getattr(exceptions, name)
    error = kind("boom", code="X0001", hint="look")
    assert issubclass(kind, exceptions.ForebayError)
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == "[X0001] boom\n\nhint: look"


@pytest.mark.parametrize(
    ("code", "op", "kind", "builtin"),
    [
        ("CAT0001", "branch.get", exceptions.BranchNotFoundError, LookupError),
        ("CAT0001", "branch.create", exceptions.RefNotFoundError, LookupError),
        ("CAT0001", "tag.get", exceptions.TagNotFoundError, LookupError),
        ("CAT0001", "query", exceptions.RefNotFoundError, LookupError),
        ("CAT0003", "branch.create", exceptions.BranchExistsError, Exception),
        ("CAT0003", "tag.rename", exceptions.TagExistsError, Exception),
        ("CAT0003", "namespace.create", exceptions.NamespaceExistsError, Exception),
        ("CAT0005", "branch.merge", exceptions.MergeConflictError, Exception),
        ("CAT0006", "branch.merge", exceptions.MergeForbiddenError, PermissionError),
        ("CAT0014", "namespace.delete", exceptions.NamespaceIsNotEmptyError, Exception),
        ("CAT0015", "table.delete", exceptions.TableNotFoundError, LookupError),
        ("CTL0015", "run", exceptions.BranchNotFoundError, LookupError),
        ("CTL0018", "run", exceptions.JobCancelledError, RuntimeError),
        ("CTL0019", "table.get", exceptions.TableNotFoundError, LookupError),
        ("CTL9999", "query", exceptions.RequestError, Exception),
        ("PLN9999", "plan", exceptions.InvalidPlanError, ValueError),
        ("LAK9999", "query", exceptions.ForebayQueryError, RuntimeError),
        ("LAK9999", "table.import", exceptions.InvalidDataError, ValueError),
        ("RUN9999", "run", exceptions.ForebayJobError, RuntimeError),
        ("", "run", exceptions.RequestError, Exception),
    ],
)
def test_codes_become_classes(code, op, kind, builtin):
    error = from_wire({"code": code, "message": "no", "fault": "request"}, op)
    assert type(error) is kind and isinstance(error, builtin)


def test_a_fault_of_the_platform_is_an_internal_error():
    assert type(from_wire({"code": "LAK9999", "message": "no", "fault": "platform"})) is exceptions.InternalError


def test_mapped_codes_exist():
    sources = "".join(path.read_text() for path in ROOT.glob("crates/*/src/**/error*.rs"))
    codes = set(re.findall(r'"([A-Z]{3}\d{4})"', sources))
    assert set(_BY_CODE) <= codes
    assert {code[:3] for code in codes} <= set(_BY_AREA) | {"X00"}


def test_objects_stand_for_names():
    branch, tag, commit = schema.Branch("dev", "1a2b"), schema.Tag("v1", "1a2b"), schema.DetachedRef("", "1a2b")
    assert _convert.branch_name(branch) == _convert.branch_name("dev") == "dev"
    assert [_convert.ref_text(ref) for ref in (branch, tag, commit, "main")] == ["dev@1a2b", "v1@1a2b", "@1a2b", "main"]
    for wrong in (tag, commit):
        with pytest.raises(exceptions.NotABranchRefError):
            _convert.branch_name(wrong)
    with pytest.raises(exceptions.NotATagRefError):
        _convert.tag_name(branch)
    with pytest.raises(TypeError):
        _convert.ref_text(None)


def test_a_table_has_one_namespace():
    assert _convert.table_name("t", None) == ("t", None)
    assert _convert.table_name("raw.t", "raw") == _convert.table_name("t", schema.Namespace("raw")) == ("t", "raw")
    with pytest.raises(exceptions.NamespaceUnresolvedError):
        _convert.table_name("raw.t", "other")


def test_parameters_travel_as_text():
    given = {"a": True, "b": 3, "c": 1.5, "d": "x", "e": None}
    assert _convert.parameters(given) == {"a": "true", "b": "3", "c": "1.5", "d": "x"}
    with pytest.raises(TypeError, match="parameter 'a'"):
        _convert.parameters({"a": [1]})


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2026-01-02T03:04:05Z", 0),
        ("2026-01-02T03:04:05.123456789Z", 123456),
        ("2026-01-02T03:04:05.5+00:00", 500000),
        ("2026-01-02T03:04:05", 0),
    ],
)
def test_dates_are_utc(text, micros):
    assert _convert.instant(text) == datetime(2026, 1, 2, 3, 4, 5, micros, tzinfo=timezone.utc)


def test_a_commit_tells_its_parts():
    commit = _convert.to_commit(
        {
            "hash": "c" * 8,
            "message": "Merge\n\nbecause",
            "author": {"name": "ann", "email": "ann@x.org"},
            "authored_date": "2026-01-02T03:04:05Z",
            "parent_hashes": ["a" * 8, "b" * 8],
            "properties": {"k": "v"},
        }
    )
    assert (commit.subject, commit.body, str(commit.author)) == ("Merge", "because", "ann <ann@x.org>")
    assert str(commit.parent_ref) == "@aaaaaaaa" and str(commit.parent_merge_ref) == "@bbbbbbbb"


def test_a_run_state_is_filled_by_events_and_result():
    context = RunExecutionContext("/p", "main", None, {}, False, True, "off", False)
    watch = _Watch(RunState(context, started_at_ns=1))
    for event in (
        {"event": "job", "job_id": "j1"},
        {"event": "node", "name": "a", "status": "running"},
        {"event": "log", "node": "a", "stream": "stdout", "line": "hello"},
        {"event": "log", "node": "a", "stream": "system", "line": "building"},
        {"event": "preview", "node": "a", "text": "| x |"},
        {"event": "node", "name": "a", "status": "failed"},
    ):
        watch(event)
    node = {"name": "a", "kind": "python", "status": "failed", "rows": None, "bytes_copied": 3, "later": "field"}
    node["copies"] = [{"reason": "elsewhere", "bytes": 3}]
    error = {"code": "RUN0001", "message": "model `a` raised", "fault": "request", "traceback": "ValueError: x", "node": "a"}
    result = {"job_id": "j1", "status": "FAILED", "ref": None, "nodes": [node], "error": error, "kept_tables": ["default.t"]}
    state = watch.end(Answer(result))
    assert (state.job_id, state.job_status, state.user_logs, state.previews) == ("j1", "FAILED", ["a | hello"], {"a": "| x |"})
    assert state.nodes[0].bytes_copied == 3 and set(state.tasks_started) == set(state.tasks_stopped) == {"a"}
    assert state.nodes[0].copies == (CopiedState("elsewhere", 3),) and state.kept_tables == ("default.t",)
    assert state.bytes == BytesState(copied=3) and state.bytes.uncopied_share == 0
    assert state.traceback == "ValueError: x" and "model `a` raised" in state.error and state.duration > 0
    with pytest.raises(exceptions.ForebayJobError):
        state.raise_for_status()


class Records:
    """A client's methods over one record instead of a daemon."""

    def __init__(self, **fields):
        self.record = {"id": "j1", "kind": "run", "user": "ann", "status": "SUCCESS", "created_at": "2026-01-02T03:04:05Z"} | fields

    def _ask(self, op, **fields):
        assert (op, fields) == ("job.get", {"id": "j1"})
        return self.record

    explain, get_job = JobMethods.explain, JobMethods.get_job


def test_a_run_is_explained_by_its_record():
    # The second node is as older versions wrote it.
    new = {"name": "a", "kind": "sql", "status": "done", "bytes_referenced": 90, "bytes_reshared": 5, "bytes_copied": 4}
    new |= {"bytes_inline": 1, "copies": [{"reason": "compacted", "bytes": 4}], "publish_seconds": 0.5}
    old = {"name": "b", "kind": "python", "status": "done", "bytes_copied": 100}
    explained = Records(result={"nodes": [new, old]}).explain("j1")
    assert explained.nodes[0].copies == (CopiedState("compacted", 4),) and explained.nodes[0].publish_seconds == 0.5
    assert explained.nodes[1].copies == () and explained.job_id == "j1"
    assert explained.bytes == BytesState(90, 5, 104, 1) and explained.bytes.uncopied_share == pytest.approx(0.48)
    assert BytesState().uncopied_share is None
    for other in ({"kind": "query", "result": {}}, {"status": "RUNNING"}):
        with pytest.raises(ValueError, match="j1"):
            Records(**other).explain("j1")


def test_a_run_that_could_not_begin_raises():
    context = RunExecutionContext("/p", "main", None, {}, False, True, "off", False)
    result = {"job_id": "j1", "status": "FAILED", "ref": None, "nodes": [], "error": WIRE}
    with pytest.raises(exceptions.InvalidPlanError):
        _Watch(RunState(context, started_at_ns=1)).end(Answer(result))


def test_a_detached_run_has_no_status_yet():
    context = RunExecutionContext("/p", "main", None, {}, False, True, "off", True)
    state = _Watch(RunState(context, started_at_ns=1)).end(Answer({"job_id": "j1", "status": "RUNNING", "nodes": [], "ref": None}))
    assert (state.job_id, state.job_status, state.ended_at_ns, state.duration) == ("j1", None, None, None)


def test_job_states_have_the_daemons_names():
    assert [_convert.job_status(state) for state in ("COMPLETE", schema.JobState.FAIL, "ABORT", "RUNNING")] == [
        "SUCCESS",
        "FAILED",
        "CANCELLED",
        "RUNNING",
    ]
    with pytest.raises(ValueError):
        _convert.job_status("SUCCEEDED")
