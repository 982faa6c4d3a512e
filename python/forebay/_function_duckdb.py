"""Keeps duckdb connections open until the process ends.

A relation is computed when it is read, which is after the function that made it has returned. Before version 2, duckdb closes
a connection when the last Python reference to it goes, although relations still need it: `return duckdb.connect().sql(…)`
would fail. So every connection that `duckdb.connect` makes is remembered, whenever the module is imported.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import wraps
from typing import Any

_kept: list[Any] = []


def keep_connections() -> None:
    """From now on; duckdb itself is not imported for it."""
    if "duckdb" in sys.modules:
        _keep(sys.modules["duckdb"])
    else:
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]


class _Finder:
    """Stands in the way of the first import of duckdb only."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "duckdb":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                load(module)
                _keep(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _keep(duckdb: Any) -> None:
    connect = getattr(duckdb, "connect", None)
    if connect is None:
        return

    @wraps(connect)
    def kept(*arguments: Any, **settings: Any) -> Any:
        connection = connect(*arguments, **settings)
        _kept.append(connection)
        return connection

    duckdb.connect = kept
