"""Strings as views: filters, sorts and joins pass on the bytes of their input's strings, in SQL and in Polars. Bytes are counted."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from conftest import HEADER, Lab, node

PACKAGES = '@forebay.python("3.11", pip={"pyarrow": "", "numpy": "", "polars": ""})\n'
ROWS = 300_000
#: Bytes of each text: too long to be part of a view.
TEXT = 50


def text(row: int) -> str:
    return f"row {row:09} and then some more to fill the text".ljust(TEXT, ".")


MADE = (
    HEADER
    + f"""
{PACKAGES}@forebay.model()
def source():
    import numpy as np
    n = np.arange({ROWS})
    return pa.table({{"id": n, "k": (n * 7919) % {ROWS}, "url": [f"row {{row:09}} and then some more to fill the text".ljust({TEXT}, ".") for row in range({ROWS})]}})
"""
)

#: What SQL does, the part of the rows that is left, and which row of the source the n-th is.
QUERIES = {
    "add": ("SELECT *, k * 2 AS twice FROM {t}", 1, 32),
    "half": ("SELECT * FROM {t} WHERE id % 2 = 0", 1 / 2, 32),
    "tenth": ("SELECT * FROM {t} WHERE id % 10 = 0", 1 / 10, 32),
    "first": ("SELECT * FROM {t} WHERE id < 100000", 1 / 3, 32),
    "like": ("SELECT * FROM {t} WHERE url LIKE '%5 and%'", 1 / 10, 32),
    "sort": ("SELECT * FROM {t} ORDER BY k", 1, 32),
    "sort_texts": ("SELECT * FROM {t} ORDER BY url DESC", 1, 32),
    "top": ("SELECT * FROM {t} ORDER BY k LIMIT 100000", 1 / 3, 32),
    "join": ("SELECT a.id, b.k, b.url FROM {t} a JOIN {t} b ON a.k = b.id", 1, 32),
    "left_join": ("SELECT a.url, b.k FROM {t} a LEFT JOIN (SELECT * FROM {t} WHERE id % 3 = 0) b ON a.id = b.id", 1, 32),
    "some_join": ("SELECT a.id, a.url FROM {t} a JOIN (SELECT id FROM {t} WHERE id % 3 = 0) b ON a.k = b.id", 1 / 3, 24),
    "semi_join": ("SELECT id, url FROM {t} WHERE k IN (SELECT id FROM {t} WHERE id % 3 = 0)", 1 / 3, 24),
    "twice": ("SELECT a.id, a.url AS u, b.url AS v FROM {t} a JOIN {t} b ON a.k = b.id", 1, 48),
    "union": ("SELECT * FROM {t} WHERE id % 2 = 0 UNION ALL SELECT * FROM {t} WHERE id % 2 = 1", 1, 32),
    "window": ("SELECT id, url, row_number() OVER (ORDER BY k) AS n FROM {t}", 1, 32),
    "nested": ("SELECT * FROM (SELECT * FROM {t} WHERE id % 2 = 0) ORDER BY k", 1 / 2, 32),
}


def check(one: dict[str, Any], rows: float, per_row: float, texts: float) -> None:
    """No byte of a text was written anew: what was made is the views and the numbers."""
    assert one["rows"] == pytest.approx(rows, rel=0.01), one
    assert one["bytes_copied"] == 0, one
    assert one["bytes_reshared"] >= rows * TEXT * texts, one
    assert one["bytes_referenced"] <= rows * per_row * 1.1 + 256 * 1024, one


@pytest.mark.parametrize("of", ["model", "lake"])
def test_queries_reshare_the_bytes_of_texts(lab: Lab, of: str) -> None:
    """Over plain strings of a Python model, and over what a scan delivers to queries."""
    files = {"models.py": MADE}
    if of == "lake":
        numbers = list(range(ROWS))
        lab.load("source", pa.table({"id": numbers, "k": [n * 7919 % ROWS for n in numbers], "url": list(map(text, numbers))}))
        files = {}
    for name, (query, _, _) in QUERIES.items():
        files[f"{name}.sql"] = query.format(t="source")
    # Each is checked by a query as well, which reads the table as it is.
    sums = " UNION ALL ".join(
        f"SELECT '{name}' AS name, count(*) AS n, sum(length(url)) AS l, count(DISTINCT url) AS d, count(url) AS c FROM {name}" for name in QUERIES if name not in ("twice",)
    )
    files["sums.sql"] = f"-- forebay: materialization_strategy=REPLACE\n{sums}"
    result = lab.run(lab.project(files)).ok().json
    wrong = {}
    for name, (_, part, per_row) in QUERIES.items():
        try:
            check(node(result, name), ROWS * part, per_row, 1)
        except AssertionError as error:
            wrong[name] = error
    [print("WRONG", k, {k: v for k, v in node(result, k).items() if "bytes" in k or k in ("rows", "copies")}) for k in wrong]
    assert not wrong
    for row in lab.rows("SELECT * FROM sums"):
        rows = round(ROWS * QUERIES[row["name"]][1])
        assert (row["n"], row["l"], row["d"], row["c"]) == (rows, rows * TEXT, rows, rows), row


def test_a_chain_of_queries_makes_views_and_numbers_alone(lab: Lab) -> None:
    """Filter, sort, add a column, filter again: the texts stay where the source has them, four queries on."""
    files = {
        "c1.sql": "SELECT * FROM source WHERE k < 150000",
        "c2.sql": "SELECT * FROM c1 ORDER BY k DESC",
        "c3.sql": "SELECT *, k * 2 AS twice FROM c2",
        "c4.sql": "SELECT * FROM c3 WHERE id % 2 = 0",
        "models.py": MADE
        + f"""
{PACKAGES}@forebay.model()
def last(data: "pl.DataFrame" = forebay.Model("c4")):
    expected = sorted((n * 7919 % {ROWS}, n) for n in range(0, {ROWS}, 2) if n * 7919 % {ROWS} < 150_000)[::-1]
    assert data["k"].to_list() == [k for k, _ in expected]
    assert data["url"].to_list() == [f"row {{n:09}} and then some more to fill the text".ljust({TEXT}, ".") for _, n in expected]
    assert data["twice"].to_list() == [2 * k for k, _ in expected]
    return data.filter(data["k"] % 3 == 0).sort("id")
""",
    }
    result = lab.run(lab.project(files)).ok().json
    source = node(result, "source")["bytes_referenced"]
    for name, part, per_row in (("c1", 1 / 2, 32), ("c2", 1 / 2, 32), ("c3", 1 / 2, 8), ("c4", 1 / 4, 40)):
        check(node(result, name), ROWS * part, per_row, 1)
    last = node(result, "last")
    assert last["bytes_copied"] == 0 and last["bytes_reshared"] >= last["rows"] * TEXT, last
    made = sum(node(result, name)["bytes_referenced"] for name in ("c1", "c2", "c3", "c4"))
    assert made <= source * 0.7, "four tables of half and a quarter of the rows, for less than the source"


def test_few_rows_do_not_hold_on_to_all_texts(lab: Lab) -> None:
    """A query that leaves next to nothing copies it: its input can be freed."""
    files = {"few.sql": "SELECT * FROM source WHERE id % 1000 = 0", "models.py": MADE, "read.sql": "SELECT count(DISTINCT url) AS n, min(url) AS low FROM few"}
    few = node(lab.run(lab.project(files)).ok().json, "few")
    assert few["rows"] == ROWS // 1000
    assert few["bytes_reshared"] + few["bytes_referenced"] + few["bytes_copied"] + few["bytes_inline"] <= 4 * few["rows"] * (TEXT + 32), few


def test_readers_of_plain_strings_get_them_made_once(lab: Lab) -> None:
    """Where nobody takes views the query writes plain strings, which its readers pass on without a copy."""
    models = MADE
    for number in range(2):
        models += f'\n{PACKAGES}@forebay.model()\ndef reader_{number}(data=forebay.Model("half")):\n    assert data.schema.field("url").type == pa.string()\n    return data\n'
    result = lab.run(lab.project({"half.sql": "SELECT * FROM source WHERE id % 2 = 0", "models.py": models})).ok().json
    for number in range(2):
        one = node(result, f"reader_{number}")
        assert (one["bytes_copied"], one["bytes_referenced"]) == (0, 0) and one["bytes_reshared"] >= ROWS // 2 * TEXT, one


def test_what_a_reader_makes_anew_is_counted(lab: Lab) -> None:
    """Polars' texts are views; pyarrow gets plain strings, Polars what is there."""
    models = f'''{MADE}
{PACKAGES}@forebay.model()
def frame(data: "pl.DataFrame" = forebay.Model("source")):
    return data.filter(data["id"] % 2 == 0)

{PACKAGES}@forebay.model()
def plain(data=forebay.Model("frame")):
    assert data.schema.field("url").type == pa.string()
    return {{"rows": [data.num_rows]}}

{PACKAGES}@forebay.model()
def views(data: "pl.DataFrame" = forebay.Model("frame")):
    return {{"rows": [data.height]}}
'''
    run = lab.run(lab.project({"models.py": models})).ok()
    result = run.json
    assert ROWS // 2 * TEXT <= node(result, "plain")["bytes_converted"] <= ROWS // 2 * (TEXT + 32)
    assert [node(result, name)["bytes_converted"] for name in ("source", "frame", "views")] == [0, 0, 0]
    told = lab.forebay("explain").ok().out
    assert "made anew by who reads them" in told and "plain" in told.split("made anew by who reads them")[1], told


def test_texts_of_every_length_survive(lab: Lab) -> None:
    """Short and long ones, empty ones and nulls, binaries, through filters, sorts and joins."""
    texts = [None if n % 11 == 0 else "é" * (n % 40) + str(n) for n in range(20_000)]
    bytes_ = [None if word is None else word.encode() + b"\xff" for word in texts]
    lab.load("source", pa.table({"n": range(20_000), "t": texts, "b": bytes_, "l": [[word, "x"] for word in texts], "s": [{"a": word} for word in texts]}))
    keep = "-- forebay: materialization_strategy=REPLACE\n"
    files = {
        "a.sql": "SELECT * FROM source WHERE n % 3 <> 0",
        "b.sql": "SELECT * FROM a ORDER BY t NULLS FIRST, n",
        "c.sql": f"{keep}SELECT b.n, b.t, a.b, a.l, b.s FROM b LEFT JOIN a ON a.t = b.t",
        "models.py": HEADER + f"{PACKAGES}@forebay.model(materialization_strategy='REPLACE')\ndef d(data: 'pl.DataFrame' = forebay.Model('b')):\n    return data.sort('n').slice(5, 9000)\n",
    }
    lab.run(lab.project(files)).ok()
    left = [n for n in range(20_000) if n % 3]
    row = lambda n, matched=True: {"n": n, "t": texts[n], "b": bytes_[n] if matched else None, "l": [texts[n], "x"] if matched else None, "s": {"a": texts[n]}}  # noqa: E731
    assert lab.rows("SELECT * FROM d ORDER BY n") == [row(n) for n in left][5:9005]
    assert lab.rows("SELECT * FROM c ORDER BY n") == [row(n, texts[n] is not None) for n in left]
