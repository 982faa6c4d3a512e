"""`Client.scan` builds its SELECT so that nothing given to it becomes other SQL."""

import pytest

from forebay import Client
from forebay._filters import boolean_expression, quoted, scan_statement

REFUSED = [
    "",
    "  \n ",
    ";",
    "; ;",
    "DELETE FROM flights",
    "month = 1; DROP TABLE flights",
    "SELECT * FROM flights",
    "month = 1 UNION ALL SELECT * FROM planes",
    "((((",
    "))))",
    "month =",
    "= 1",
    "month = 1 AND",
    "OR month = 1",
    "month BETWEEN 1",
    "month BETWEEN 1 OR 2",
    "month IN",
    "month IN ()",
    "carrier LIKE",
    "NOT",
    "month = 1\x00",
    "carrier = 'UA",
    'carrier = "UA',
    "month = 1 -- and so on",
    "month = 1 /* and */",
    "month IN (SELECT 1)",
    "EXISTS (SELECT 1)",
    "month = (SELECT max(month) FROM flights)",
    "month = 1) OR (1 = 1",
    "month = 1 LIMIT 5",
    "month = 1 ORDER BY day",
    "month = 1 GROUP BY day HAVING 1 = 1",
    "month = 1 OFFSET 3",
    "month = $month",
    "month = ?",
    "month = 1, day = 1",
    "1",
    "'UA'",
    "2013-01-01",
    "1 + 2",
    "carrier = \\'",
    "carrier = 'UA' 'AA'",
    "CASE month END",
    "CAST(month)",
    "month::",
    "flights..month = 1",
    "count(*) > 1",
    "count(month) > 1",
    "sum(DISTINCT month) > 1",
    "Max(month) = 12",
    "row_number() OVER () < 5",
    "1 = 1; SELECT 1",
    "month BETWEEN",
    "month = 1 OR",
    "\x00",
    "month = 1 AND \"a\x00\" = 2",
    "carrier = '",
    'carrier = "',
    "month = 1 # and",
    "month = 1 INTO OUTFILE 'x'",
    "month = ANY (SELECT 1)",
    "month IN (1, 2",
    "month = 1 FOR UPDATE",
    "month = 1 WINDOW w AS ()",
    "month = 1 FETCH FIRST 1 ROW ONLY",
    "month = {x}",
    "month = @x",
    "month = E'\\''",
    "flights.* = 1",
    "month = 1 AS x",
    "month[1] = 1",
    "month = 1 month",
    "(" * 5000 + "month" + ")" * 5000,
    "NOT " * 5000 + "month",
]

ACCEPTED = [
    ("month = 1", '"month" = 1'),
    ("late", '"late"'),
    ("NOT late and Month == 2", 'NOT "late" AND "Month" = 2'),
    ("flights.month IS not null", '"flights"."month" IS NOT NULL'),
    ("carrier not in ('UA', 'it''s')", "\"carrier\" NOT IN ('UA', 'it''s')"),
    ("day between 2013-01-01 and 2013-02-01", "\"day\" BETWEEN DATE '2013-01-01' AND DATE '2013-02-01'"),
    ("t >= 2013-01-01T10:00:00Z", "\"t\" >= TIMESTAMP '2013-01-01T10:00:00Z'"),
    ("t > DATE '2013-01-01'", "\"t\" > DATE '2013-01-01'"),
    ('"sel""ect" <> -1.5e3', '"sel""ect" <> - 1.5e3'),
    ("größe % 2 = 1 or (a || b) like 'x%' escape '!'", "\"größe\" % 2 = 1 OR (\"a\" || \"b\") LIKE 'x%' ESCAPE '!'"),
    ("cast(a as decimal(9,2)) > b::double precision", 'CAST("a" AS decimal(9, 2)) > "b"::double precision'),
    ("extract(month from t) = 1", 'EXTRACT(month FROM "t") = 1'),
    ("lower(left(name, 2)) = 'ab'", "lower(left(\"name\", 2)) = 'ab'"),
    ("case when a > 1 then b else false end", 'CASE WHEN "a" > 1 THEN "b" ELSE FALSE END'),
    ("a is not distinct from b", '"a" IS NOT DISTINCT FROM "b"'),
    ("x = 1 or y = 2 and not z = 3", '"x" = 1 OR "y" = 2 AND NOT "z" = 3'),
]


@pytest.mark.parametrize("filters", REFUSED, ids=lambda text: repr(text[:30]))
def test_what_is_not_one_condition_is_refused_before_anything_is_sent(filters):
    with pytest.raises(ValueError) as refused:
        Client().scan("flights", columns=["carrier"], filters=filters, limit=1)
    assert refused.value.code == "PLN0050"


@pytest.mark.parametrize(("filters", "written"), ACCEPTED, ids=[text[:30] for text, _ in ACCEPTED])
def test_conditions_are_written_out_again_with_quoted_names(filters, written):
    assert boolean_expression(filters) == written
    assert boolean_expression(written) == written


def test_a_scan_is_one_select_with_quoted_names():
    assert scan_statement("flights") == 'SELECT * FROM "flights"'
    assert scan_statement("raw.flights", None, ["*"]) == 'SELECT * FROM "raw"."flights"'
    assert scan_statement('fl"ights', "raw", ['a"; DROP TABLE x --', "b c"], "a = 1", 5) == (
        'SELECT "a""; DROP TABLE x --", "b c" FROM "raw"."fl""ights" WHERE "a" = 1 LIMIT 5'
    )


@pytest.mark.parametrize(
    "scan",
    [
        {"table": "flights", "columns": []},
        {"table": "flights", "columns": "carrier"},
        {"table": "flights", "columns": [""]},
        {"table": "a.b.c"},
        {"table": ".b"},
        {"table": "a.b", "namespace": "c"},
        {"table": "flights", "limit": -1},
        {"table": "flights", "limit": True},
        {"table": "flights", "limit": "1; DROP TABLE x"},
    ],
    ids=repr,
)
def test_a_scan_of_nonsense_is_a_value_error(scan):
    with pytest.raises(ValueError):
        Client().scan(**scan)


def test_a_name_with_a_nul_is_refused():
    with pytest.raises(ValueError):
        quoted("a\0b")
