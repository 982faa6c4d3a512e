"""Numbers in SQL are compared with decimals and 64-bit integers digit by digit, wherever the condition stands."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest
from conftest import Lab

LARGE = Decimal(200000000000000000000)
#: More digits than a double keeps.
FINE = Decimal("1234567890123456789012345678.0123456789")
ROWS = pa.table(
    {
        "row": pa.array(range(5), pa.int64()),
        "whole": pa.array([LARGE, -LARGE, Decimal("9" * 38), Decimal(1), None], pa.decimal128(38, 0)),
        "part": pa.array([FINE, FINE.copy_negate(), Decimal("0.0000000001"), Decimal(0), None], pa.decimal128(38, 10)),
        "tiny": pa.array([Decimal("1e-30"), Decimal("-1e-30"), Decimal("1.5"), Decimal(0), None], pa.decimal128(38, 30)),
        "big": pa.array([2**63 - 1, -(2**63), 2**53 + 1, 0, None], pa.int64()),
        "double": pa.array([2e20, -1e300, 1.5, 0.1, None], pa.float64()),
    }
)
#: Conditions and the rows for which they are true.
CONDITIONS = {
    "whole = 200000000000000000000": [0],
    "200000000000000000000 = whole": [0],
    "whole = -200000000000000000000": [1],
    "whole = 200000000000000000001": [],
    "whole <> 200000000000000000000": [1, 2, 3],
    "whole < 200000000000000000000": [1, 3],
    "whole >= 200000000000000000000": [0, 2],
    "whole = 99999999999999999999999999999999999999": [2],
    "whole < 100000000000000000000000000000000000000": [0, 1, 2, 3],
    "whole > 1.5": [0, 2],
    "whole > 1e37": [2],
    "whole IN (-200000000000000000000, 1)": [1, 3],
    "whole NOT IN (200000000000000000000, 0.5)": [1, 2, 3],
    "whole BETWEEN -200000000000000000000 AND 200000000000000000000": [0, 1, 3],
    "whole NOT BETWEEN 0.5 AND 200000000000000000000": [1, 2],
    "part = 1234567890123456789012345678.0123456789": [0],
    "part = -1234567890123456789012345678.0123456789": [1],
    "part > 1234567890123456789012345678.0123456788": [0],
    "part < 1234567890123456789012345678.01234567891": [0, 1, 2, 3],
    "part = 0.0000000001": [2],
    "part > 1e-16": [0, 2],
    "part < 1000000000000000000000000000000000000": [0, 1, 2, 3],
    "part IN (0, 1234567890123456789012345678.0123456789)": [0, 3],
    "part BETWEEN -1234567890123456789012345678.0123456789 AND 0.00000000005": [1, 3],
    "tiny = 0.000000000000000000000000000001": [0],
    "tiny = 1e-30": [0],
    "tiny < 0": [1],
    "tiny = 1.5": [2],
    "tiny IN (1.5, 200000000000000000000)": [2],
    "big = 9223372036854775807": [0],
    "big = -9223372036854775808": [1],
    "big < 9223372036854775808": [0, 1, 2, 3],
    "big > 18446744073709551616": [],
    "big > -18446744073709551615": [0, 1, 2, 3],
    "big BETWEEN -9223372036854775809 AND 9007199254740993": [1, 2, 3],
    "big IN (9007199254740993, 200000000000000000000)": [2],
    "big >= 9223372036854775806.00000000000000000001": [0],
    "double = 200000000000000000000": [0],
    "double < 200000000000000000001.5": [1, 2, 3],
    "double < -200000000000000000000": [1],
    "double BETWEEN -200000000000000000000 AND 200000000000000000000": [0, 2, 3],
    "double IN (0.1, 1.5, 200000000000000000000)": [0, 2, 3],
    "whole + 200000000000000000000 = 400000000000000000000": [0],
}


@pytest.fixture
def numbers(lab: Lab) -> Lab:
    lab.load("numbers", ROWS)
    return lab


def test_in_queries(numbers: Lab) -> None:
    counts = ", ".join(f"array_agg(\"row\") FILTER (WHERE {text}) AS c{index}" for index, text in enumerate(CONDITIONS))
    found = numbers.rows(f"SELECT {counts} FROM numbers")[0]
    assert {text: sorted(found[f"c{index}"] or []) for index, text in enumerate(CONDITIONS)} == wanted()
    union = " UNION ALL ".join(f"SELECT {index} AS c, \"row\" FROM numbers WHERE {text}" for index, text in enumerate(CONDITIONS))
    assert by_condition(numbers.query(union)) == wanted()


def test_in_models(numbers: Lab) -> None:
    sql = {f"s{index}.sql": f"SELECT {index} AS c, \"row\" FROM numbers WHERE {text}" for index, text in enumerate(CONDITIONS)}
    functions = "\n".join(
        f"@forebay.model()\ndef f{index}(data=forebay.Model('numbers', columns=['row'], filter={text!r})):\n"
        f"    return pa.table({{'c': pa.array([{index}] * len(data), pa.int64()), 'row': data['row']}})\n"
        for index, text in list(enumerate(CONDITIONS))[::5]
    )
    gathered = " UNION ALL ".join(f"SELECT * FROM s{index}" for index in range(len(CONDITIONS)))
    filtered = " UNION ALL ".join(f"SELECT * FROM f{index}" for index in range(0, len(CONDITIONS), 5))
    project = numbers.project(
        {
            "functions.py": f"import forebay\nimport pyarrow as pa\n\n{functions}",
            "gathered.sql": f"-- forebay: materialization_strategy=REPLACE\n{gathered}",
            "filtered.sql": f"-- forebay: materialization_strategy=REPLACE\n{filtered}",
            **sql,
        }
    )
    numbers.run(project).ok()
    assert by_condition(numbers.query("SELECT * FROM gathered")) == wanted()
    expected = {text: rows for index, (text, rows) in enumerate(wanted().items()) if index % 5 == 0}
    assert by_condition(numbers.query("SELECT * FROM filtered"), list(CONDITIONS)[::5]) == expected


def test_the_types_of_numbers(lab: Lab) -> None:
    """Ordinary numbers are doubles, so divisions keep their digits; long ones are decimals."""
    sql = "SELECT 1.5 AS a, 1e30 AS b, 10 / 4.0 AS c, 200000000000000000000 AS d, -0.12345678901234567890 AS e, 0.1 + 0.2 AS f"
    table = lab.query(sql)
    types = [pa.float64()] * 3 + [pa.decimal128(21, 0), pa.decimal128(20, 20), pa.float64()]
    assert table.schema.types == types
    assert table.to_pylist() == [
        {"a": 1.5, "b": 1e30, "c": 2.5, "d": LARGE, "e": Decimal("-0.12345678901234567890"), "f": 0.1 + 0.2}
    ]


def wanted() -> dict[str, list[int]]:
    return {text: sorted(rows) for text, rows in CONDITIONS.items()}


def by_condition(table: pa.Table, conditions: list[str] | None = None) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {text: [] for text in conditions or CONDITIONS}
    for row in table.to_pylist():
        found[list(CONDITIONS)[row["c"]]].append(row["row"])
    return {text: sorted(rows) for text, rows in found.items()}
