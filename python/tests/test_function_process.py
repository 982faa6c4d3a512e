"""What a function gets, how its failures are told, and how its process behaves."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from function_process import (
    _native,
    BOOTSTRAP,
    has,
    needs_duckdb,
    needs_pandas,
    needs_polars,
    numbers,
    pa,
    publish,
    read,
    run,
    Runner,
    RUNTIME,
    skip_unless_installed,
)

__all__ = ["run"]

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


@needs_duckdb
def test_a_relation_of_a_closed_connection_comes_with_advice(run: Runner) -> None:
    done = run("import duckdb\ndef model():\n    with duckdb.connect() as c:\n        return c.sql('select 1 as a')\n")
    assert done.reply["code"] == "RUN0101" and "fetch_arrow_table" in done.reply["hint"], done.told()


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
