"""What the client's jobs return: a run, a plan, an import, and who and where the client is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Mapping

from .exceptions import ForebayError
from .schema import Actor, Branch

__all__ = ["InfoState", "NodeState", "PlanState", "RunExecutionContext", "RunState", "TableDataImportState"]


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
class NodeState:
    """One function of a run. The four byte counts say how its result reached shared memory.

    `status` is `waiting running done failed cancelled skipped`; `seconds` is wall-clock time.
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
    cache: str = "none"


@dataclass
class RunState:
    """How a run went. A run that failed does not raise: look at `job_status` and `error`.

    `job_status` is `SUCCESS`, `FAILED` or `CANCELLED`, and `None` for a run that was detached.
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
class PlanState:
    """The plan of a project: as written, as it would run, and drawn."""

    logical: Any
    physical: Any
    drawing: str

    def __str__(self) -> str:
        return self.drawing


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
