"""What the catalog and the job list hold: refs, commits, namespaces, tables, jobs. Plain, immutable values.

Dates are `datetime` in UTC. Every ref prints as `name@hash`, the form that pins it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Mapping

__all__ = [
    "Actor",
    "Branch",
    "ColumnDiff",
    "ColumnSide",
    "Commit",
    "DetachedRef",
    "Diff",
    "Job",
    "JobKind",
    "JobLogEvent",
    "JobState",
    "Namespace",
    "PartitionField",
    "Ref",
    "RefType",
    "Table",
    "TableChange",
    "TableDiff",
    "TableField",
    "TableKind",
    "TableSide",
    "Tag",
]


class RefType(str, Enum):
    """What a ref is: only a branch moves."""

    BRANCH = "BRANCH"
    TAG = "TAG"
    DETACHED = "DETACHED"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Ref:
    """A name and the commit it pointed to when it was read.

    Example:
        >>> from forebay.schema import Branch
        >>> str(Branch("main", "1a2b3c4d"))
        'main@1a2b3c4d'
    """

    name: str
    hash: str
    type: RefType = RefType.DETACHED

    def __str__(self) -> str:
        return f"{self.name}@{self.hash}"


@dataclass(frozen=True)
class Branch(Ref):
    """A branch. Passed as a branch it is its name; passed as a ref it is pinned to this commit.

    `failed_job` names the job whose run failed and left this branch for inspection; such a branch cannot be merged.
    `protected`: only merges move it, and it can be neither deleted nor renamed.
    """

    type: RefType = RefType.BRANCH
    failed_job: str | None = None
    protected: bool = False

    __str__ = Ref.__str__


@dataclass(frozen=True)
class Tag(Ref):
    """A name for one commit."""

    type: RefType = RefType.TAG

    __str__ = Ref.__str__


@dataclass(frozen=True)
class DetachedRef(Ref):
    """A commit without a name."""

    type: RefType = RefType.DETACHED

    __str__ = Ref.__str__


@dataclass(frozen=True)
class Actor:
    """A person or service: name and mail address (may be empty)."""

    name: str
    email: str = ""

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>" if self.email else self.name


@dataclass(frozen=True)
class Commit:
    """An immutable state of the whole lake: every table of every namespace."""

    ref: Ref
    message: str
    author: Actor
    authored_date: datetime
    parent_hashes: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    failed_job: str | None = None

    @property
    def hash(self) -> str:
        """The commit's hash."""
        return self.ref.hash

    @property
    def subject(self) -> str:
        """The first line of the message."""
        return self.message.split("\n", 1)[0]

    @property
    def body(self) -> str | None:
        """The message after its first paragraph, if there is more."""
        return self.message.partition("\n\n")[2].strip() or None

    @property
    def authors(self) -> tuple[Actor, ...]:
        """All authors; there is one."""
        return (self.author,)

    @property
    def committer(self) -> Actor:
        """Who committed: the author."""
        return self.author

    @property
    def committed_date(self) -> datetime:
        """When it was committed: when it was authored."""
        return self.authored_date

    @property
    def parent_ref(self) -> DetachedRef | None:
        """The commit it was made on; `None` for the first commit of a lake."""
        return DetachedRef("", self.parent_hashes[0]) if self.parent_hashes else None

    @property
    def parent_merge_ref(self) -> DetachedRef | None:
        """For a merge: the commit that was merged."""
        return DetachedRef("", self.parent_hashes[1]) if len(self.parent_hashes) > 1 else None


@dataclass(frozen=True)
class Namespace:
    """A group of tables."""

    name: str

    def __str__(self) -> str:
        return self.name


class TableKind(str, Enum):
    """Who owns a table's files."""

    TABLE = "TABLE"
    EXTERNAL_TABLE = "EXTERNAL_TABLE"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class TableField:
    """One column; `type` is an Iceberg type name (`long`, `timestamptz`, `decimal(9, 2)`)."""

    id: int
    name: str
    required: bool
    type: str
    doc: str | None = None


@dataclass(frozen=True)
class PartitionField:
    """One partition field: a column and how its value is made (`identity year month day hour bucket[16] truncate[4]`)."""

    name: str
    transform: str


@dataclass(frozen=True)
class Table:
    """One table at one commit. `records` counts rows, `size` the bytes of its data files."""

    id: str
    name: str
    namespace: str
    kind: TableKind
    fields: tuple[TableField, ...]
    partitions: tuple[PartitionField, ...]
    records: int | None
    size: int | None
    snapshots: int
    metadata_location: str
    current_snapshot_id: int | None
    current_schema_id: int
    last_updated_at: datetime
    properties: Mapping[str, str] = field(default_factory=dict)
    comment: str | None = None
    sort_order: tuple[str, ...] = ()

    @property
    def fqn(self) -> str:
        """`namespace.name`."""
        return f"{self.namespace}.{self.name}"

    def is_managed(self) -> bool:
        """Whether Forebay writes its files."""
        return self.kind is TableKind.TABLE

    def is_external(self) -> bool:
        """Whether its files belong to somebody else."""
        return self.kind is TableKind.EXTERNAL_TABLE

    def __str__(self) -> str:
        return self.fqn


@dataclass(frozen=True)
class TableChange:
    """What one commit did to a table.

    `change` is `created`, `changed` or `deleted`; `operation` what the table's newest snapshot did (`append`, `overwrite`,
    `delete`, `replace`). `records` counts the rows afterwards; rows that were rewritten are in both `added_records` and
    `deleted_records`.
    """

    hash: str
    authored_date: datetime
    author: str
    message: str
    change: str
    operation: str | None = None
    snapshot_id: int | None = None
    records: int | None = None
    added_records: int | None = None
    deleted_records: int | None = None
    metadata_location: str | None = None

    @property
    def ref(self) -> DetachedRef:
        """The commit as a ref."""
        return DetachedRef("", self.hash)


class JobState(str, Enum):
    """How a job stands."""

    NOT_STARTED = "NOT_STARTED"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    ABORT = "ABORT"
    FAIL = "FAIL"
    OTHER = "OTHER"

    def __str__(self) -> str:
        return self.value


class JobKind(str, Enum):
    """What a job does."""

    RUN = "run"
    QUERY = "query"
    TABLE_CREATE = "table-create"
    TABLE_PLAN_CREATE = "table-plan-create"
    TABLE_PLAN_CREATE_APPLY = "table-plan-apply"
    TABLE_IMPORT = "table-import"
    EXTERNAL_TABLE_CREATE = "external-table-create"
    UNSPECIFIED = "unspecified"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Job:
    """A tracked piece of work. `result` is what `forebay run -o json` would have printed, once a run has ended."""

    id: str
    kind: JobKind
    user: str
    status: JobState
    human_readable_status: str
    created_at: datetime
    finished_at: datetime | None = None
    ref: str | None = None
    error_message: str | None = None
    result: Mapping[str, Any] | None = None

    @property
    def started_at(self) -> datetime:
        """When it began: jobs start when they are created."""
        return self.created_at

    @property
    def status_type(self) -> JobState:
        """The same as `status`."""
        return self.status


@dataclass(frozen=True)
class JobLogEvent:
    """A line that a function printed (`stdout`, `stderr`), or that the platform says of it (`system`)."""

    stream: str
    message: str
    node: str = ""
    timestamp: datetime | None = None

    @property
    def level(self) -> str:
        """`ERROR` for what came on stderr, else `INFO`."""
        return "ERROR" if self.stream == "stderr" else "INFO"


@dataclass(frozen=True)
class ColumnSide:
    """A column on one side of a diff. `type` is its Iceberg type; nulls and bounds are those that manifests tell."""

    name: str
    type: str
    required: bool
    doc: str | None = None
    nulls: int | None = None
    lower: str | None = None
    upper: str | None = None


@dataclass(frozen=True)
class ColumnDiff:
    """A column that differs: `change` is `added`, `removed` or `changed`."""

    name: str
    change: str
    before: ColumnSide | None
    after: ColumnSide | None


@dataclass(frozen=True)
class TableSide:
    """A table on one side of a diff: rows, live data files, their bytes."""

    records: int | None
    files: int
    size: int | None
    partitions: tuple[str, ...]
    snapshot_id: int | None
    metadata_location: str
    comment: str | None = None


@dataclass(frozen=True)
class TableDiff:
    """A table that differs: `change` is `added`, `removed` or `changed`."""

    table: str
    change: str
    before: TableSide | None
    after: TableSide | None
    columns: tuple[ColumnDiff, ...] = ()


@dataclass(frozen=True)
class Diff:
    """What leads from one ref to another. Tables are full names; `tables` says what is different about each."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    added_namespaces: tuple[str, ...] = ()
    removed_namespaces: tuple[str, ...] = ()
    tables: tuple[TableDiff, ...] = ()
