"""`forebay.standard_expectations` on every form of string column."""

import pyarrow as pa
import pytest

from forebay import standard_expectations as checks

STRINGS = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
STRINGS += [pa.string_view()] if hasattr(pa, "string_view") else []


@pytest.fixture(params=STRINGS, ids=str)
def table(request):
    def text(*values):
        return pa.array(values).cast(request.param)

    return pa.table(
        {
            "name": text("x", "y", None),
            "number": [1, 2, 3],
            "joined": text("x-1", "y-2", None),
            "nothing": pa.nulls(3),
            "double": [1, 1, None],
        }
    )


@pytest.mark.parametrize(
    ("check", "arguments", "holds"),
    [
        (checks.expect_column_equal_concatenation, ("joined", ["name", "number"], "-"), True),
        (checks.expect_column_equal_concatenation, ("joined", ["name", "number"], "+"), False),
        (checks.expect_column_equal_concatenation, ("name", ["name"]), True),
        (checks.expect_column_mean_greater_than, ("number", 2), False),
        (checks.expect_column_mean_greater_or_equal_than, ("number", 2), True),
        (checks.expect_column_mean_smaller_than, ("number", 2), False),
        (checks.expect_column_mean_smaller_or_equal_than, ("number", 2), True),
        (checks.expect_column_mean_smaller_than, ("nothing", 2), False),
        (checks.expect_column_mean_greater_than, ("double", 0.5), True),
        (checks.expect_column_some_null, ("name",), True),
        (checks.expect_column_some_null, ("number",), False),
        (checks.expect_column_no_nulls, ("number",), True),
        (checks.expect_column_no_nulls, ("name",), False),
        (checks.expect_column_all_null, ("nothing",), True),
        (checks.expect_column_all_null, ("name",), False),
        (checks.expect_column_all_unique, ("name",), True),
        (checks.expect_column_all_unique, ("double",), False),
        (checks.expect_column_all_unique, ("nothing",), False),
        (checks.expect_column_not_unique, ("double",), True),
        (checks.expect_column_not_unique, ("number",), False),
        (checks.expect_column_accepted_values, ("name", ["x", "y"]), False),
        (checks.expect_column_accepted_values, ("name", ["x", "y", None]), True),
        (checks.expect_column_accepted_values, ("name", ["x", None]), False),
        (checks.expect_column_accepted_values, ("number", [1, 2, 3, 4]), True),
        (checks.expect_column_accepted_values, ("number", [1, 2]), False),
    ],
)
def test_what_holds(table, check, arguments, holds):
    assert check(table, *arguments) is holds


def test_an_empty_table_has_nothing_wrong_with_it(table):
    empty = table.slice(0, 0)
    assert checks.expect_column_accepted_values(empty, "number", [1]) is True
    assert checks.expect_column_all_unique(empty, "name") is True
    assert checks.expect_column_equal_concatenation(empty, "joined", ["name", "number"]) is True
    assert checks.expect_column_mean_greater_than(empty, "number", 0) is False


def test_mistakes_are_told(table):
    with pytest.raises(ValueError, match="at least one column"):
        checks.expect_column_equal_concatenation(table, "joined", [])
    with pytest.raises(KeyError):
        checks.expect_column_no_nulls(table, "nmae")


def test_there_are_eleven():
    assert len(checks.__all__) == 11
