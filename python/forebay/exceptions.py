"""Every exception of the client: subclasses of `ForebayError`, and of the builtin a caller would expect.

```text
ForebayError
├─ RequestError
│  ├─ BadRequestError (ValueError)    InvalidDataError, InvalidRefError ─ NotABranchRefError, NotATagRefError; SameRefError
│  ├─ ForbiddenError (PermissionError)  MergeForbiddenError
│  ├─ NotFoundError (LookupError)     ResourceNotFoundError ─ Table-, Namespace-, Job-, RefNotFoundError ─ Branch-, TagNotFoundError
│  ├─ ConflictError                   NamespaceUnresolvedError; UpdateConflictError ─ …ExistsError, MergeConflictError, …
│  ├─ InternalError (RuntimeError)
│  └─ ServiceUnavailableError (ConnectionError)
├─ ForebayJobError (RuntimeError)     ForebayQueryError, JobCancelledError, JobTimeoutError (TimeoutError)
├─ InvalidPlanError (ValueError)
├─ EnvironmentBuildError (RuntimeError)
└─ NoResultsFoundError (LookupError)
```

`error.code` is the stable code of the platform's error (`CAT0003`); `docs/errors/` has a page for each.
"""

from __future__ import annotations

from typing import Any, Mapping

__all__ = [
    "BadRequestError",
    "BranchExistsError",
    "BranchHeadChangedError",
    "BranchNotFoundError",
    "ConflictError",
    "EnvironmentBuildError",
    "ForbiddenError",
    "ForebayError",
    "ForebayJobError",
    "ForebayQueryError",
    "InternalError",
    "InvalidDataError",
    "InvalidPlanError",
    "InvalidRefError",
    "JobCancelledError",
    "JobNotFoundError",
    "JobTimeoutError",
    "MergeConflictError",
    "MergeForbiddenError",
    "NamespaceExistsError",
    "NamespaceIsNotEmptyError",
    "NamespaceNotFoundError",
    "NamespaceUnresolvedError",
    "NoResultsFoundError",
    "NotABranchRefError",
    "NotATagRefError",
    "NotAWriteBranchRefError",
    "NotFoundError",
    "NothingToRevertError",
    "PartialRevertError",
    "RefNotFoundError",
    "RequestError",
    "ResourceNotFoundError",
    "RevertConflictError",
    "RevertDestinationTableExistsError",
    "RevertIdenticalTableError",
    "SameRefError",
    "ServiceUnavailableError",
    "TableExistsError",
    "TableNotFoundError",
    "TagExistsError",
    "TagNotFoundError",
    "UpdateConflictError",
]


class ForebayError(Exception):
    """Anything that went wrong, told as the command line tells it.

    Attributes:
        code: Stable code, `""` when the client itself found the error.
        message: What could not be done.
        causes: Why, outermost first.
        hint: The next action, if one is known.
        at: Place in the project: `{"file", "line", "column", "excerpt"}`.
        fault: `request`, `usage` or `platform`.
        others: Further errors found at the same time; a plan reports all.
        traceback: The user's traceback, if their code raised.
        node: The function that failed.
    """

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code: str = details.get("code") or ""
        self.causes: list[str] = list(details.get("causes") or ())
        self.hint: str | None = details.get("hint")
        self.at: Mapping[str, Any] | None = details.get("at")
        self.fault: str = details.get("fault") or "request"
        self.others: list[ForebayError] = list(details.get("others") or ())
        self.traceback: str | None = details.get("traceback")
        self.node: str | None = details.get("node")

    def __str__(self) -> str:
        lines = [f"[{self.code}] {self.message}" if self.code else self.message]
        if self.at:
            lines.append("  --> {file}:{line}:{column}".format(**self.at))
            if self.at.get("excerpt"):
                lines.append(f"   | {self.at['excerpt']}")
        lines.extend("  Caused by: " + cause.replace("\n", "\n    ") for cause in self.causes)
        if self.traceback:
            lines.extend(["", self.traceback.rstrip()])
        if self.hint:
            lines.extend(["", f"hint: {self.hint}"])
        for other in self.others:
            lines.extend(["", str(other)])
        return "\n".join(lines)

    def __reduce__(self) -> Any:
        details = {key: value for key, value in self.__dict__.items() if key != "message"}
        return (_revive, (type(self), self.message, details))


def _revive(kind: type[ForebayError], message: str, details: dict[str, Any]) -> ForebayError:
    return kind(message, **details)


class RequestError(ForebayError):
    """A request was refused or could not be served."""


class BadRequestError(RequestError, ValueError):
    """The request itself is wrong."""


class InvalidDataError(BadRequestError):
    """Files or columns do not fit the table."""


class InvalidRefError(BadRequestError):
    """Not the text of a ref: a branch, a tag, `name@hash` or `@hash`."""


class NotABranchRefError(InvalidRefError):
    """Only a branch can do this."""


class NotAWriteBranchRefError(NotABranchRefError):
    """Only a branch can be written to."""


class NotATagRefError(InvalidRefError):
    """Only a tag can do this."""


class SameRefError(InvalidRefError):
    """Both refs are the same."""


class ForbiddenError(RequestError, PermissionError):
    """This is not allowed."""


class MergeForbiddenError(ForbiddenError):
    """The branch holds the remains of a failed run and cannot be merged."""


class NotFoundError(RequestError, LookupError):
    """Something does not exist."""


class ResourceNotFoundError(NotFoundError):
    """A named thing does not exist at this ref."""


class TableNotFoundError(ResourceNotFoundError):
    """No such table at this ref."""


class NamespaceNotFoundError(ResourceNotFoundError):
    """No such namespace at this ref."""


class RefNotFoundError(ResourceNotFoundError):
    """No such branch, tag or commit."""


class BranchNotFoundError(RefNotFoundError):
    """No such branch."""


class TagNotFoundError(RefNotFoundError):
    """No such tag."""


class JobNotFoundError(ResourceNotFoundError):
    """No such job."""


class ConflictError(RequestError):
    """The state of the lake does not allow it."""


class NamespaceUnresolvedError(ConflictError, ValueError):
    """A table's name and the `namespace` argument name different namespaces."""


class UpdateConflictError(ConflictError):
    """Somebody else changed the same thing, or it is there already."""


class BranchExistsError(UpdateConflictError):
    """A branch of that name exists."""


class TagExistsError(UpdateConflictError):
    """A tag of that name exists."""


class TableExistsError(UpdateConflictError):
    """A table of that name exists."""


class NamespaceExistsError(UpdateConflictError):
    """A namespace of that name exists."""


class NamespaceIsNotEmptyError(UpdateConflictError):
    """The namespace still holds tables."""


class BranchHeadChangedError(UpdateConflictError):
    """The branch moved while the request worked on it."""


class MergeConflictError(UpdateConflictError):
    """Both branches changed the same tables; the message names them."""


class RevertConflictError(UpdateConflictError):
    """Tables of what is to be undone were changed since; the message names them."""


class PartialRevertError(ConflictError):
    """A commit that changed several tables would be there by half."""


class NothingToRevertError(UpdateConflictError):
    """Everything is as it would be afterwards."""


class RevertIdenticalTableError(NothingToRevertError):
    """The tables are so already."""


class RevertDestinationTableExistsError(UpdateConflictError):
    """A table would be replaced, and `replace` is not set."""


class InternalError(RequestError, RuntimeError):
    """The platform failed: a disk, a process, or a defect of ours."""


class ServiceUnavailableError(RequestError, ConnectionError):
    """The daemon could not be started or reached, or the connection broke."""


class ForebayJobError(ForebayError, RuntimeError):
    """A job failed."""


class ForebayQueryError(ForebayJobError):
    """A query failed."""


class JobCancelledError(ForebayJobError):
    """A job was cancelled."""


class JobTimeoutError(ForebayJobError, TimeoutError):
    """`client_timeout` passed; the work was cancelled."""


class InvalidPlanError(ForebayError, ValueError):
    """The project has mistakes: `error.at` points at the first, `error.others` are the rest."""


class EnvironmentBuildError(ForebayError, RuntimeError):
    """An interpreter or package could not be had."""


class NoResultsFoundError(ForebayError, LookupError):
    """A query returned no rows where one was needed."""
