"""The function process, driven as its supervisor drives it: a subprocess with the channel as standard input.

Every accepted result, every refused one, every form of input, and the bytes that are copied on the way.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_native = pytest.importorskip("forebay._native", reason="the native module is not built: run `cargo xtask test`")
pa = pytest.importorskip("pyarrow")

RUNTIME = str(Path(_native.__file__).parents[1])
BOOTSTRAP = f"import sys; sys.path.insert(0, {RUNTIME!r}); from forebay._function import main; main()"
F_ADD_SEALS, ALL_SEALS = 1033, 0xF
OUTPUT = 99


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def version(package: str) -> tuple[int, ...]:
    if not has(package):
        return (0,)
    return tuple(int(part) for part in __import__(package).__version__.split(".")[:2])


needs_pandas = pytest.mark.skipif(not has("pandas"), reason="pandas is not installed")
needs_polars = pytest.mark.skipif(not has("polars"), reason="polars is not installed")
needs_duckdb = pytest.mark.skipif(not has("duckdb"), reason="duckdb is not installed")
needs_views = pytest.mark.skipif(version("pyarrow") < (16, 0), reason="this pyarrow has no string views")


@dataclass
class Done:
    """What came of a call."""

    reply: dict[str, Any]
    stdout: str
    stderr: str
    code: int
    message: bytes | None = None
    segments: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def bytes(self) -> dict[str, int]:
        return self.reply["bytes"]

    def table(self) -> Any:
        assert self.reply["reply"] == "table", self.reply
        return read(_native.Inputs(self.segments).table(self.message))

    def told(self) -> str:
        assert self.reply["reply"] == "failed", self.reply
        return " | ".join([self.reply["message"], *self.reply["causes"], self.reply["hint"] or ""])


def read(table: Any) -> Any:
    if hasattr(pa.RecordBatchReader, "from_stream"):
        return pa.RecordBatchReader.from_stream(table).read_all()
    stream = table.stream()
    return pa.RecordBatchReader._import_from_c(stream.address).read_all()


def publish(table: Any, identity: int) -> tuple[bytes, list[tuple[int, int, int]]]:
    """A table as a finished function left it: its message, and its sealed segment."""
    if not hasattr(table, "__arrow_c_stream__"):
        stream = _native.Stream()
        table.to_reader()._export_to_c(stream.address)
        table = stream
    written = _native.Output(identity, _native.Inputs()).write(table)
    if written.fd is None:
        return written.message, []
    fcntl.fcntl(written.fd, F_ADD_SEALS, ALL_SEALS)
    return written.message, [(identity, written.length, written.fd)]


class Runner:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        code: str,
        *,
        inputs: dict[str, Any] | None = None,
        forms: dict[str, str] | None = None,
        select: dict[str, list[str]] | None = None,
        values: dict[str, Any] | None = None,
        file: str = "models.py",
        function: str = "model",
        truth: bool = False,
        columns: list[str] | None = None,
        strict: bool = True,
        preview: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Done:
        inputs, forms, select = inputs or {}, forms or {}, select or {}
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(code), encoding="utf-8")
        messages, segments = [], []
        for identity, table in enumerate(inputs.values(), 1):
            message, made = publish(table, identity)
            messages.append(message)
            segments += made
        arguments = [{"is": "table", "name": name, "form": forms.get(name, "pyarrow")} for name in inputs]
        arguments += [{"is": "value", "name": name, "value": value} for name, value in (values or {}).items()]
        call = {
            "node": function,
            "segments": [{"id": identity, "length": length} for identity, length, _ in segments],
            "inputs": [{"name": name, "columns": select.get(name)} for name in inputs],
            "work": {
                "kind": "python",
                "project": str(self.folder),
                "file": file,
                "function": function,
                "arguments": arguments,
                "truth": truth,
                "columns": columns,
                "strict": strict,
            },
            "output_segment": OUTPUT,
            "preview": preview,
        }
        return self.speak(call, messages, segments, env or {})

    def speak(self, call: dict[str, Any], messages: list[bytes], segments: list[tuple[int, int, int]], env: dict[str, str]) -> Done:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", "-c", BOOTSTRAP],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **env},
        )
        theirs.close()
        with _native.Channel.from_fd(ours.detach()) as channel:
            channel.send(json.dumps(call), messages, [fd for _, _, fd in segments])
            frame = channel.receive()
            stdout, stderr = process.communicate(timeout=60)
            reply = json.loads(frame.header) if frame else {"reply": "nothing"}
            done = Done(reply, stdout.decode(), stderr.decode(), process.returncode)
            if frame and frame.blobs:
                done.message = frame.blobs[0]
                done.segments = list(segments)
                for fd in frame.fds:
                    fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
                    fd = os.dup(fd)
                    done.segments.append((OUTPUT, os.fstat(fd).st_size, fd))
            return done


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def numbers(rows: int = 20_000) -> Any:
    return pa.table(
        {
            "i": pa.array(range(rows), pa.int64()),
            "f": pa.array([float(i) for i in range(rows)]),
            "s": pa.array([f"a string of some length {i}" if i % 7 else None for i in range(rows)]),
        }
    )


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


def skip_unless_installed(name: str) -> None:
    for package in ("pandas", "polars", "duckdb"):
        if package in name and not has(package):
            pytest.skip(f"{package} is not installed")
    if "capsule" in name and version("pyarrow") < (14, 0):
        pytest.skip("this pyarrow exports no capsules")


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


# --- what a function gets ------------------------------------------------------------------------------------------------------

FORMS = {
    "pyarrow": "import pyarrow as pa\ndef model(data):\n assert type(data) is pa.Table\n return data",
    "reader": "import pyarrow as pa\ndef model(data):\n assert isinstance(data, pa.RecordBatchReader)\n return data",
    "pandas": "import pandas as pd\ndef model(data):\n assert type(data) is pd.DataFrame\n return data",
    "polars": "import polars as pl\ndef model(data):\n assert type(data) is pl.DataFrame, type(data)\n return data",
    "polars-lazy": "import polars as pl\ndef model(data):\n assert type(data) is pl.LazyFrame\n return data",
    "duckdb": "import duckdb\ndef model(data):\n assert type(data) is duckdb.DuckDBPyRelation\n return data.filter('i >= 0')",
}


@pytest.mark.parametrize("form", FORMS)
def test_an_input_comes_in_the_form_that_is_asked_for(run: Runner, form: str) -> None:
    skip_unless_installed(form)
    table = numbers()
    done = run(FORMS[form], inputs={"data": table}, forms={"data": form})
    assert done.table().to_pydict() == table.to_pydict(), done.stderr


@pytest.mark.parametrize("form", ["pandas", "polars", "duckdb"])
def test_run0112_a_form_whose_package_is_missing_names_it(run: Runner, form: str, tmp_path: Path) -> None:
    (tmp_path / f"{form}.py").write_text(f"raise ModuleNotFoundError('not installed', name={form!r})")
    done = run("def model(data): return data", inputs={"data": numbers(5)}, forms={"data": form})
    assert done.reply["code"] == "RUN0112", done.reply
    assert f"`{form}`" in done.reply["hint"] and "`data`" in done.reply["message"]


def test_run0115_a_defect_of_ours_is_told_as_such(run: Runner) -> None:
    done = run("def model(data): return data", inputs={"data": numbers(5)}, forms={"data": "parchment"})
    assert done.reply["code"] == "RUN0115" and done.reply["fault"] == "platform"
    assert "_function_inputs.py" in done.reply["traceback"]


def test_columns_are_picked_and_ordered(run: Runner) -> None:
    done = run("def model(data): return data", inputs={"data": numbers(5)}, select={"data": ["s", "i"]})
    assert done.table().column_names == ["s", "i"]
    done = run("def model(data): return data", inputs={"data": numbers(5)}, select={"data": ["nope"]})
    assert done.reply["code"] == "IPC0006" and "`nope`" in done.told()


def test_several_inputs_and_values(run: Runner) -> None:
    code = """
        def model(left, right, text, number, nothing, flag):
            return {"l": [left.num_rows], "r": [right.num_rows], "v": [repr((text, number, nothing, flag))]}
    """
    values = {"text": "größe", "number": 1.5, "nothing": None, "flag": True}
    done = run(code, inputs={"left": numbers(3), "right": numbers(4)}, values=values)
    assert done.table().to_pydict() == {"l": [3], "r": [4], "v": [repr(("größe", 1.5, None, True))]}


@needs_pandas
@pytest.mark.parametrize(
    "change",
    [
        "data.loc[data.i < 2, 'f'] = 0.5",
        "data['f'] += 1",
        "data.iloc[0, 0] = 9",
        "data.at[0, 'i'] = 7",
        "data.loc[1, 's'] = 'new'",
        "data.fillna({'s': ''}, inplace=True)",
        "data.sort_values('f', ascending=False, inplace=True)",
    ],
)
def test_pandas_code_may_write_into_its_frame_and_nobody_else_sees_it(run: Runner, change: str) -> None:
    table = numbers()
    code = f"def model(data):\n    {change}\n    return data"
    done = run(code, inputs={"data": table}, forms={"data": "pandas"})
    data = table.to_pandas()
    exec(change)
    expected = pa.Table.from_pandas(data, preserve_index=False)
    assert done.table().to_pydict() == expected.to_pydict(), done.reply
    [segment] = [s for s in done.segments if s[0] == 1]
    message, _ = publish(table, 1)
    assert read(_native.Inputs([segment]).table(message)).to_pydict() == table.to_pydict()


def test_run0114_writing_into_an_input_array_is_an_error_with_advice(run: Runner) -> None:
    pytest.importorskip("numpy")
    code = "def model(data):\n    data['f'].chunk(0).to_numpy()[0] = 1\n    return data"
    done = run(code, inputs={"data": numbers()})
    assert done.reply["code"] == "RUN0114" and "copy" in done.reply["hint"]


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


# --- user code that fails -------------------------------------------------------------------------------------------------------


def test_run0101_a_traceback_shows_the_users_frames_only(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("import json\ndef parse(text):\n    return json.loads(text)\n")
    done = run("import helper\ndef model():\n    return helper.parse('{')\n")
    assert done.reply["code"] == "RUN0101" and done.reply["fault"] == "request"
    trace = done.reply["traceback"]
    assert trace.startswith(
        'Traceback (most recent call last):\n  File "models.py", line 3, in model\n    return helper.parse(\'{\')\n'
        '  File "helper.py", line 3, in parse\n    return json.loads(text)\n    … 3 calls inside Python\n'
    ), trace
    assert trace.splitlines()[-1].startswith("json.decoder.JSONDecodeError: ")
    assert done.reply["causes"] == [trace.splitlines()[-1]]
    assert str(tmp_path) not in trace and "_function" not in trace
    assert done.code == 0 and done.stderr == ""


def test_chained_exceptions_are_told_in_order(run: Runner) -> None:
    done = run("""
        def model():
            try:
                {}["x"]
            except KeyError as error:
                raise ValueError("no x") from error
    """)
    trace = done.reply["traceback"]
    assert trace.index("KeyError: 'x'") < trace.index("direct cause") < trace.index("ValueError: no x")


def test_deep_recursion_is_told_briefly(run: Runner) -> None:
    done = run("def model():\n    return model()\n")
    assert "RecursionError" in done.told() and "more calls" in done.reply["traceback"]
    assert len(done.reply["traceback"].splitlines()) < 80


def test_run0102_files_that_do_not_load(run: Runner) -> None:
    done = run("def model(:\n    pass\n")
    assert done.reply["code"] == "RUN0102"
    assert 'File "models.py", line 1' in done.reply["traceback"] and "SyntaxError" in done.told()
    done = run("x = 1 / 0\ndef model(): pass\n")
    assert done.reply["code"] == "RUN0102"
    assert 'File "models.py", line 1, in <module>' in done.reply["traceback"] and "_function" not in done.reply["traceback"]


@pytest.mark.parametrize("code", ["import sklearn.linear_model\ndef model(): pass", "def model():\n    import sklearn\n"])
def test_run0103_missing_packages_are_named_as_pip_knows_them(run: Runner, code: str) -> None:
    if has("sklearn"):
        pytest.skip("scikit-learn is installed")
    done = run(code)
    assert done.reply["code"] == "RUN0103"
    assert done.reply["hint"] == "package `scikit-learn` is not in this model's environment: add it to `@forebay.python(pip=…)`"


def test_run0104_the_function_is_not_there(run: Runner) -> None:
    done = run("def other(): pass")
    assert done.reply["code"] == "RUN0104" and "`model` in `models.py`" in done.told()
    done = run("def model(): pass\nmodel = 5")
    assert "a `int` of that name" in done.told()


@pytest.mark.parametrize(("call", "told"), [("sys.exit(3)", "`exit` with `3`"), ("exit_()", "`exit`"), ("quit()", "`exit`")])
def test_run0105_exit_is_an_error(run: Runner, call: str, told: str) -> None:
    done = run(f"import sys\nexit_ = sys.exit\ndef model():\n    {call}\n")
    if call == "quit()" and done.reply["code"] == "RUN0101":
        pytest.skip("no `quit` without the site module")
    assert done.reply["code"] == "RUN0105" and told in done.told() and done.code == 0


def test_run0113_a_result_that_fails_while_it_is_read(run: Runner) -> None:
    done = run("""
        import pyarrow as pa
        def batches():
            yield pa.record_batch([pa.array([1])], names=["a"])
            raise ValueError("no more")
        def model():
            return pa.RecordBatchReader.from_batches(pa.schema([("a", pa.int64())]), batches())
    """)
    assert done.reply["code"] == "RUN0113" and "no more" in done.told()
    done = run("""
        import pyarrow as pa
        def model():
            return pa.Table.from_arrays([pa.array([1, None])], schema=pa.schema([pa.field("a", pa.int64(), nullable=False)]))
    """)
    assert done.reply["code"] == "RUN0113" and "`a`" in done.told().replace("'a'", "`a`"), done.told()


@needs_polars
def test_a_lazy_frame_that_fails_is_the_users_error(run: Runner) -> None:
    done = run("import polars as pl\ndef model(): return pl.LazyFrame({'a': [1]}).select('b')")
    assert done.reply["code"] == "RUN0101" and "ColumnNotFoundError" in done.told()


@needs_duckdb
def test_a_relation_that_fails_is_the_users_error(run: Runner) -> None:
    done = run("import duckdb\ndef model(): return duckdb.sql(\"select cast('x' || range as int) as a from range(3)\")")
    assert done.reply["code"] == "RUN0101" and "Could not convert" in done.told()


def test_errors_whose_text_fails_are_told_all_the_same(run: Runner) -> None:
    done = run("class Odd(Exception):\n    def __str__(self): raise ValueError\ndef model(): raise Odd()\n")
    assert done.reply["code"] == "RUN0101" and "Odd" in done.told()


# --- the process ----------------------------------------------------------------------------------------------------------------


def test_prints_arrive_and_standard_input_is_empty(run: Runner) -> None:
    done = run("""
        import sys
        print("at import, größe")
        def model():
            print("in the call", end="")
            print("to stderr", file=sys.stderr)
            return {"read": [sys.stdin.read()]}
    """)
    assert done.stdout == "at import, größe\nin the call" and done.stderr == "to stderr\n"
    assert done.table().to_pydict() == {"read": [""]}


def test_lines_arrive_while_the_function_runs(run: Runner, tmp_path: Path) -> None:
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    (tmp_path / "models.py").write_text(f"def model():\n    print('live')\n    open({str(fifo)!r}).read()\n    return {{'a': [1]}}\n")
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, "-I", "-c", BOOTSTRAP], stdin=theirs, stdout=subprocess.PIPE)
    theirs.close()
    with _native.Channel.from_fd(ours.detach()) as channel:
        work = {"kind": "python", "project": str(tmp_path), "file": "models.py", "function": "model", "arguments": []}
        work.update(truth=False, columns=None, strict=True)
        call = {"node": "m", "segments": [], "inputs": [], "work": work, "output_segment": 1, "preview": None}
        channel.send(json.dumps(call))
        assert process.stdout is not None
        assert process.stdout.readline() == b"live\n", "before the function may go on"
        fifo.write_text("go")
        assert json.loads(channel.receive().header)["reply"] == "table"
        assert channel.receive() is None
    assert process.wait() == 0


def test_the_module_is_importable_and_in_subfolders_its_neighbours_too(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "top.py").write_text("TOP = 1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "near.py").write_text("NEAR = 2")
    done = run("""
        import sys, forebay, near, top
        @forebay.model()
        @forebay.python("3.11", pip={"pandas": "2.2"})
        def model():
            return {"n": [near.NEAR + top.TOP], "module": [sys.modules["things"].__name__], "file": [forebay.__file__]}
    """, file="sub/things.py")
    [row] = done.table().to_pylist()
    assert (row["n"], row["module"]) == (3, "things") and row["file"].startswith(RUNTIME)
    assert not (tmp_path / "sub" / "__pycache__").exists()


def test_exit_handlers_run_and_warm_modules_are_imported_before_the_call(run: Runner) -> None:
    code = "import atexit, sys\natexit.register(print, 'bye')\nWARM = 'colorsys' in sys.modules\ndef model(): return {'warm': [WARM]}"
    done = run(code, env={"FOREBAY_WARM": "no_such_module,colorsys"})
    assert done.table().to_pydict() == {"warm": [True]} and done.stdout == "bye\n"


def test_a_forked_child_that_returns_does_not_reply(run: Runner) -> None:
    done = run("""
        import os
        def model():
            pid = os.fork()
            if pid == 0:
                return {"who": ["child"]}
            os.waitpid(pid, 0)
            return {"who": ["parent"]}
    """)
    assert done.table().to_pydict() == {"who": ["parent"]}


def test_processes_and_threads_of_the_function_work(run: Runner) -> None:
    done = run("""
        import multiprocessing
        from concurrent.futures import ThreadPoolExecutor
        def square(n): return n * n
        def model(data):
            with ThreadPoolExecutor(2) as pool:
                a = list(pool.map(square, data["i"].to_pylist()))
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                b = pool.map(square, data["i"].to_pylist())
            return {"a": a, "b": b}
    """, inputs={"data": numbers(3)})
    assert done.table().to_pydict() == {"a": [0, 1, 4], "b": [0, 1, 4]}


@pytest.mark.parametrize(("ending", "code"), [("os._exit(5)", 5), ("os.kill(os.getpid(), 9)", -9)])
def test_a_process_that_ends_without_a_word_closes_the_channel(run: Runner, ending: str, code: int) -> None:
    done = run(f"import os\ndef model():\n    print('so far', flush=True)\n    {ending}\n")
    assert done.reply == {"reply": "nothing"} and done.code == code and done.stdout == "so far\n"


def test_without_a_call_the_process_ends_quietly() -> None:
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, "-I", "-c", BOOTSTRAP], stdin=theirs, stderr=subprocess.PIPE)
    theirs.close()
    ours.close()
    assert process.communicate(timeout=60)[1] == b"" and process.returncode == 0


def test_inputs_and_published_results_cannot_be_changed_by_a_function(run: Runner) -> None:
    table = numbers()
    done = run("""
        import ctypes, mmap, os, re
        def model(data):
            address = data["i"].chunk(0).buffers()[1].address
            libc = ctypes.CDLL(None, use_errno=True)
            page = address & ~4095
            said = [libc.mprotect(ctypes.c_void_p(page), 4096, 3)]
            for line in open("/proc/self/maps"):
                if "forebay-segment" in line:
                    low, high = line.split()[0].split("-")
                    try:
                        fd = os.open(f"/proc/self/map_files/{low}-{high}", os.O_RDWR)
                        os.pwrite(fd, b"X" * 100, 0)
                        said.append(0)
                    except OSError:
                        said.append(-1)
                    break
            return {"said": said}
    """, inputs={"data": table})
    assert done.table().to_pydict() == {"said": [-1, -1]}
    [segment] = [s for s in done.segments if s[0] == 1]
    with pytest.raises(PermissionError):
        os.pwrite(segment[2], b"X", 0)


def test_nothing_of_ours_stays_open_in_children_of_the_function(run: Runner) -> None:
    done = run("""
        import os, subprocess, sys
        def model(data):
            listing = subprocess.run([sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))"],
                                     capture_output=True, text=True, close_fds=False)
            return {"fds": [listing.stdout]}
    """, inputs={"data": numbers()})
    [text] = done.table()["fds"].to_pylist()
    assert len(re.findall(r"\d+", text)) <= 4, text


def test_waiting_for_a_frame_ends_with_ctrl_c() -> None:
    ours, theirs = socket.socketpair()
    code = f"""
import sys; sys.path.insert(0, {RUNTIME!r})
from forebay._native import Channel
channel = Channel.from_stdin()
try:
    channel.send("ready")
    channel.receive()
except KeyboardInterrupt:
    print("interrupted")
"""
    process = subprocess.Popen([sys.executable, "-I", "-c", code], stdin=theirs, stdout=subprocess.PIPE)
    theirs.close()
    with _native.Channel.from_fd(ours.detach()) as channel:
        assert channel.receive().header == "ready"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == b"interrupted\n"


def test_channels_raise_the_errors_python_people_expect(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _native.Channel.connect(str(tmp_path / "nobody.sock"))
    ours, theirs = socket.socketpair()
    channel = _native.Channel.from_fd(ours.detach())
    theirs.close()
    assert channel.receive() is None
    with pytest.raises(ConnectionError):
        channel.send("{}")
    channel.close()
    channel.close()
    with pytest.raises(ConnectionError):
        channel.send("{}")


def test_hostile_messages_are_errors_not_crashes() -> None:
    message, segments = publish(numbers(1000), 1)
    inputs = _native.Inputs(segments)
    for cut in (0, 10, len(message) // 2):
        with pytest.raises(_native.Error) as caught:
            inputs.table(message[:cut])
        assert caught.value.args[0] == "IPC0001"
    with pytest.raises(_native.Error) as caught:
        _native.Inputs([(1, 1 << 40, segments[0][2])])
    assert caught.value.args[0] == "IPC0102"
    with pytest.raises(_native.Error) as caught:
        _native.Inputs([]).table(message)
    assert caught.value.args[0] == "IPC0005"


def test_types_survive_the_round_trip(run: Runner) -> None:
    import datetime
    import decimal

    day, moment = datetime.date(2020, 2, 29), datetime.datetime(2020, 2, 29, 12, 30, 0, 5)
    columns = {
        "bool": pa.array([True, None, False]),
        "null": pa.nulls(3),
        "decimal": pa.array([decimal.Decimal("1.23"), None, decimal.Decimal("-9.99")], pa.decimal128(10, 2)),
        "date": pa.array([day, None, day]),
        "time": pa.array([datetime.time(1, 2, 3), None, None]),
        "ts": pa.array([moment, None, moment], pa.timestamp("us")),
        "tz": pa.array([moment, None, moment], pa.timestamp("ns", tz="Europe/Berlin")),
        "duration": pa.array([datetime.timedelta(1), None, None]),
        "binary": pa.array([b"\x00\xff", None, b""]),
        "large": pa.array(["x", None, "y"], pa.large_string()),
        "list": pa.array([[1, None], None, []], pa.list_(pa.int16())),
        "struct": pa.array([{"a": 1, "b": ["x"]}, None, {"a": None, "b": None}]),
        "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())),
        "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
        "fixed": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
        **{str(t): pa.array([1, None, 3], t) for t in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.float32())},
    }
    table = pa.table(columns)
    for code in ("return data", "return data.slice(1)", "return pa.concat_tables([data] * 1000)"):
        done = run(f"import pyarrow as pa\ndef model(data):\n    {code}", inputs={"data": table})
        expected = {"return data": table, "return data.slice(1)": table.slice(1)}.get(code, pa.concat_tables([table] * 1000))
        back = done.table()
        assert back.schema == expected.schema
        assert back.to_pylist() == expected.to_pylist()
        back.validate(full=True)
