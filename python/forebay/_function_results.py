"""What a function may return, and how it becomes a table.

A table is: `pyarrow.Table`, `RecordBatch` or `RecordBatchReader`; a pandas or polars frame (a lazy one is collected); a duckdb
relation; anything else with the Arrow PyCapsule interface that is a table; a list of dictionaries (rows; a missing key is
null); a dictionary of lists (columns). Anything else is an error that says what came back.

Polars strings stay views: they are passed on without being rewritten, and become plain strings where pyarrow reads them.

Of a pandas frame's index, named levels become the first columns, as `reset_index()` would make them; an index without a name
is left out, with a warning if it holds more than row numbers. What pandas notes about itself in the schema is left out, so a
table is the same whether it comes from a function or from the lake.

No library is imported here that the user's code has not imported, except pyarrow to build tables of lists and pandas frames.
Where there is no pyarrow, polars or `_function_arrays` builds those of lists.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from ._function import Failure, _Raised
from ._native import Error, Stream

ACCEPTED = (
    "return a pyarrow, pandas or polars table, a duckdb relation, any object with `__arrow_c_stream__`, "
    "a list of dictionaries or a dictionary of lists"
)


def table(result: Any) -> tuple[Any, list[str]]:
    """The result as something `Output.write` takes, and warnings.

    Raises:
        Failure: if it is no table.
    """
    if _is(result, "pandas", "DataFrame"):
        return _of_pandas(result)
    if _is(result, "polars", "LazyFrame"):
        result = _of_user(result.collect)
    if _is(result, "polars", "DataFrame"):
        return _of_polars(result), []
    if _is(result, "duckdb", "DuckDBPyRelation"):
        return _of_duckdb(result), []
    if _is(result, "pyarrow", "RecordBatch"):
        result = sys.modules["pyarrow"].Table.from_batches([result])
    if _is(result, "pyarrow", "Table") or _is(result, "pyarrow", "RecordBatchReader"):
        return _exported(result), []
    if isinstance(result, list) and all(isinstance(row, dict) for row in result):
        return _of_columns(_columns_of_rows(result)), []
    if isinstance(result, dict):
        return _of_columns(result), []
    if hasattr(result, "__arrow_c_stream__") or hasattr(result, "__arrow_c_array__"):
        return result, []
    raise _unsupported(result)


def write(output: Any, table: Any, preview: str | None) -> Any:
    """Writes the table; an object that exports Arrow data but no table is an unsupported result."""
    try:
        return output.write(table, preview)
    except TypeError as error:
        raise _unsupported(table, str(error)) from error
    except Error as error:
        code, message, causes, hint, _ = error.args
        if code.startswith("RUN"):
            raise Failure(code, message, *causes, hint=hint) from error
        raise
    except Exception as error:
        raise _Raised(error) from None  # From the user's own `__arrow_c_stream__`.


def truth(result: Any) -> bool:
    """An expectation's result.

    Raises:
        Failure: unless it is `True` or `False`, of Python or numpy.
    """
    if isinstance(result, bool) or type(result).__name__ in ("bool_", "bool") and type(result).__module__ == "numpy":
        return bool(result)
    hint = "return `True` or `False`, for example `bool(…)`"
    if hasattr(result, "as_py"):
        hint = "call `.as_py()` on it"
    elif hasattr(result, "all") and hasattr(result, "__len__"):
        hint = "call `.all()` or `.any()` on it, and return one `True` or `False`"
    raise Failure("RUN0111", f"the expectation returned {_came_back(result)}, not `True` or `False`", hint=hint)


def check_columns(found: list[str], declared: list[str] | None, strict: bool) -> list[str]:
    """Compares with the columns the model declares, in any order; returns warnings, or raises when strict."""
    if declared is None or set(found) == set(declared):
        return []
    missing = [name for name in declared if name not in found]
    surplus = [name for name in found if name not in declared]
    parts = [f"{what} {_names(names)}" for what, names in (("lacks", missing), ("also has", surplus)) if names]
    text = f"the result {' and '.join(parts)}; declared are {_names(declared)}"
    if strict:
        raise Failure("RUN0110", text, hint="correct `columns=` of `@forebay.model`, or the result")
    return [text]


def _names(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def _is(value: Any, package: str, name: str) -> bool:
    """Whether `value` is an instance of `package.name`, without importing the package."""
    module = sys.modules.get(package)
    kind = getattr(module, name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _of_user(work: Any) -> Any:
    """Runs what the user's code has put off; its errors are theirs."""
    try:
        return work()
    except BaseException as error:
        raise _Raised(error) from None


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise Failure(
            "RUN0103",
            "could not make a table of the result",
            f"{type(error).__name__}: {error}",
            hint="add `pyarrow` to the model's `@forebay.python(pip=…)`",
        ) from error
    return pyarrow


def _exported(table: Any) -> Any:
    """A pyarrow table or reader; before version 14 it is exported by pointer."""
    if hasattr(table, "__arrow_c_stream__"):
        return table
    reader = table.to_reader() if hasattr(table, "to_reader") else table
    stream = Stream()
    reader._export_to_c(stream.address)
    return stream


def _of_polars(frame: Any) -> Any:
    _unique([str(name) for name in frame.columns])
    if hasattr(frame, "__arrow_c_stream__"):
        return frame
    return _exported(frame.to_arrow())


def _of_duckdb(relation: Any) -> Any:
    _unique([str(name) for name in _of_user(lambda: relation.columns)])
    if not _has("pyarrow") and hasattr(relation, "__arrow_c_stream__"):
        return relation
    for method in ("to_arrow_table", "fetch_arrow_table", "arrow"):
        if hasattr(relation, method):
            return _exported(_of_user(getattr(relation, method)))
    return relation


def _of_pandas(frame: Any) -> tuple[Any, list[str]]:
    pyarrow = _pyarrow()
    if frame.columns.nlevels > 1:
        raise Failure(
            "RUN0106",
            "the result is a `pandas.DataFrame` whose columns have several levels",
            hint='join them: `df.columns = ["_".join(map(str, c)) for c in df.columns]`',
        )
    index, warnings = _index(frame)
    _unique([*index, *map(str, frame.columns)])
    try:
        table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _unconvertible(error, {str(name): frame.iloc[:, i] for i, name in enumerate(frame.columns)}) from error
    for position, (name, values) in enumerate(index.items()):
        table = table.add_column(position, name, _array(name, values))
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"}
    return _exported(table.replace_schema_metadata(metadata or None)), warnings


def _index(frame: Any) -> tuple[dict[str, Any], list[str]]:
    """The levels of the index that are kept, by name."""
    index = frame.index
    named = [name for name in index.names if name is not None]
    if named:
        names = [str(name) if name is not None else f"level_{i}" for i, name in enumerate(index.names)]
        _unique(names)
        return {name: index.get_level_values(i) for i, name in enumerate(names)}, []
    if index.nlevels == 1 and (str(index.dtype).lower().startswith(("int", "uint")) or len(index) == 0):
        return {}, []
    return {}, ["the result's index was left out because it has no name: call `reset_index()` to keep it as columns"]


def _columns_of_rows(rows: list[dict[Any, Any]]) -> dict[Any, Any]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in keys}


def _of_columns(columns: dict[Any, Any]) -> Any:
    for name, values in columns.items():
        if not isinstance(name, str):
            raise Failure("RUN0106", f"the result has a column named by a `{type(name).__name__}`: `{name!r}`", hint=ACCEPTED)
        if isinstance(values, (str, bytes, dict, set, frozenset)) or not hasattr(values, "__len__"):
            raise Failure("RUN0106", f"the result is a dictionary whose `{name}` is {_came_back(values)}, not a list", hint=ACCEPTED)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"`{name}` has {length}" for name, length in list(lengths.items())[:5])
        raise Failure("RUN0106", "the result is a dictionary of lists of different lengths", told, hint=ACCEPTED)
    if not _has("pyarrow"):
        return _of_columns_without_pyarrow(columns, max(lengths.values(), default=0))
    pyarrow = _pyarrow()
    arrays = [_array(name, values) for name, values in columns.items()]
    return _exported(pyarrow.table(arrays, names=list(columns)))


def _of_columns_without_pyarrow(columns: dict[str, Any], length: int) -> Any:
    if _has("polars"):
        import polars

        return _of_polars(_of_user(lambda: polars.DataFrame(columns, strict=False)))
    from . import _function_arrays

    return _function_arrays.stream(columns, length)


def _has(package: str) -> bool:
    import importlib.util

    return package in sys.modules or importlib.util.find_spec(package) is not None


def _array(name: str, values: Any) -> Any:
    pyarrow = _pyarrow()
    if isinstance(values, (pyarrow.Array, pyarrow.ChunkedArray)):
        return values
    if _is(values, "polars", "Series"):
        return values.to_arrow()
    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _column(name, error) from error


def _unconvertible(error: Exception, columns: dict[str, Any]) -> Failure:
    """The failure for a frame, with the name of the column at fault."""
    told = re.search(r"Conversion failed for column (.*?) with type", " ".join(map(str, error.args)), re.DOTALL)
    if told and told[1] in columns:
        return _column(told[1], error)
    for name, values in columns.items():
        try:
            _array(name, values)
        except Failure as failure:
            return failure
    return Failure("RUN0109", "could not make an Arrow table of the result", str(error))


def _column(name: str, error: Exception) -> Failure:
    return Failure(
        "RUN0109",
        f"could not make an Arrow column of `{name}`",
        str(error.args[0] if error.args else error),
        hint="its values must have one type: convert them, for example with `str`",
    )


def _unique(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise Failure(
                "RUN0108", f"the result has several columns named `{name}`", hint="give each column a name of its own"
            )
        seen.add(name)


def _came_back(value: Any) -> str:
    """What the value is, for a person."""
    if value is None:
        return "`None`"
    if isinstance(value, list):
        kinds = dict.fromkeys(type(item).__name__ for item in value if not isinstance(item, dict))
        return f"a list of `{'`, `'.join(list(kinds)[:3])}`" if kinds else "a list"
    kind = type(value)
    package = (kind.__module__ or "").split(".")[0]
    name = kind.__qualname__ if package in ("builtins", "__main__", "") else f"{package}.{kind.__qualname__}"
    return f"a `{name}`"


def _unsupported(value: Any, why: str | None = None) -> Failure:
    hint = ACCEPTED
    if value is None:
        hint = "the function must `return` its table"
    elif type(value).__name__ == "Series":
        hint = "make it a table: `.to_frame()`"
    elif type(value).__name__ == "DuckDBPyConnection":
        hint = "return a relation: `connection.sql(…)` instead of `connection.execute(…)`"
    elif type(value).__name__ == "coroutine":
        value.close()
        hint = "a model is an ordinary function: `def`, not `async def`"
    elif type(value).__name__ == "generator":
        hint = "a model returns one table: collect what it yields, for example in a list of dictionaries"
    causes = [why] if why else []
    return Failure("RUN0106", f"the function returned {_came_back(value)}, which is not a table", *causes, hint=hint)
