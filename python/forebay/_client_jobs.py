"""Runs, plans and jobs."""

from __future__ import annotations

import os
import time
from datetime import datetime, timezone
from itertools import islice
from typing import Any, Iterator, Literal, Mapping, Sequence, Union

from ._client_base import Methods
from ._connection import Answer, with_secrets
from ._convert import (
    JobArg,
    NamespaceArg,
    ParameterValue,
    RefArg,
    instant,
    job_id,
    job_status,
    namespace_name,
    parameters as as_text,
    to_branch,
    to_bytes,
    to_job,
    to_node,
)
from ._errors import from_wire
from .schema import Branch, Job, JobKind, JobLogEvent, JobState
from .state import ExplainState, PlanState, RunExecutionContext, RunState

ProjectArg = Union[str, "os.PathLike[str]"]
SwitchArg = Union[bool, Literal["on", "off"]]
PreviewArg = Union[bool, Literal["on", "off", "head", "tail"]]

_ENDED = ("done", "failed", "cancelled", "skipped")


class JobMethods(Methods):
    """Runs, plans and jobs."""

    def run(
        self,
        project_dir: ProjectArg,
        *,
        ref: RefArg | None = None,
        namespace: NamespaceArg | None = None,
        parameters: Mapping[str, ParameterValue] | None = None,
        cache: SwitchArg = True,
        transaction: SwitchArg = True,
        dry_run: bool = False,
        strict: SwitchArg = True,
        preview: PreviewArg = "off",
        client_timeout: float | None = None,
        detach: bool = False,
    ) -> RunState:
        """Runs a project: all its models, then one commit on the branch, or nothing.

        A run that fails does not raise; look at `job_status` and `error`, or call `raise_for_status()`. What raises is
        a run that could not begin.

        Args:
            project_dir: The project's folder.
            ref: The branch to run on. Default: the active branch. A dry run takes any ref.
            namespace: Default: the project's.
            parameters: Values for the project's parameters; `None` means the default. For a secret, where it is: `env:NAME`,
                `file:PATH` or `keyring:SERVICE/USER`.
            cache: Accepted; results are not cached yet.
            transaction: Must be true: every run is a transaction.
            dry_run: Runs everything and writes nothing.
            strict: Failed expectations, and columns that are not as declared, fail the run.
            preview: `head` or `tail`: ten rows of each model, as text in `previews`.
            client_timeout: Seconds; then the run is cancelled.
            detach: Returns at once; follow the run with `get_job(state.job_id)`.

        Raises:
            InvalidPlanError: if the project has mistakes, or a parameter is unknown or missing (a `ValueError`).
            BranchNotFoundError: if the branch does not exist.
            JobTimeoutError: after `client_timeout`; the run is cancelled.

        Example:
            >>> state = client.run("examples/flights", ref="main", parameters={"min_delay": 30})  # doctest: +SKIP
            >>> state.job_status  # doctest: +SKIP
            'SUCCESS'
        """
        if not _switch("transaction", transaction):
            raise ValueError("every run is a transaction: leave `transaction` out")
        request = self._run_request(project_dir, ref, namespace, parameters, dry_run, _switch("strict", strict))
        request.update(preview=_preview(preview), detach=detach)
        context = RunExecutionContext(
            project_dir=request["project_dir"],
            ref=request["ref"],
            namespace=request["namespace"],
            parameters=request["parameters"],
            dry_run=dry_run,
            strict=request["strict"],
            preview=request["preview"],
            detach=detach,
            cache=_switch("cache", cache),
        )
        watch = _Watch(RunState(context, time.time_ns()))
        return watch.end(self._connection.call("run", request, client_timeout=client_timeout, on_event=watch))

    def plan(
        self,
        project_dir: ProjectArg,
        *,
        ref: RefArg | None = None,
        namespace: NamespaceArg | None = None,
        parameters: Mapping[str, ParameterValue] | None = None,
        strict: SwitchArg = True,
        client_timeout: float | None = None,
    ) -> PlanState:
        """Plans a project and runs nothing: its functions, pinned inputs, pushed-down columns and filters.

        Raises:
            InvalidPlanError: if the project has mistakes; `error.others` are the further ones.

        Example:
            >>> print(client.plan("examples/flights"))  # doctest: +SKIP
        """
        request = self._run_request(project_dir, ref, namespace, parameters, False, _switch("strict", strict))
        found = self._connection.call("plan", request, client_timeout=client_timeout).result
        return PlanState(found["logical"], found["physical"], found["drawing"])

    def get_jobs(
        self,
        *,
        filter_by_current_user: bool = True,
        filter_by_ids: Union[str, Sequence[str], None] = None,
        filter_by_users: Union[str, Sequence[str], None] = None,
        filter_by_kinds: Union[str, JobKind, Sequence[Union[str, JobKind]], None] = None,
        filter_by_statuses: Union[str, JobState, Sequence[Union[str, JobState]], None] = None,
        filter_by_created_after: str | datetime | None = None,
        filter_by_created_before: str | datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Jobs, newest first.

        Args:
            filter_by_current_user: Only jobs of the client's user; ignored if `filter_by_users` is given.
            filter_by_ids: Ids or beginnings of ids.
            filter_by_users: Names of users.
            filter_by_kinds: `JobKind`s or their values.
            filter_by_statuses: `JobState`s or their values.
            filter_by_created_after: RFC 3339 or `datetime`, UTC if it has no zone.
            filter_by_created_before: Likewise.
            limit: At most so many.

        Example:
            >>> [job.id for job in client.get_jobs(filter_by_kinds=forebay.JobKind.RUN)]  # doctest: +SKIP
        """
        users = set(_several(filter_by_users))
        if not users and filter_by_current_user:
            users = {self._connection.session.author["name"]}
        after, before = instant(filter_by_created_after), instant(filter_by_created_before)
        found = self._ask(
            "job.list",
            ids=[str(one) for one in _several(filter_by_ids)],
            kinds=[JobKind(one).value for one in _several(filter_by_kinds)],
            statuses=[job_status(one) for one in _several(filter_by_statuses)],
        )
        kept = (
            job
            for job in map(to_job, found)
            if (not users or job.user in users)
            and (after is None or job.created_at >= after)
            and (before is None or job.created_at <= before)
        )
        return islice(kept, limit)

    def get_job(self, job_id: JobArg) -> Job:
        """One job, by its id or the beginning of it.

        Raises:
            JobNotFoundError: if there is none.
        """
        return to_job(self._ask("job.get", id=_id(job_id)))

    def explain(self, job: JobArg) -> ExplainState:
        """How the tables of a run got from function to function, and why bytes were copied.

        Args:
            job: A run that has ended: a job, its id or the beginning of it.

        Raises:
            JobNotFoundError: if there is none.
            ValueError: if the job is not a run, or has no result (yet).

        Example:
            >>> client.explain(state.job_id).bytes.uncopied_share  # doctest: +SKIP
            0.998
        """
        found = self.get_job(job)
        if found.kind is not JobKind.RUN:
            raise ValueError(f"job {found.id} is not a run: its kind is {found.kind}")
        if found.result is None:
            raise ValueError(f"job {found.id} has no result: its state is {found.status}")
        nodes = tuple(to_node(node) for node in found.result["nodes"])
        return ExplainState(found.id, nodes, to_bytes(nodes))

    def get_job_logs(self, job: JobArg) -> list[JobLogEvent]:
        """What the functions of a job printed, in order.

        Raises:
            JobNotFoundError: if there is none.
        """
        return [
            JobLogEvent(line["stream"], line["line"], line.get("node", ""), instant(line.get("timestamp")))
            for line in self._ask("job.logs", id=_id(job))
        ]

    def cancel_job(self, job_id: JobArg) -> None:
        """Cancels a job and waits until nothing of it runs.

        Raises:
            JobNotFoundError: if there is none.
        """
        self._ask("job.stop", id=_id(job_id))

    def _run_request(
        self,
        project_dir: ProjectArg,
        ref: RefArg | None,
        namespace: NamespaceArg | None,
        parameters: Mapping[str, ParameterValue] | None,
        dry_run: bool,
        strict: bool,
    ) -> dict[str, Any]:
        # A branch object is where to run, not the commit it was read at: runs write.
        folder = os.path.abspath(os.path.expanduser(os.fspath(project_dir)))
        values, secrets = with_secrets(folder, as_text(parameters), self._connection.profile)
        at = ref.name if isinstance(ref, Branch) else self._at(ref)
        return {
            "project_dir": folder,
            "ref": at,
            "namespace": namespace_name(namespace),
            "parameters": values,
            "secrets": secrets,
            "strict": strict,
            "dry_run": dry_run,
        }


class _Watch:
    """Fills a `RunState` from the events of its run."""

    def __init__(self, state: RunState) -> None:
        self.state = state

    def __call__(self, event: Mapping[str, Any]) -> None:
        state, kind = self.state, event["event"]
        if kind == "job":
            state.job_id = event["job_id"]
        elif kind == "node":
            now, name = datetime.now(timezone.utc), event["name"]
            if event["status"] == "running":
                state.tasks_started.setdefault(name, now)
            elif event["status"] in _ENDED:
                state.tasks_stopped.setdefault(name, now)
        elif kind == "log" and event["stream"] != "system":
            state.user_logs.append(f"{event['node']} | {event['line']}")
        elif kind == "preview":
            state.previews[event["node"]] = event["text"]
        elif kind == "warning":
            state.warnings.append(event["text"])

    def end(self, answer: Answer) -> RunState:
        state, result = self.state, answer.result
        state.job_id = result["job_id"]
        if result["status"] == "RUNNING":
            return state
        state.ended_at_ns = time.time_ns()
        state.job_status = result["status"]
        state.ref = to_branch(result["ref"]) if result.get("ref") else None
        state.nodes = [to_node(node) for node in result["nodes"]]
        state.bytes = to_bytes(state.nodes)
        state.failed_branch = result.get("failed_branch")
        state.kept_tables = tuple(result.get("kept_tables") or ())
        if result.get("error"):
            state.exception = from_wire(result["error"], "run")
            state.error = str(state.exception)
            state.traceback = state.exception.traceback
            if not state.nodes and state.job_status == "FAILED":
                # There was no plan: the run could not begin.
                raise state.exception
        return state


def _id(job: JobArg) -> str:
    return job_id(job)


def _switch(name: str, value: object) -> bool:
    """The older dialect says `'on'` and `'off'`."""
    known = {True: True, False: False, "on": True, "off": False}
    if not isinstance(value, (bool, str)) or value not in known:
        raise ValueError(f"{name} is a bool, not {value!r}")
    return known[value]


def _preview(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value not in ("on", "off", "head", "tail"):
        raise ValueError(f"preview is 'off', 'on', 'head' or 'tail', not {value!r}")
    return str(value)


def _several(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
