"""What the groups of client methods share: the connection and the default ref."""

from __future__ import annotations

from typing import Any

from ._connection import Connection
from ._convert import BranchArg, RefArg, branch_name, ref_text


class Methods:
    """Base of a group of methods."""

    _connection: Connection

    def _ask(self, op: str, client_timeout: float | None = None, /, **fields: Any) -> Any:
        return self._connection.call(op, fields, client_timeout=client_timeout).result

    def _at(self, ref: RefArg | None) -> str:
        return self._connection.session.active_branch if ref is None else ref_text(ref)

    def _branch(self, branch: BranchArg | None) -> str:
        return self._connection.session.active_branch if branch is None else branch_name(branch)
