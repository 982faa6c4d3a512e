"""JSON of the daemon into the SDK's types, and the SDK's arguments into JSON.

Arguments are names or objects. A `Branch` where a branch is meant is its name; any ref object where a ref is meant is
`name@hash`: pinned to the commit it was read at.
"""

from __future__ import annotations

import os
import re
from datetime import datetime, timezone
from typing import Any, Iterable, Mapping, Union

from . import schema
from .exceptions import NamespaceUnresolvedError, NotABranchRefError, NotATagRefError
from .state import BytesState, CopiedState, NodeState

RefArg = Union[str, schema.Ref]
BranchArg = Union[str, schema.Branch]
TagArg = Union[str, schema.Tag]
NamespaceArg = Union[str, schema.Namespace]
TableArg = Union[str, schema.Table]
JobArg = Union[str, schema.Job]
ParameterValue = Union[str, int, float, bool, None]

_JOB_STATES = {
    "RUNNING": schema.JobState.RUNNING,
    "SUCCESS": schema.JobState.COMPLETE,
    "FAILED": schema.JobState.FAIL,
    "CANCELLED": schema.JobState.ABORT,
}


def ref_text(ref: RefArg) -> str:
    """A ref as the daemon reads it: a name as it is, an object as `name@hash`."""
    if isinstance(ref, (str, schema.Ref)):
        return str(ref)
    raise TypeError(f"a ref is its name or a ref object, not {type(ref).__name__}")


def branch_name(branch: BranchArg) -> str:
    """A branch's name. Raises `NotABranchRefError` for another kind of ref."""
    if isinstance(branch, schema.Branch):
        return branch.name
    if isinstance(branch, schema.Ref):
        raise NotABranchRefError(f"`{branch}` is not a branch")
    return _text("a branch", branch)


def tag_name(tag: TagArg) -> str:
    """A tag's name. Raises `NotATagRefError` for another kind of ref."""
    if isinstance(tag, schema.Tag):
        return tag.name
    if isinstance(tag, schema.Ref):
        raise NotATagRefError(f"`{tag}` is not a tag")
    return _text("a tag", tag)


def namespace_name(namespace: NamespaceArg | None) -> str | None:
    """A namespace's name, if there is one."""
    if namespace is None or isinstance(namespace, schema.Namespace):
        return namespace.name if namespace else None
    return _text("a namespace", namespace)


def table_name(table: TableArg, namespace: NamespaceArg | None) -> tuple[str, str | None]:
    """A table's name and namespace (`None`: the default one).

    Raises:
        NamespaceUnresolvedError: if the table names one namespace and `namespace` another.
        ValueError: for a name of more than two parts.
    """
    wanted = namespace_name(namespace)
    if isinstance(table, schema.Table):
        own, name = table.namespace, table.name
    else:
        own, dot, name = _text("a table", table).rpartition(".")
        if not name or "." in own or (dot and not own):
            raise ValueError(f"{table!r} is not the name of a table: write 'table' or 'namespace.table'")
    if own and wanted and own != wanted:
        raise NamespaceUnresolvedError(f"table `{own}.{name}` is not in namespace `{wanted}`: leave one of them out")
    return name, own or wanted


def job_id(job: JobArg) -> str:
    """A job's id."""
    return job.id if isinstance(job, schema.Job) else _text("a job", job)


def search_uri(uri: Union[str, "os.PathLike[str]"]) -> str:
    """Where files are: a URI as it is, a path made absolute (the daemon works in another folder)."""
    text = os.fspath(uri)
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))


def parameters(values: Mapping[str, ParameterValue] | None) -> dict[str, str]:
    """Values as text, which the daemon reads by the declared type. `None` leaves the default."""
    return {name: _parameter(name, value) for name, value in (values or {}).items() if value is not None}


def instant(text: str | datetime | None) -> datetime | None:
    """RFC 3339 text as a `datetime`; without a zone it is UTC."""
    if text is None:
        return None
    if isinstance(text, str):
        # Python 3.9 reads neither `Z` nor nanoseconds.
        plain = re.sub(r"(\.\d{1,6})\d*", lambda found: found.group(1).ljust(7, "0"), text)
        text = datetime.fromisoformat(plain.replace("Z", "+00:00"))
    return text if text.tzinfo else text.replace(tzinfo=timezone.utc)


def to_branch(data: Mapping[str, Any]) -> schema.Branch:
    failed_job, protected = data.get("failed_job"), bool(data.get("protected"))
    return schema.Branch(data["name"], data["hash"], failed_job=failed_job, protected=protected)


def to_tag(data: Mapping[str, Any]) -> schema.Tag:
    return schema.Tag(data["name"], data["hash"])


def to_commit(data: Mapping[str, Any]) -> schema.Commit:
    author = data["author"]
    return schema.Commit(
        ref=schema.DetachedRef("", data["hash"]),
        message=data["message"],
        author=schema.Actor(author["name"], author.get("email", "")),
        authored_date=_instant(data["authored_date"]),
        parent_hashes=tuple(data["parent_hashes"]),
        properties=dict(data.get("properties") or {}),
        failed_job=data.get("failed_job"),
    )


def to_diff(data: Mapping[str, Any]) -> schema.Diff:
    names = ("added", "removed", "changed", "added_namespaces", "removed_namespaces")
    return schema.Diff(**{name: tuple(data[name]) for name in names}, tables=tuple(map(_table_diff, data["tables"])))


def _table_diff(data: Mapping[str, Any]) -> schema.TableDiff:
    def table_side(side: Mapping[str, Any] | None) -> schema.TableSide | None:
        return schema.TableSide(**{**side, "partitions": tuple(side["partitions"])}) if side else None

    def column_side(side: Mapping[str, Any] | None) -> schema.ColumnSide | None:
        return schema.ColumnSide(**side) if side else None

    columns = (
        schema.ColumnDiff(one["name"], one["change"], column_side(one["before"]), column_side(one["after"]))
        for one in data["columns"]
    )
    before, after = table_side(data["before"]), table_side(data["after"])
    return schema.TableDiff(data["table"], data["change"], before, after, tuple(columns))


def to_table(data: Mapping[str, Any]) -> schema.Table:
    return schema.Table(
        id=data["id"],
        name=data["name"],
        namespace=data["namespace"],
        kind=schema.TableKind(data["kind"]),
        fields=tuple(
            schema.TableField(field["id"], field["name"], field["required"], field["type"], field.get("doc"))
            for field in data["fields"]
        ),
        partitions=tuple(schema.PartitionField(part["name"], part["transform"]) for part in data["partitions"]),
        records=data.get("records"),
        size=data.get("size"),
        snapshots=data["snapshots"],
        metadata_location=data["metadata_location"],
        current_snapshot_id=data.get("current_snapshot_id"),
        current_schema_id=data["current_schema_id"],
        last_updated_at=_instant(data["last_updated_at"]),
        properties=dict(data.get("properties") or {}),
        comment=data.get("comment"),
        sort_order=tuple(data.get("sort_order") or ()),
    )


def to_table_change(data: Mapping[str, Any]) -> schema.TableChange:
    return schema.TableChange(**{**data, "authored_date": _instant(data["authored_date"])})


def to_job(data: Mapping[str, Any]) -> schema.Job:
    kinds = [kind for kind in schema.JobKind if kind.value == data["kind"]]
    return schema.Job(
        id=data["id"],
        kind=kinds[0] if kinds else schema.JobKind.UNSPECIFIED,
        user=data["user"],
        status=_JOB_STATES.get(data["status"], schema.JobState.OTHER),
        human_readable_status=data["status"].capitalize(),
        created_at=_instant(data["created_at"]),
        finished_at=instant(data.get("finished_at")),
        ref=data.get("ref"),
        error_message=(data.get("error") or {}).get("message"),
        result=data.get("result"),
    )


def to_node(data: Mapping[str, Any]) -> NodeState:
    known = NodeState.__dataclass_fields__
    fields = {key: value for key, value in data.items() if key in known}
    fields["copies"] = tuple(CopiedState(copied["reason"], copied["bytes"]) for copied in data.get("copies") or ())
    return NodeState(**fields)


def to_bytes(nodes: Iterable[NodeState]) -> BytesState:
    """The bytes of all nodes. Added up here, because records of older versions hold no sums."""
    found = tuple(nodes)
    return BytesState(
        referenced=sum(node.bytes_referenced for node in found),
        reshared=sum(node.bytes_reshared for node in found),
        copied=sum(node.bytes_copied for node in found),
        inline=sum(node.bytes_inline for node in found),
    )


def job_status(state: schema.JobState | str) -> str:
    """A state as the daemon calls it."""
    names = {value: key for key, value in _JOB_STATES.items()}
    try:
        return names[schema.JobState(state)]
    except (KeyError, ValueError):
        raise ValueError(f"{state!r} is not the state of a job: use RUNNING, COMPLETE, FAIL or ABORT") from None


def _instant(text: str) -> datetime:
    found = instant(text)
    assert found is not None, "the daemon sends a date here"
    return found


def _parameter(name: str, value: ParameterValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise TypeError(f"parameter {name!r} is str, int, float or bool, not {type(value).__name__}")


def _text(what: str, value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise TypeError(f"{what} is its name, not {value!r}")
