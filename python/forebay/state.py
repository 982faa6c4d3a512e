"""What the client's jobs return: a run, a plan, an import, and who and where the client is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Mapping

from .exceptions import ForebayError
from .schema import Actor, Branch

__all__ = [
    "BytesState",
    "CopiedState",
    "ExplainState",
    "InfoState",
    "NodeState",
    "PlanState",
    "RunExecutionContext",
    "RunState",
    "TableCreatePlanState",
    "TableDataImportState",
]


@dataclass(frozen=True)
class InfoState:
    """Where a client is connected: the daemon's version, the lake's URI, and who commits."""

    client_version: str
    daemon_version: str
    lake: str
    active_branch: str
    user: Actor
    home: str


@dataclass(frozen=True)
class RunExecutionContext:
    """What a run was asked to do, with defaults filled in."""

    project_dir: str
    ref: str
    namespace: str | None
    parameters: Mapping[str, str]
    dry_run: bool
    strict: bool
    preview: str
    detach: bool
    cache: bool = True
    transaction: bool = True


@dataclass(frozen=True)
class BytesState:
    """Bytes of tables, by how they got into shared memory.

    `referenced`: born there; `reshared`: shared again from an input; `copied`: copied there; `inline`: so small that they
    travel in the message.
    """

    referenced: int = 0
    reshared: int = 0
    copied: int = 0
    inline: int = 0

    @property
    def total(self) -> int:
        """All bytes."""
        return self.referenced + self.reshared + self.copied + self.inline

    @property
    def uncopied_share(self) -> float | None:
        """Share of the bytes that needed no copy, from 0 to 1; `None` if there are none."""
        return 1 - self.copied / self.total if self.total else None


@dataclass(frozen=True)
class CopiedState:
    """Bytes that were copied for one reason.

    `elsewhere`: not born in shared memory (blocks below 64 KiB, or memory no allocator gave); `rewritten`: written to after
    the function had forked; `rebased`: a slice of an array of lists; `compacted`: a small part of a large table, copied
    so that the rest can be freed. A later version may know more.
    """

    reason: str
    bytes: int


@dataclass(frozen=True)
class NodeState:
    """One function of a run. The four byte counts say how its result reached shared memory, `copies` why bytes were copied;
    `bytes_converted` is what it made anew of its inputs, in the layout that its library reads.

    `status` is `waiting running done failed cancelled skipped`; `seconds` is wall-clock time, `receive_seconds` from the
    received call to the input tables held, `publish_seconds` from the function's return to its table published.
    """

    name: str
    kind: str
    status: str
    rows: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    bytes_copied: int = 0
    bytes_referenced: int = 0
    bytes_reshared: int = 0
    bytes_inline: int = 0
    bytes_converted: int = 0
    copies: tuple[CopiedState, ...] = ()
    receive_seconds: float | None = None
    publish_seconds: float | None = None
    cache: str = "none"


@dataclass
class RunState:
    """How a run went. A run that failed does not raise: look at `job_status` and `error`.

    `job_status` is `SUCCESS`, `FAILED` or `CANCELLED`, and `None` for a run that was detached. After a failure, `kept_tables`
    are the tables it had written; they can be looked at on `failed_branch`. `bytes` are those of all its tables.
    """

    ctx: RunExecutionContext
    started_at_ns: int
    job_id: str | None = None
    job_status: str | None = None
    ref: Branch | None = None
    error: str | None = None
    exception: ForebayError | None = None
    traceback: str | None = None
    failed_branch: str | None = None
    kept_tables: tuple[str, ...] = ()
    bytes: BytesState = BytesState()
    ended_at_ns: int | None = None
    nodes: list[NodeState] = field(default_factory=list)
    tasks_started: dict[str, datetime] = field(default_factory=dict)
    tasks_stopped: dict[str, datetime] = field(default_factory=dict)
    user_logs: list[str] = field(default_factory=list)
    previews: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def duration_ns(self) -> int | None:
        """Nanoseconds from request to result."""
        return None if self.ended_at_ns is None else self.ended_at_ns - self.started_at_ns

    @property
    def duration(self) -> float | None:
        """Seconds from request to result."""
        return None if self.duration_ns is None else self.duration_ns / 1e9

    def raise_for_status(self) -> RunState:
        """Returns itself after success.

        Raises:
            ForebayError: what made the run fail, with the user's traceback in `traceback`.
        """
        if self.exception is not None:
            raise self.exception
        return self


@dataclass(frozen=True)
class ExplainState:
    """How the tables of a run got from function to function: per function in `nodes`, and all together in `bytes`."""

    job_id: str
    nodes: tuple[NodeState, ...]
    bytes: BytesState


@dataclass(frozen=True)
class PlanState:
    """The plan of a project: as written, as it would run, and drawn."""

    logical: Any
    physical: Any
    drawing: str

    def __str__(self) -> str:
        return self.drawing


@dataclass(frozen=True)
class TableCreatePlanState:
    """A plan of a table: `plan` is YAML to look at, to edit, and to give to `apply_table_creation_plan`.

    `can_auto_apply` is false while `conflicts` names columns whose types differ between the files.
    """

    job_id: str
    job_status: str
    plan: str
    can_auto_apply: bool
    conflicts: tuple[str, ...]
    files_to_be_imported: tuple[str, ...]
    error: str | None = None

    def __str__(self) -> str:
        return self.plan


@dataclass(frozen=True)
class TableDataImportState:
    """How an import went: rows added, files imported, skipped (imported before) and failed (file to reason)."""

    job_id: str
    job_status: str
    branch: Branch
    rows: int
    files: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: Mapping[str, str]
    error: str | None = None
