"""The arguments of a function: tables over shared memory in the form the function asks for, and plain values.

=============== ============================================ ==============================================================
form            what the function gets                       what is copied
=============== ============================================ ==============================================================
`pyarrow`       `pyarrow.Table`                              string views (pyarrow computes little on them)
`reader`        `pyarrow.RecordBatchReader`                  the same
`pandas`        `pandas.DataFrame`                           pandas 3: what pandas cannot view; before: everything
`polars`        `polars.DataFrame`                           nothing
`polars-lazy`   `polars.LazyFrame`                           nothing
`duckdb`        `duckdb.DuckDBPyRelation`                    string views
=============== ============================================ ==============================================================

Shared memory is read-only. A pandas frame can be written to all the same: pandas 3 copies a column before the first write to
it, if another frame refers to it, and one does (`_kept`); older versions write in place, so they get copies.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

from ._function import Failure

_kept: list[Any] = []


def arguments(
    wanted: list[dict[str, Any]], inputs: list[dict[str, Any]], messages: list[bytes], segments: Any
) -> tuple[dict[str, Any], int]:
    """Keyword arguments by name, and how many bytes were made anew for them. The n-th input is described by the n-th message."""
    described = {given["name"]: (message, given["columns"], given.get("dictionary", [])) for given, message in zip(inputs, messages)}
    values: dict[str, Any] = {}
    converted = 0

    def read(name: str, views: bool) -> Any:
        nonlocal converted
        message, columns, dictionary = described[name]
        table = segments.table(message, columns, views, dictionary)
        converted += table.converted_bytes
        return table

    for argument in wanted:
        name = argument["name"]
        if argument["is"] == "value":
            values[name] = argument["value"]
        else:
            values[name] = _hand_over(name, argument["form"], functools.partial(read, name))
    return values, converted


def _hand_over(name: str, form: str, read: Callable[[bool], Any]) -> Any:
    forms = {
        "pyarrow": _pyarrow,
        "reader": _reader,
        "pandas": _pandas,
        "polars": _polars,
        "polars-lazy": lambda read: _polars(read).lazy(),
        "duckdb": _duckdb,
    }
    try:
        return forms[form](read)
    except ImportError as error:
        package = (error.name or form).split(".")[0]
        raise Failure(
            "RUN0112",
            f"could not hand over `{name}` as `{form}`",
            f"{type(error).__name__}: {error}",
            hint=f"add `{package}` to the model's `@forebay.python(pip=…)`",
        ) from error


def _pyarrow(read: Callable[[bool], Any]) -> Any:
    return _reader(read).read_all()


def _reader(read: Callable[[bool], Any]) -> Any:
    import pyarrow

    table = read(False)
    if hasattr(pyarrow.RecordBatchReader, "from_stream"):
        return pyarrow.RecordBatchReader.from_stream(table)
    stream = table.stream()  # Released with its owner, so it must live until it is imported.
    return pyarrow.RecordBatchReader._import_from_c(stream.address)


def _pandas(read: Callable[[bool], Any]) -> Any:
    import pandas

    table = _pyarrow(read)
    if int(pandas.__version__.split(".")[0]) < 3:
        return table.to_pandas()
    frame = table.to_pandas(split_blocks=True)
    _kept.append(frame.copy(deep=False))
    return frame


def _polars(read: Callable[[bool], Any]) -> Any:
    import polars

    try:
        return polars.DataFrame(read(True))
    except (TypeError, ValueError):
        return polars.from_arrow(_pyarrow(read))  # Polars before the Arrow PyCapsule interface.


def _duckdb(read: Callable[[bool], Any]) -> Any:
    import duckdb

    try:
        import pyarrow  # noqa: F401
    except ImportError:
        table = read(False)
        _kept.append(table)
        return duckdb.from_arrow(table)
    return duckdb.from_arrow(_pyarrow(read))
