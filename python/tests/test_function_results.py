"""What a function may return, what is refused, and the bytes that are copied on the way."""

from __future__ import annotations

import textwrap

import pytest
from function_process import (
    _native,
    Done,
    has,
    needs_pandas,
    needs_polars,
    needs_views,
    numbers,
    OUTPUT,
    pa,
    read,
    run,
    Runner,
    skip_unless_installed,
    version,
)

__all__ = ["run"]

# --- what a function may return -----------------------------------------------------------------------------------------------

EXPECTED = {"a": [1, 2, 3], "b": ["x", None, "größe"]}

TABLES = {
    "pyarrow table": "import pyarrow as pa\ndef model(): return pa.table(DATA)",
    "pyarrow chunks": "import pyarrow as pa\ndef model():\n t = pa.table(DATA)\n return pa.concat_tables([t.slice(0, 1), t.slice(1)])",
    "pyarrow batch": "import pyarrow as pa\ndef model(): return pa.table(DATA).to_batches()[0]",
    "pyarrow reader": "import pyarrow as pa\ndef model(): return pa.table(DATA).to_reader()",
    "list of dicts": "def model(): return [{'a': 1, 'b': 'x'}, {'a': 2}, {'b': 'größe', 'a': 3}]",
    "dict of lists": "def model(): return DATA",
    "dict of arrays": "import pyarrow as pa\ndef model(): return {'a': pa.array(DATA['a']), 'b': pa.chunked_array([DATA['b']])}",
    "pandas": "import pandas as pd\ndef model(): return pd.DataFrame(DATA)",
    "pandas filtered": "import pandas as pd\ndef model():\n df = pd.DataFrame({'a': [0, *DATA['a']], 'b': ['q', *DATA['b']]})\n return df[df.a > 0]",
    "pandas named index": "import pandas as pd\ndef model(): return pd.DataFrame(DATA).set_index('a')",
    "polars": "import polars as pl\ndef model(): return pl.DataFrame(DATA)",
    "polars lazy": "import polars as pl\ndef model(): return pl.LazyFrame(DATA).filter(pl.col('a') > 0)",
    "duckdb": "import duckdb\ndef model(): return duckdb.sql(\"select * from (values (1, 'x'), (2, null), (3, 'größe')) t(a, b)\")",
    "duckdb over a local table": """
        import duckdb, pyarrow as pa
        def model():
            local = pa.table(DATA)
            connection = duckdb.connect()
            return connection.sql("select a, b from local where a > 0")
    """,
    "duckdb imported late": """
        def model():
            import duckdb
            return duckdb.connect(database=":memory:").sql("select unnest([1, 2, 3]) as a, unnest(['x', null, 'größe']) as b")
    """,
    "any capsule": """
        import pyarrow as pa
        class Mine:
            def __arrow_c_stream__(self, requested_schema=None):
                return pa.table(DATA).__arrow_c_stream__(requested_schema)
        def model(): return Mine()
    """,
    "array capsule": """
        import pyarrow as pa
        class Mine:
            def __arrow_c_array__(self, requested_schema=None):
                return pa.table(DATA).to_batches()[0].__arrow_c_array__(requested_schema)
        def model(): return Mine()
    """,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_comes_back(run: Runner, name: str) -> None:
    skip_unless_installed(name)
    done = run(f"DATA = {EXPECTED!r}\n" + textwrap.dedent(TABLES[name]))
    table = done.table()
    assert table.to_pydict() == EXPECTED, done.stderr
    assert done.reply["rows"] == 3 and done.reply["warnings"] == [] and done.code == 0
    assert table.schema.metadata is None
    assert done.stderr == ""


REFUSED = {
    "None": ("def model(): pass", "`None`", "`return`"),
    "int": ("def model(): return 5", "a `int`", "pandas"),
    "str": ("def model(): return 'x'", "a `str`", "pandas"),
    "tuple": ("def model(): return ({'a': 1},)", "a `tuple`", "pandas"),
    "list of ints": ("def model(): return [1, 'x']", "a list of `int`, `str`", "pandas"),
    "mixed list": ("def model(): return [{'a': 1}, 2]", "a list of `int`", "pandas"),
    "dict of scalars": ("def model(): return {'a': 1}", "whose `a` is a `int`", "pandas"),
    "dict of texts": ("def model(): return {'a': 'text'}", "whose `a` is a `str`", "pandas"),
    "ragged dict": ("def model(): return {'a': [1], 'b': [1, 2]}", "different lengths | `a` has 1, `b` has 2", "pandas"),
    "dict of numbers": ("def model(): return {1: [1]}", "named by a `int`", "pandas"),
    "generator": ("def model(): yield {'a': 1}", "a `generator`", "collect"),
    "coroutine": ("async def model(): return {'a': [1]}", "a `coroutine`", "async def"),
    "class": ("class Thing: pass\ndef model(): return Thing()", "a `models.Thing`", "pandas"),
    "pyarrow column": ("import pyarrow as pa\ndef model(): return pa.array([1])", "a `pyarrow.Int64Array`", "pandas"),
    "pyarrow chunks": ("import pyarrow as pa\ndef model(): return pa.chunked_array([[1]])", "a `pyarrow.ChunkedArray`", "pandas"),
    "numpy": ("import numpy as np\ndef model(): return np.arange(3)", "a `numpy.ndarray`", "pandas"),
    "pandas series": ("import pandas as pd\ndef model(): return pd.Series([1])", "a `pandas.Series`", "to_frame"),
    "pandas column levels": (
        "import pandas as pd\ndef model(): return pd.DataFrame([[1]], columns=[['a'], ['b']])",
        "several levels",
        "join",
    ),
    "polars series": ("import polars as pl\ndef model(): return pl.Series([1])", "a `polars.Series`", "to_frame"),
    "duckdb connection": (
        "import duckdb\ndef model(): return duckdb.connect().execute('select 1')",
        "DuckDBPyConnection`",
        "connection.sql",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_run0106_anything_else_is_an_error_that_says_what_came_back(run: Runner, name: str) -> None:
    skip_unless_installed(name)
    code, told, hint = REFUSED[name]
    done = run(code)
    assert done.reply["code"] == "RUN0106" and done.reply["fault"] == "request"
    assert told in done.told() and hint in done.reply["hint"]
    assert done.code == 0 and done.stderr == ""


NO_COLUMNS = {
    "empty list": "def model(): return []",
    "empty dict": "def model(): return {}",
    "pyarrow": "import pyarrow as pa\ndef model(): return pa.table({})",
    "pandas": "import pandas as pd\ndef model(): return pd.DataFrame()",
    "polars": "import polars as pl\ndef model(): return pl.DataFrame()",
}


@pytest.mark.parametrize("name", NO_COLUMNS)
def test_run0107_a_table_needs_columns(run: Runner, name: str) -> None:
    skip_unless_installed(name)
    done = run(NO_COLUMNS[name])
    assert done.reply["code"] == "RUN0107" and "no columns" in done.told()


TWICE = {
    "pyarrow": "import pyarrow as pa\ndef model(): return pa.table([[1], [2]], names=['a', 'a'])",
    "pandas": "import pandas as pd\ndef model(): return pd.DataFrame([[1, 2]], columns=['a', 'a'])",
    "pandas index": "import pandas as pd\ndef model(): return pd.DataFrame({'a': [1]}).set_index('a', drop=False)",
    "duckdb": "import duckdb\ndef model(): return duckdb.sql('select 1 as a, 2 as a')",
}


@pytest.mark.parametrize("name", TWICE)
def test_run0108_column_names_are_unique(run: Runner, name: str) -> None:
    skip_unless_installed(name)
    done = run(TWICE[name])
    if name == "duckdb" and done.reply["reply"] == "table":
        assert len(set(done.table().column_names)) == 2, "this duckdb renames the second"
        return
    assert done.reply["code"] == "RUN0108" and "`a`" in done.told()


UNCONVERTIBLE = {
    "pandas": "import pandas as pd\ndef model(): return pd.DataFrame({'ok': [1, 2], 'bad': [1, 'x']})",
    "pandas objects": "import pandas as pd\ndef model(): return pd.DataFrame({'ok': [1, 2], 'bad': [object(), object()]})",
    "list": "def model(): return [{'ok': 1, 'bad': 1}, {'ok': 2, 'bad': 'x'}]",
    "dict": "def model(): return {'ok': [1], 'bad': [object()]}",
}


@pytest.mark.parametrize("name", UNCONVERTIBLE)
def test_run0109_a_column_that_cannot_be_arrow_is_named(run: Runner, name: str) -> None:
    skip_unless_installed(name)
    done = run(UNCONVERTIBLE[name])
    assert done.reply["code"] == "RUN0109" and "`bad`" in done.reply["message"], done.told()


def test_run0110_declared_columns(run: Runner) -> None:
    code = "def model(): return {'a': [1], 'c': [2]}"
    done = run(code, columns=["a", "b"])
    assert done.reply["code"] == "RUN0110"
    assert done.reply["message"] == "the result lacks `b` and also has `c`; declared are `a`, `b`"
    loose = run(code, columns=["a", "b"], strict=False)
    assert loose.table().column_names == ["a", "c"]
    assert loose.reply["warnings"] == [done.reply["message"]]
    assert run(code, columns=["c", "a"]).reply["warnings"] == []


@needs_pandas
def test_a_pandas_index_without_a_name_is_left_out_with_a_warning_if_it_says_something(run: Runner) -> None:
    done = run("import pandas as pd\ndef model(): return pd.DataFrame({'a': [1]}, index=['row'])")
    assert done.table().to_pydict() == {"a": [1]}
    assert "reset_index" in done.reply["warnings"][0]
    done = run("import pandas as pd\ndef model(): return pd.DataFrame({'k': ['x', 'x'], 'n': [1, 2], 'm': [3, 4]}).groupby(['k', 'm']).sum()")
    assert done.table().to_pydict() == {"k": ["x", "x"], "m": [3, 4], "n": [1, 2]}
    assert done.reply["warnings"] == []


def test_empty_tables_keep_their_types(run: Runner) -> None:
    done = run("import pyarrow as pa\ndef model(data): return data.slice(0, 0)", inputs={"data": numbers(10)})
    assert done.table().schema.types == [pa.int64(), pa.float64(), pa.string()]
    assert done.reply["rows"] == 0 and done.segments == [] or done.table().num_rows == 0


def test_previews(run: Runner) -> None:
    code = "def model(): return {'n': list(range(25))}"
    assert run(code).reply["preview"] is None
    head, tail = run(code, preview="head").reply["preview"], run(code, preview="tail").reply["preview"]
    assert head.splitlines()[0] == "n" and head.endswith("first 10 of 25 rows")
    assert tail.splitlines()[2] == "15" and tail.endswith("last 10 of 25 rows")


def test_a_thousand_columns(run: Runner) -> None:
    done = run("import pyarrow as pa\ndef model(data): return data.append_column('ünï çödé', data['c7'])",
               inputs={"data": pa.table({f"c{i}": [i, None] for i in range(1000)})})
    table = done.table()
    assert table.num_columns == 1001 and table["ünï çödé"].to_pylist() == [7, None]


# --- what is copied -------------------------------------------------------------------------------------------------------------


def counts(done: Done) -> tuple[int, int]:
    assert done.reply["reply"] == "table", done.reply
    return done.bytes["copied"], done.bytes["reshared"]


@pytest.mark.parametrize(
    "code",
    [
        "return data",
        "return data.select(['s', 'f'])",
        "return data.rename_columns(['x', 'y', 'z'])",
        "return data.slice(5000, 10000)",
        "return data.drop(['s'])" if version("pyarrow") < (20, 0) else "return data.drop_columns(['s'])",
        "import pyarrow as pa; return pa.concat_tables([data, data])",
        "return data.append_column('again', data['i'])",
    ],
)
def test_pyarrow_passes_columns_on_without_a_copy(run: Runner, code: str) -> None:
    done = run(f"def model(data):\n    {code}", inputs={"data": numbers()})
    copied, reshared = counts(done)
    assert copied == 0 and reshared > 100_000, done.bytes
    assert [s for s in done.segments if s[0] == OUTPUT] == []


def test_a_new_column_is_all_that_is_copied(run: Runner) -> None:
    code = "import pyarrow.compute as pc\ndef model(data): return data.append_column('new', pc.multiply(data['i'], 2))"
    done = run(code, inputs={"data": numbers()})
    assert counts(done)[0] == 160_000, done.bytes
    assert done.table()["new"].to_pylist()[:3] == [0, 2, 4]


@needs_pandas
@pytest.mark.skipif(version("pandas") < (3, 0), reason="pandas before 3 gets copies, because it writes in place")
def test_pandas_passes_numbers_and_strings_on_without_a_copy(run: Runner) -> None:
    done = run("def model(data): return data", inputs={"data": numbers()}, forms={"data": "pandas"})
    copied, reshared = counts(done)
    offsets = 8 * 20_001  # pandas reads strings with long offsets
    assert copied <= offsets and reshared > 800_000, done.bytes
    done = run("def model(data): return data[['i', 'f']]", inputs={"data": numbers()}, forms={"data": "pandas"})
    assert counts(done) == (0, 320_000), done.bytes


@needs_polars
@pytest.mark.parametrize("code", ["return data", "return data.select('f', 'i')", "return data.slice(100, 10000)"])
def test_polars_passes_numbers_on_without_a_copy(run: Runner, code: str) -> None:
    table = numbers().select(["i", "f"])
    done = run(f"def model(data):\n    {code}", inputs={"data": table}, forms={"data": "polars"})
    copied, reshared = counts(done)
    assert copied == 0 and reshared >= 160_000, done.bytes


@needs_polars
@needs_views
def test_polars_strings_are_views_and_stay_where_they_are(run: Runner) -> None:
    first = run("import polars as pl\ndef model(): return pl.DataFrame({'s': [f'a rather long string {i}' for i in range(20_000)]})")
    views = _native.Inputs(first.segments).table(first.message, None, True)
    assert read(views).schema.types == [pa.string_view()]
    assert first.table().schema.types == [pa.string()], "pyarrow gets plain strings"
    second = run("import polars as pl\ndef model(data): return data.filter(pl.col('s').str.ends_with('7'))",
                 inputs={"data": views}, forms={"data": "polars"})
    copied, reshared = counts(second)
    assert copied < 40_000 < reshared, "only the views are new"
    assert second.table().num_rows == 2_000


def test_small_columns_travel_in_the_message(run: Runner) -> None:
    done = run("def model(): return {'a': [1, 2, 3]}")
    assert done.bytes["inline"] == 24 and done.segments == []


# --- expectations ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("def model(data): return data.num_rows == 5", True),
        ("def model(data): return data.num_rows > 5", False),
        ("import numpy as np\ndef model(data): return np.bool_(False)", False),
        ("import numpy as np\ndef model(data): return (np.arange(3) < 3).all()", True),
    ],
)
def test_a_truth_value_comes_back(run: Runner, code: str, value: bool) -> None:
    done = run(code, inputs={"data": numbers(5)}, truth=True)
    assert done.reply == {"reply": "truth", "value": value}


@pytest.mark.parametrize(
    ("code", "told", "hint"),
    [
        ("def model(): return 1", "a `int`", "bool"),
        ("def model(): pass", "`None`", "bool"),
        ("def model(): return 'True'", "a `str`", "bool"),
        ("import pyarrow as pa\ndef model(): return pa.scalar(True)", "a `pyarrow.BooleanScalar`", "as_py"),
        ("import numpy as np\ndef model(): return np.arange(3) < 3", "a `numpy.ndarray`", "all()"),
    ],
)
def test_run0111_anything_else_is_no_verdict(run: Runner, code: str, told: str, hint: str) -> None:
    done = run(code, truth=True)
    assert done.reply["code"] == "RUN0111" and told in done.reply["message"] and hint in done.reply["hint"]


def test_a_failed_assert_is_a_verdict_with_its_text(run: Runner) -> None:
    done = run("def model():\n    rows = 3\n    assert rows > 5, f'only {rows} rows'\n    return True\n", truth=True)
    assert done.reply == {"reply": "truth", "value": False, "message": "only 3 rows (models.py:3)"}
    done = run("def model():\n    assert 1 > 2\n", truth=True)
    assert done.reply["message"] == "assert 1 > 2 (models.py:2)"
    assert run("def model():\n    raise ValueError('x')\n", truth=True).reply["code"] == "RUN0101"
