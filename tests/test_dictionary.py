"""Dictionaries: columns of text arrive as what each library calls a dictionary, and SQL's functions run on their values.

Views have their tests here as well where they meet dictionaries: what is written to the lake, and what people are shown.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import HEADER, Lab, node
from pyiceberg.table import StaticTable

PACKAGES = '@forebay.python("3.11", pip={"pyarrow": "", "numpy": "", "pandas": "", "polars": "", "duckdb": ""})\n'

#: Few values, short and long, some null.
WORDS = ["nl", None, "us", "a country with a long name", " Ünited ", "nl"]
ROWS = 3_000


def country(row: int) -> str | None:
    return WORDS[row * 7919 % 13 % len(WORDS)]


COUNTRIES = [country(row) for row in range(ROWS)]

#: Tables of a Python model, whose columns are not known before it has run: how it lays out the same texts.
LAYOUTS = {
    "text": "pa.array(countries)",
    "large_text": "pa.array(countries, pa.large_string())",
    "views": "pa.array(countries, pa.string_view())",
    "dictionary": "pa.array(countries).dictionary_encode()",
    "small_keys": "pa.DictionaryArray.from_arrays(pa.array(countries).dictionary_encode().indices.cast(pa.uint8()), pa.array(countries).dictionary_encode().dictionary)",
    # Values that repeat, values that are null, and values that no row has.
    "untidy": """pa.DictionaryArray.from_arrays(
        pa.array([None if c is None and n % 2 else (["nl", None, "us", "a country with a long name", " Ünited "].index(c) + 7 * (n % 2)) for n, c in enumerate(countries)], pa.int32()),
        pa.array(["nl", None, "us", "a country with a long name", " Ünited ", "unused", None, "nl", None, "us", "a country with a long name", " Ünited ", "unused"]))""",
    "slice": "pa.array(['before', None, 'first'] + countries + ['after', 'last']).slice(3, len(countries))",
    "slice_of_dictionary": "pa.array(['before', None, 'first'] + countries + ['after', 'last']).dictionary_encode().slice(3, len(countries))",
    "chunks_of_dictionaries": "pa.chunked_array([pa.array(countries[:1000]).dictionary_encode(), pa.array(countries[1000:1000], pa.dictionary(pa.int32(), pa.string())), pa.array(['x'] + countries[1000:][::-1]).dictionary_encode()[1:].take(pa.array(range(len(countries) - 1001, -1, -1)))])",
    "chunks": "pa.chunked_array([pa.array(countries[:1]), pa.array(countries[1:1700]), pa.array(countries[1700:])])",
}

MADE = (
    HEADER
    + f"""
WORDS = {WORDS!r}
countries = [WORDS[row * 7919 % 13 % len(WORDS)] for row in range({ROWS})]
"""
)

#: What each form is asked to be. `countries` is what `COLUMN` must hold.
FORMS = {
    "pa.Table": """
    column = data[COLUMN]
    assert pa.types.is_dictionary(column.type) and column.type.value_type in (pa.string(), pa.large_string()), column.type
    assert data.validate(full=True) is None
    for chunk in column.chunks:
        values = chunk.dictionary.to_pylist()
        assert None not in values and len(set(values)) == len(values), values
    assert column.to_pylist() == countries
    assert column.unify_dictionaries().to_pylist() == countries""",
    "pa.RecordBatchReader": """
    table = data.read_all() if COLUMN == NAMES[0] else table
    assert pa.types.is_dictionary(table.schema.field(COLUMN).type), table.schema
    assert table[COLUMN].to_pylist() == countries""",
    "pd.DataFrame": """
    import pandas as pd
    assert isinstance(data[COLUMN].dtype, pd.CategoricalDtype), data.dtypes
    assert [None if pd.isna(value) else value for value in data[COLUMN]] == countries
    assert data.groupby(COLUMN, observed=True).size().sum() == sum(c is not None for c in countries)""",
    "pl.DataFrame": """
    import polars as pl
    assert data[COLUMN].dtype == pl.Categorical, data.schema
    assert data[COLUMN].cast(pl.String).to_list() == countries
    assert data.filter(pl.col(COLUMN) == "nl").height == countries.count("nl")""",
    "pl.LazyFrame": """
    import polars as pl
    assert data.collect_schema()[COLUMN] == pl.Categorical
    assert data.collect()[COLUMN].cast(pl.String).to_list() == countries""",
    "duckdb.DuckDBPyRelation": """
    assert [row[0] for row in data.project(COLUMN).fetchall()] == countries
    assert dict(data.aggregate(f"{COLUMN}, count(*)").fetchall()).get("nl", 0) == countries.count("nl")""",
}


def consumer(name: str, form: str, source: str, check: str, columns: list[str] | None = None) -> str:
    columns = columns or ["country"]
    return f"""
{PACKAGES}@forebay.model()
def {name}(data: "{form}" = forebay.Model("{source}", dictionary={columns!r})):
    NAMES, table = {columns!r}, None
    for COLUMN in NAMES:{check.replace(chr(10), chr(10) + "    ")}
    return {{"rows": [1]}}
"""


def test_each_library_gets_its_kind_of_dictionary(lab: Lab) -> None:
    """Of a table that a Python model made, in any layout, and of a query over that."""
    columns = ", ".join(f"{name!r}: {code}" for name, code in LAYOUTS.items())
    models = MADE + f"\n{PACKAGES}@forebay.model()\ndef made():\n    return pa.table({{{columns}, 'n': pa.array(range({ROWS}))}})\n"
    for number, (form, check) in enumerate(FORMS.items()):
        models += consumer(f"as_{number}", form, "made", check, list(LAYOUTS))
    queries = {
        "upper.sql": f"-- forebay: dictionary={','.join(LAYOUTS)}\nSELECT {', '.join(f'upper({name}) AS {name}' for name in LAYOUTS)} FROM made",
        "types.sql": f"-- forebay: dictionary={','.join(LAYOUTS)}\nSELECT {', '.join(f'arrow_typeof(upper({name})) AS {name}' for name in LAYOUTS)} FROM made LIMIT 1",
    }
    check = FORMS["pa.Table"].replace("== countries", "== [c and c.upper() for c in countries]")
    models += consumer("of_sql", "pa.Table", "upper", check, list(LAYOUTS))
    models += f"{PACKAGES}@forebay.model()\ndef kinds(data=forebay.Model('types')):\n    assert all(kind.startswith('Dictionary') for kind in data.to_pylist()[0].values()), data.to_pylist()\n    return data\n"
    lab.run(lab.project({"models.py": models, **queries})).ok()


def test_tables_of_the_lake_are_read_as_dictionaries(lab: Lab) -> None:
    lab.load("source", pa.table({"country": COUNTRIES, "n": range(ROWS)}))
    lab.load("empty", pa.table({"country": pa.array([], pa.string()), "n": pa.array([], pa.int64())}))
    lab.load("nothing", pa.table({"country": pa.array([None] * ROWS, pa.string())}))
    models = MADE
    for number, (form, check) in enumerate(FORMS.items()):
        models += consumer(f"as_{number}", form, "source", check)
        models += consumer(f"none_{number}", form, "empty", check.replace("countries", "[]"))
        models += consumer(f"null_{number}", form, "nothing", check.replace("countries", f"([None] * {ROWS})"))
    lab.run(lab.project({"models.py": models})).ok()


#: Functions of one text, and what they are in Python.
FUNCTIONS = {
    "upper(country)": str.upper,
    "lower(country)": str.lower,
    "length(country)": len,
    "char_length(country)": len,
    "octet_length(country)": lambda text: len(text.encode()),
    "trim(country)": lambda text: text.strip(" "),
    "ltrim(country)": lambda text: text.lstrip(" "),
    "substr(country, 1, 2)": lambda text: text[:2],
    "substring(country FROM 2 FOR 3)": lambda text: text[1:4],
    "left(country, 1)": lambda text: text[:1],
    "reverse(country)": lambda text: text[::-1],
    "replace(country, 'n', 'NN')": lambda text: text.replace("n", "NN"),
    "starts_with(country, 'a')": lambda text: text.startswith("a"),
    "strpos(country, 'l')": lambda text: text.find("l") + 1,
    "concat(upper(trim(country)), '!')": None,
    "upper(substr(trim(country), 1, 1))": lambda text: text.strip(" ")[:1].upper(),
    "upper(country) = 'NL'": lambda text: text.upper() == "NL",
    "country LIKE 'a%'": lambda text: text.startswith("a"),
    "country || '-' || country": lambda text: f"{text}-{text}",
    "CASE WHEN length(country) > 2 THEN upper(country) ELSE country END": lambda text: text.upper() if len(text) > 2 else text,
    "coalesce(upper(country), 'none')": None,
    "lpad(country, n % 5, '*')": None,
}


@pytest.mark.parametrize("layout", ["lake", "empty", "untidy", "chunks_of_dictionaries", "slice_of_dictionary"])
def test_functions_of_texts_on_dictionaries(lab: Lab, layout: str) -> None:
    """With and without dictionaries every function gives the same, and what Python gives."""
    lab.load("source", pa.table({"country": pa.array(COUNTRIES if layout == "lake" else [], pa.string()), "n": pa.array(range(ROWS if layout == "lake" else 0), pa.int64())}))
    files = {}
    source = "source"
    if layout not in ("lake", "empty"):
        source = "made"
        files["models.py"] = MADE + f"\n{PACKAGES}@forebay.model()\ndef made():\n    return pa.table({{'country': {LAYOUTS[layout]}, 'n': pa.array(range({ROWS}))}})\n"
    columns = ", ".join(f"{function} AS f{number}" for number, function in enumerate(FUNCTIONS))
    keep = "materialization_strategy=REPLACE"
    files["plain.sql"] = f"-- forebay: {keep}\nSELECT n, country, {columns} FROM {source}"
    files["encoded.sql"] = f"-- forebay: dictionary=country\n-- forebay: {keep}\nSELECT n, country, {columns} FROM {source}"
    # Each function as a filter, a key to group and to join by, and an order.
    for name, first in (("plain_more", ""), ("encoded_more", "-- forebay: dictionary=country\n")):
        files[f"{name}.sql"] = (
            f"{first}-- forebay: {keep}\nSELECT upper(a.country) AS u, count(*) AS c, min(a.country) AS low, max(trim(a.country)) AS high, sum(b.n) AS s\n"
            f"FROM {source} a LEFT JOIN (SELECT * FROM {source} WHERE n < 40 AND length(country) > 2) b ON upper(a.country) = upper(b.country)\n"
            "WHERE lower(a.country) <> 'us' GROUP BY upper(a.country) HAVING count(*) > 0 ORDER BY 1, 2"
        )
    lab.run(lab.project(files)).ok()
    plain, encoded = (lab.rows(f"SELECT * FROM {table} ORDER BY n") for table in ("plain", "encoded"))
    assert plain == encoded
    assert [row["country"] for row in encoded] == (COUNTRIES if layout != "empty" else [])
    for number, (function, python) in enumerate(FUNCTIONS.items()):
        if python and layout != "empty":
            expected = [None if text is None else python(text) for text in COUNTRIES]
            assert [row[f"f{number}"] for row in encoded] == expected, function
    assert lab.rows("SELECT * FROM plain_more ORDER BY u") == lab.rows("SELECT * FROM encoded_more ORDER BY u")


def test_functions_run_on_values_and_not_on_rows(lab: Lab) -> None:
    """The keys of the result are the keys of the argument, where they lie: nothing was made per row."""
    rows = 400_000
    lab.load("source", pa.table({"country": [f"the country {n * 7919 % 200:03}" for n in range(rows)], "n": range(rows)}))
    once = "-- forebay: dictionary=country\nSELECT country, n FROM source"
    files = {
        "once.sql": once,
        "upper.sql": "-- forebay: dictionary=country\nSELECT upper(country) AS country FROM once",
        "more.sql": "-- forebay: dictionary=country\nSELECT substr(trim(lower(country)), 5, 20) AS country FROM upper",
        "last.sql": "-- forebay: materialization_strategy=REPLACE\nSELECT country, count(*) AS c, sum(length(country)) AS l FROM more GROUP BY country",
    }
    result = lab.run(lab.project(files)).ok().json
    for name in ("upper", "more"):
        one = node(result, name)
        assert one["bytes_reshared"] >= 4 * rows, one
        assert one["bytes_referenced"] + one["bytes_copied"] + one["bytes_inline"] < 64 * 1024, one
    assert lab.rows("SELECT count(*) AS n, min(c) AS c, min(country) AS low, sum(l) AS l FROM last") == [{"n": 200, "c": 2000, "low": "country 000", "l": 11 * rows}]


def test_scans_keep_the_dictionaries_of_files(lab: Lab) -> None:
    """Keys and each value once per batch, instead of each value per row."""
    rows = 200_000
    lab.load("source", pa.table({"country": [f"the country with number {n % 50:03}" for n in range(rows)]}))
    files = {
        "models.py": HEADER
        + 'ok = lambda t: {"n": [t.num_rows], "bytes": [t.nbytes]}\n'
        + '@forebay.model()\ndef plain(data=forebay.Model("source")):\n    return ok(data)\n'
        + '@forebay.model()\ndef encoded(data=forebay.Model("source", dictionary=["country"])):\n    return ok(data)\n'
    }
    result = lab.run(lab.project(files)).ok().json
    plain, encoded = (sum(one["bytes_referenced"] for one in result["nodes"] if one["name"] == name) for name in ("scan:default.source", "scan:default.source#2"))
    assert plain >= 27 * rows and encoded <= 5 * rows, (plain, encoded)


def test_a_filter_on_an_input_keeps_dictionaries(lab: Lab) -> None:
    lab.load("source", pa.table({"country": COUNTRIES, "n": range(ROWS)}))
    check = FORMS["pa.Table"].replace("countries", "[c for c in countries[10:] if c is not None]").replace("COLUMN", "'country'")
    models = MADE + f'{PACKAGES}@forebay.model()\ndef made(data=forebay.Model("source")):\n    return data\n'
    for number, source in enumerate(("source", "made")):
        models += f"""
{PACKAGES}@forebay.model()
def as_{number}(data=forebay.Model("{source}", columns=["country"], dictionary=["country"], filter="n >= 10 AND upper(country) <> 'X'")):{check}
    return {{"rows": [1]}}
"""
    lab.run(lab.project({"models.py": models})).ok()


WRONG = {
    "unknown": ('forebay.Model("source", dictionary=["contry"])', "PLN0019", "did you mean `country`?"),
    "number": ('forebay.Model("source", dictionary=["n"])', "PLN0029", "dictionaries are for text"),
    "not_read": ('forebay.Model("source", columns=["n"], dictionary=["country"])', "PLN0029", "it is not read"),
    "no_list": ('forebay.Model("source", dictionary="country")', "PLN0011", "a list of column names"),
    "no_names": ('forebay.Model("source", dictionary=[1])', "PLN0011", "column names are text"),
    "twice": ('forebay.Model("source", dictionary=["country", "country"])', "PLN0011", "listed twice"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_mistakes_are_told_with_their_line(lab: Lab, wrong: str) -> None:
    call, code, why = WRONG[wrong]
    lab.load("source", pa.table({"country": COUNTRIES, "n": range(ROWS)}))
    done = lab.forebay("run", "-p", lab.project(f"@forebay.model()\ndef m(data={call}):\n    return data\n")).failed()
    assert f"[{code}]" in done.err and why in done.err and "models.py:5" in done.err, str(done)


def test_mistakes_in_the_header_of_a_query_are_told_with_their_line(lab: Lab) -> None:
    lab.load("source", pa.table({"country": COUNTRIES, "n": range(ROWS)}))
    for column, code in (("contry", "PLN0019"), ("n", "PLN0029")):
        text = f"-- A comment.\n-- forebay: dictionary={column}\nSELECT country, n FROM source\n"
        done = lab.forebay("run", "-p", lab.project({"q.sql": text})).failed()
        assert f"[{code}]" in done.err and "q.sql:2" in done.err, str(done)


@pytest.mark.parametrize(("column", "code"), [("n", "IPC0009"), ("contry", "IPC0006")])
@pytest.mark.parametrize("reader", ["python", "sql"])
def test_what_only_the_run_can_know_is_told_by_it(lab: Lab, column: str, code: str, reader: str) -> None:
    """A Python model's columns are known when it has run."""
    files = {"models.py": HEADER + '@forebay.model()\ndef made():\n    return {"country": ["nl"], "n": [1]}\n'}
    if reader == "python":
        files["models.py"] += f'@forebay.model()\ndef m(data=forebay.Model("made", dictionary=["{column}"])):\n    return data\n'
    else:
        files["m.sql"] = f"-- forebay: dictionary={column}\nSELECT country FROM made\n"
    done = lab.run(lab.project(files)).failed()
    error = done.json["error"]
    assert error["code"] == code and f"`{column}`" in error["message"], str(done)
    assert (error["at"]["file"], error["at"]["line"]) == (("models.py", 8) if reader == "python" else ("m.sql", 2)), str(done)


STORED = [
    ("views", "pa.array([None if n % 7 == 0 else f'row {n} has a text of some length' for n in range(1000)], pa.string_view())"),
    ("short_views", "pa.array([str(n) for n in range(1000)], pa.string_view())"),
    ("binary_views", "pa.array([None if n % 7 == 0 else b'row has bytes of some length' + bytes([n % 251]) for n in range(1000)], pa.binary_view())"),
    ("dictionary", "pa.array([None if n % 5 == 0 else f'value {n % 9}' for n in range(1000)]).dictionary_encode()"),
    ("untidy", "pa.DictionaryArray.from_arrays(pa.array([None if n % 5 == 0 else n % 6 for n in range(1000)], pa.int8()), pa.array(['a', 'b', 'a', None, 'unused but one', 'c', 'unused']))"),
    ("large_dictionary", "pa.DictionaryArray.from_arrays(pa.array([n % 3 for n in range(1000)], pa.int32()), pa.array(['a', 'b', 'c'], pa.large_string()))"),
    ("numbers", "pa.DictionaryArray.from_arrays(pa.array([n % 3 for n in range(1000)], pa.int32()), pa.array([10, 20, 30]))"),
]


def test_views_and_dictionaries_are_stored_as_other_engines_read_them(lab: Lab) -> None:
    """The same values for PyIceberg, whether Python, Polars or SQL wrote them."""
    columns = ", ".join(f"'{name}': {code}" for name, code in STORED)
    keep = '@forebay.model(materialization_strategy="REPLACE")\n'
    models = HEADER + f"{PACKAGES}{keep}def arrow():\n    return pa.table({{{columns}, 'n': pa.array(range(1000))}})\n"
    models += f"{PACKAGES}{keep}def of_polars(data: 'pl.DataFrame' = forebay.Model('arrow', columns=['views', 'dictionary', 'n'], dictionary=['dictionary'])):\n"
    models += "    import polars as pl\n    assert data['dictionary'].dtype == pl.Categorical\n    return data.filter(pl.col('n') % 2 == 0).sort('n', descending=True)\n"
    query = "-- forebay: dictionary=dictionary\n-- forebay: materialization_strategy=REPLACE\nSELECT views, short_views, upper(dictionary) AS dictionary, n FROM arrow WHERE n % 3 = 0 ORDER BY n DESC"
    partitioned = "-- forebay: dictionary=dictionary\n-- forebay: partitioned_by=dictionary\n-- forebay: materialization_strategy=REPLACE\nSELECT views, dictionary, n FROM arrow"
    lab.run(lab.project({"models.py": models, "of_sql.sql": query, "parts.sql": partitioned})).ok()
    env: dict[str, Any] = {"pa": pa}
    expected = pa.table({**{name: eval(code, env) for name, code in STORED}, "n": pa.array(range(1000))}).to_pylist()
    read = {name: StaticTable.from_metadata(lab.metadata(name)).scan().to_arrow() for name in ("arrow", "of_polars", "of_sql", "parts")}
    assert sorted(read["arrow"].to_pylist(), key=lambda row: row["n"]) == expected
    assert read["of_polars"].to_pylist() == [{name: row[name] for name in ("views", "dictionary", "n")} for row in expected[::-1] if row["n"] % 2 == 0]
    upper = [{**{name: row[name] for name in ("views", "short_views")}, "dictionary": row["dictionary"] and row["dictionary"].upper(), "n": row["n"]} for row in expected[::-1] if row["n"] % 3 == 0]
    assert read["of_sql"].to_pylist() == upper
    assert sorted(read["parts"].to_pylist(), key=lambda row: row["n"]) == [{name: row[name] for name in ("views", "dictionary", "n")} for row in expected]
    for name in read:
        assert lab.rows(f"SELECT * FROM {name} ORDER BY n") == sorted(read[name].to_pylist(), key=lambda row: row["n"]), name


def test_people_are_shown_values(lab: Lab) -> None:
    lab.load("source", pa.table({"country": COUNTRIES, "n": range(ROWS)}))
    files = {
        "q.sql": "-- forebay: dictionary=country\nSELECT upper(country) AS country, 'a text of more than twelve bytes' AS t FROM source ORDER BY length(country) DESC NULLS LAST",
        "models.py": HEADER + '@forebay.model()\ndef m(data=forebay.Model("source", dictionary=["country"], filter="country LIKE \'a%\'")):\n    return data\n',
    }
    done = lab.forebay("run", "-p", lab.project(files), "--dry-run", "--preview", "head").ok()
    shown = done.out + done.err
    assert "A COUNTRY WITH A LONG NAME" in shown and "a country with a long name" in shown and "a text of more than twelve bytes" in shown, shown
    asked = lab.forebay("query", "SELECT country, n FROM source ORDER BY length(country) DESC NULLS LAST LIMIT 7").ok().out
    assert "a country with a long name" in asked
    assert {str(kind) for kind in lab.query("SELECT country, upper(country) AS u FROM source").schema.types} == {"string"}


def test_dictionary_is_part_of_the_placeholder() -> None:
    import forebay

    assert repr(forebay.Model("t", columns=["c"], dictionary=["c"])) == "forebay.Model('t', columns=['c'], dictionary=['c'])"
    with pytest.raises(TypeError, match="dictionary"):
        forebay.Model("t", dictionar=["c"])  # type: ignore[call-arg]
