"""`forebay.Client`: everything the command line does, from Python.

The methods live in four groups, one module each: refs and commits, namespaces and tables, queries, runs and jobs.
"""

from __future__ import annotations

import os

from ._client_jobs import JobMethods
from ._client_queries import QueryMethods
from ._client_refs import RefMethods
from ._client_tables import TableMethods
from ._connection import Connection
from .schema import Actor
from .state import InfoState

__all__ = ["Client"]


class Client(RefMethods, TableMethods, QueryMethods, JobMethods):
    """A client of the lake that the settings name (`FOREBAY_HOME`, `FOREBAY_LAKE`, profiles).

    It starts Forebay's background process when it is first used, and may be shared by threads and forked processes.
    Arguments are names or objects: a `Branch` given as a branch is its name, any ref object given as a ref is pinned
    to its commit (`name@hash`). Where a ref or branch may be left out, the active branch is used.

    Args:
        profile: A profile of the configuration file. Default: `FOREBAY_PROFILE`, else the default profile.
        client_timeout: Seconds each request may take before it is cancelled; `None` or negative: no limit. Every
            method that starts a job takes its own.

    Example:
        >>> import forebay
        >>> client = forebay.Client()  # doctest: +SKIP
        >>> client.query("SELECT count(*) AS n FROM flights").to_pylist()  # doctest: +SKIP
        [{'n': 336776}]
    """

    def __init__(self, profile: str | None = None, *, client_timeout: float | None = None) -> None:
        self._connection = Connection(profile or os.environ.get("FOREBAY_PROFILE") or None, client_timeout)

    def info(self, *, client_timeout: float | None = None) -> InfoState:
        """Where this client is connected, and who it commits as.

        Raises:
            ServiceUnavailableError: if the background process cannot be started.
        """
        from . import __version__

        daemon = self._connection.call("ping", {}, client_timeout=client_timeout).result
        session = self._connection.session
        return InfoState(
            client_version=__version__,
            daemon_version=daemon["version"],
            lake=session.lake,
            active_branch=session.active_branch,
            user=Actor(session.author["name"], session.author.get("email", "")),
            home=daemon["home"],
        )

    def __repr__(self) -> str:
        return f"forebay.Client(profile={self._connection.profile!r})"
