"""Forebay: pipelines of Python and SQL functions from Iceberg tables to Iceberg tables.

A project imports the decorators and inputs; they do nothing at run time, because a project is read, not executed::

    import forebay

    @forebay.model(materialization_strategy="REPLACE")
    @forebay.python("3.11", pip={"pandas": "2.2"})
    def late(flights=forebay.Model("flights", columns=["carrier", "dep_delay"], filter="dep_delay > 15")):
        return flights.to_pandas().groupby("carrier", as_index=False).size()

A script or notebook uses the client::

    client = forebay.Client()
    client.run("my_project", ref="main")
    client.query("SELECT * FROM late")

Importing this package imports nothing else: everything but the decorators is loaded when first asked for, because
every Python function of a run pays for this import.
"""

from __future__ import annotations

from ._decorators import expectation, extras, model, python, resources
from ._inputs import Model, Parameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import exceptions, schema, standard_expectations, state
    from .client import Client
    from .exceptions import ForebayError
    from .schema import (
        Actor,
        Branch,
        Commit,
        DetachedRef,
        Job,
        JobKind,
        JobLogEvent,
        JobState,
        Namespace,
        PartitionField,
        Ref,
        RefType,
        Table,
        TableField,
        TableKind,
        Tag,
    )

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "Branch",
    "Client",
    "Commit",
    "DetachedRef",
    "ForebayError",
    "Job",
    "JobKind",
    "JobLogEvent",
    "JobState",
    "Model",
    "Namespace",
    "Parameter",
    "PartitionField",
    "Ref",
    "RefType",
    "Table",
    "TableField",
    "TableKind",
    "Tag",
    "exceptions",
    "expectation",
    "extras",
    "model",
    "python",
    "resources",
    "schema",
    "standard_expectations",
    "state",
]

_SUBMODULES = ("exceptions", "schema", "standard_expectations", "state")


def __getattr__(name: str) -> object:
    """Loads the client, the types and the submodules when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module 'forebay' has no attribute {name!r}")
    from importlib import import_module

    if name in _SUBMODULES:
        return import_module(f"forebay.{name}")
    home = {"Client": "client", "ForebayError": "exceptions"}.get(name, "schema")
    value = getattr(import_module(f"forebay.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
