"""Inputs of a function: `Model` names a table, `Parameter` a value of the project file.

Both stand as default (`data=forebay.Model("flights")`) or inside `Annotated[pa.Table, forebay.Model("flights")]`.
A run puts the table or value in their place; outside a run they are plain objects that say what they name.
"""

from __future__ import annotations

from ._checked import checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence

    # To a type checker an input is whatever the parameter's annotation says: `data: pa.Table = forebay.Model("t")`.
    _Placeholder = Any
else:
    _Placeholder = object


class Model(_Placeholder):  # type: ignore[misc]
    """A table a function reads: a table of the lake or another model of the project.

    Args:
        name: `table` or `namespace.table`; without namespace the run's namespace.
        columns: Columns to read, pushed down to storage. Default, and `["*"]`: all.
        filter: SQL boolean expression over the table's columns; may hold `$parameter` and bare dates
            (`day BETWEEN 2013-01-01 AND 2013-02-01`). Pushed down to storage for tables of the lake; works on
            models as well.
        ref: Reads the table at another ref (`"v1"`, `"main@1a2b3c4d"`) than the run's.
        dictionary: Columns of text to get as dictionaries: `dictionary` arrays in pyarrow, `category` in pandas, `Categorical`
            in polars, `VARCHAR` over the dictionary in duckdb. A dictionary holds each value once and four bytes per row; its values are distinct and not null,
            in no particular order, and may hold some that no row has.

    Raises:
        TypeError: for an unknown argument, with a suggestion.

    Example:
        >>> import forebay
        >>> forebay.Model("flights", columns=["carrier"], filter="month = 1")
        forebay.Model('flights', columns=['carrier'], filter='month = 1')
    """

    __slots__ = ("name", "columns", "filter", "ref", "dictionary")

    @checked
    def __init__(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        filter: str | None = None,
        ref: str | None = None,
        dictionary: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"forebay.Model() takes the table's name as text, not {type(name).__name__}")
        self.name = name
        self.columns = columns
        self.filter = filter
        self.ref = ref
        self.dictionary = dictionary

    def __repr__(self) -> str:
        options = ((option, getattr(self, option)) for option in ("columns", "filter", "ref", "dictionary"))
        shown = "".join(f", {option}={value!r}" for option, value in options if value is not None)
        return f"forebay.Model({self.name!r}{shown})"


class Parameter(_Placeholder):  # type: ignore[misc]
    """A value a function gets, declared under `[parameters]` of the project file and set for each run.

    Args:
        name: The parameter's name.

    Raises:
        TypeError: for an unknown argument, with a suggestion.

    Example:
        >>> import forebay
        >>> forebay.Parameter("min_delay")
        forebay.Parameter('min_delay')
    """

    __slots__ = ("name",)

    @checked
    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"forebay.Parameter() takes the parameter's name as text, not {type(name).__name__}")
        self.name = name

    def __repr__(self) -> str:
        return f"forebay.Parameter({self.name!r})"
