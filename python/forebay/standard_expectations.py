"""Checks for expectations, on `pyarrow.Table`s. Each returns `True` or `False`.

Example:
    >>> import forebay
    >>> from forebay import standard_expectations as checks
    >>> @forebay.expectation()
    ... def every_flight_has_a_carrier(flights=forebay.Model("flights")):
    ...     return checks.expect_column_no_nulls(flights, "carrier")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "expect_column_accepted_values",
    "expect_column_all_null",
    "expect_column_all_unique",
    "expect_column_equal_concatenation",
    "expect_column_mean_greater_or_equal_than",
    "expect_column_mean_greater_than",
    "expect_column_mean_smaller_or_equal_than",
    "expect_column_mean_smaller_than",
    "expect_column_no_nulls",
    "expect_column_not_unique",
    "expect_column_some_null",
]


def expect_column_equal_concatenation(
    table: pa.Table, target_column: str, columns: Sequence[str], separator: str = ""
) -> bool:
    """Whether `target_column` is the other columns, as text, joined by `separator`; null where any of them is null.

    Raises:
        ValueError: if `columns` is empty.
        KeyError: if the table lacks a column.
    """
    if not columns:
        raise ValueError("expect_column_equal_concatenation() needs at least one column to concatenate")
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = [_text(table, name) for name in columns]
    joined = pc.binary_join_element_wise(*parts, separator) if len(parts) > 1 else parts[0]
    same = pc.equal(_text(table, target_column), joined)
    both_null = pc.and_(pc.is_null(table.column(target_column)), pc.is_null(joined))
    return bool(pc.all(pc.or_kleene(both_null, pc.fill_null(same, pa.scalar(False))), min_count=0).as_py())


def expect_column_mean_greater_than(table: pa.Table, column_name: str, value: float) -> bool:
    """Whether the mean of the column, nulls left out, is greater than `value`. A column without values has none."""
    mean = _mean(table, column_name)
    return mean is not None and mean > value


def expect_column_mean_greater_or_equal_than(table: pa.Table, column_name: str, value: float) -> bool:
    """Whether the mean of the column, nulls left out, is at least `value`."""
    mean = _mean(table, column_name)
    return mean is not None and mean >= value


def expect_column_mean_smaller_than(table: pa.Table, column_name: str, value: float) -> bool:
    """Whether the mean of the column, nulls left out, is smaller than `value`."""
    mean = _mean(table, column_name)
    return mean is not None and mean < value


def expect_column_mean_smaller_or_equal_than(table: pa.Table, column_name: str, value: float) -> bool:
    """Whether the mean of the column, nulls left out, is at most `value`."""
    mean = _mean(table, column_name)
    return mean is not None and mean <= value


def expect_column_some_null(table: pa.Table, column_name: str) -> bool:
    """Whether at least one value is null."""
    return bool(table.column(column_name).null_count > 0)


def expect_column_no_nulls(table: pa.Table, column_name: str) -> bool:
    """Whether no value is null."""
    return bool(table.column(column_name).null_count == 0)


def expect_column_all_null(table: pa.Table, column_name: str) -> bool:
    """Whether every value is null."""
    column = table.column(column_name)
    return bool(column.null_count == len(column))


def expect_column_all_unique(table: pa.Table, column_name: str) -> bool:
    """Whether no value occurs twice; null counts as one value."""
    column = _values(table, column_name)
    return bool(len(column.unique()) == len(column))


def expect_column_not_unique(table: pa.Table, column_name: str) -> bool:
    """Whether some value occurs twice; null counts as one value."""
    return not expect_column_all_unique(table, column_name)


def expect_column_accepted_values(table: pa.Table, column_name: str, accepted_values: Sequence[Any]) -> bool:
    """Whether every value is one of `accepted_values`; a null passes only if `None` is among them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _values(table, column_name)
    accepted = pa.array([value for value in accepted_values if value is not None], type=column.type)
    known = pc.is_in(column.drop_null(), value_set=accepted)
    return bool(pc.all(known, min_count=0).as_py()) and (column.null_count == 0 or None in accepted_values)


def _mean(table: pa.Table, name: str) -> float | None:
    import pyarrow.compute as pc

    column = table.column(name)
    mean = pc.mean(column).as_py() if column.null_count < len(column) else None
    return None if mean is None else float(mean)


def _text(table: pa.Table, name: str) -> Any:
    import pyarrow as pa

    return table.column(name).cast(pa.string())


def _values(table: pa.Table, name: str) -> Any:
    column = table.column(name)
    plain = _plain(column.type)
    return column if column.type == plain else column.cast(plain)


def _plain(kind: Any) -> Any:
    """The type without dictionary and views: every kernel takes it."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if str(kind) == "string_view":
        return pa.string()
    return pa.binary() if str(kind) == "binary_view" else kind
