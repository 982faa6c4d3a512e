"""Errors as the daemon sends them become exceptions, by their stable code."""

from __future__ import annotations

from typing import Any, Mapping

from . import exceptions as exc

# A code that is not here gets the class of its area. Codes are only added, so an older client stays right.
_BY_CODE: dict[str, type[exc.ForebayError]] = {
    "CAT0001": exc.RefNotFoundError,
    "CAT0002": exc.InvalidRefError,
    "CAT0003": exc.UpdateConflictError,
    "CAT0004": exc.BranchHeadChangedError,
    "CAT0005": exc.MergeConflictError,
    "CAT0006": exc.MergeForbiddenError,
    "CAT0007": exc.ForbiddenError,
    "CAT0008": exc.NotAWriteBranchRefError,
    "CAT0014": exc.NamespaceIsNotEmptyError,
    "CAT0015": exc.ResourceNotFoundError,
    "CAT0016": exc.BranchHeadChangedError,
    "CAT0017": exc.BadRequestError,
    "CAT0018": exc.RefNotFoundError,
    "CAT0019": exc.ForbiddenError,
    "CAT0020": exc.RevertConflictError,
    "CAT0021": exc.PartialRevertError,
    "CAT0022": exc.NothingToRevertError,
    "CAT0023": exc.RevertDestinationTableExistsError,
    "CAT0024": exc.ResourceNotFoundError,
    "CTL0002": exc.BadRequestError,
    "CTL0003": exc.BadRequestError,
    "CTL0004": exc.ServiceUnavailableError,
    "CTL0005": exc.ServiceUnavailableError,
    "CTL0006": exc.ServiceUnavailableError,
    "CTL0007": exc.ServiceUnavailableError,
    "CTL0008": exc.ServiceUnavailableError,
    "CTL0009": exc.BadRequestError,
    "CTL0011": exc.InvalidPlanError,
    "CTL0012": exc.InvalidPlanError,
    "CTL0013": exc.InvalidPlanError,
    "CTL0014": exc.NotAWriteBranchRefError,
    "CTL0015": exc.BranchNotFoundError,
    "CTL0016": exc.JobNotFoundError,
    "CTL0017": exc.ForebayJobError,
    "CTL0018": exc.JobCancelledError,
    "CTL0019": exc.TableNotFoundError,
    "CTL0020": exc.TableExistsError,
    "CTL0051": exc.ForbiddenError,
    "CTL0052": exc.InvalidPlanError,
    "CTL0053": exc.InvalidDataError,
    "CTL0021": exc.BadRequestError,
    "CTL0022": exc.BadRequestError,
    "CTL0023": exc.BadRequestError,
    "CTL0024": exc.ServiceUnavailableError,
    "CTL0026": exc.NotATagRefError,
    "CTL0027": exc.SameRefError,
}

# The catalog has one code for "exists" and one for "not found"; the operation says what it was about.
_BY_CODE_AND_NOUN: dict[tuple[str, str], type[exc.ForebayError]] = {
    ("CAT0001", "branch"): exc.BranchNotFoundError,
    ("CAT0001", "tag"): exc.TagNotFoundError,
    ("CAT0003", "branch"): exc.BranchExistsError,
    ("CAT0003", "tag"): exc.TagExistsError,
    ("CAT0003", "namespace"): exc.NamespaceExistsError,
    ("CAT0015", "namespace"): exc.NamespaceNotFoundError,
    ("CAT0015", "table"): exc.TableNotFoundError,
    ("CAT0022", "table"): exc.RevertIdenticalTableError,
}

# The ref that such an operation does not find may be any ref: the one it starts from.
_FROM_ANY_REF = ("branch.create", "branch.merge", "branch.diff", "tag.create")

_BY_AREA: dict[str, type[exc.ForebayError]] = {
    "PLN": exc.InvalidPlanError,
    "CAT": exc.RequestError,
    "LAK": exc.InvalidDataError,
    "ENV": exc.EnvironmentBuildError,
    "IPC": exc.InternalError,
    "RUN": exc.ForebayJobError,
    "CTL": exc.RequestError,
    "CLI": exc.BadRequestError,
    "RST": exc.RequestError,
}


def from_wire(error: Mapping[str, Any], op: str = "") -> exc.ForebayError:
    """The exception for `{"code", "message", "causes", …}`; `op` is the request that failed."""
    code = str(error.get("code") or "")
    noun = op.split(".")[0]
    kind = None if code == "CAT0001" and op in _FROM_ANY_REF else _BY_CODE_AND_NOUN.get((code, noun))
    kind = kind or _BY_CODE.get(code) or _of_area(code, str(error.get("fault")), op)
    details = {key: value for key, value in error.items() if key not in ("message", "others")}
    others = [from_wire(other, op) for other in error.get("others") or ()]
    return kind(str(error.get("message") or "unknown error"), others=others, **details)


def _of_area(code: str, fault: str, op: str) -> type[exc.ForebayError]:
    if fault == "platform":
        return exc.InternalError
    if op == "query" and code[:3] not in ("CAT", "CTL"):
        return exc.ForebayQueryError
    return _BY_AREA.get(code[:3], exc.RequestError)
