"""User code that misbehaves in ways short of failing: it must neither hang nor harm anything but itself."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from conftest import Lab, node

STORED = '@forebay.model(materialization_strategy="REPLACE")\n'


def test_floods_of_output(lab: Lab) -> None:
    """More than any pipe holds, without line ends, and not text: the run goes on and the end of it is kept."""
    project = lab.project(
        STORED
        + """
def flood():
    import sys
    for n in range(50_000):
        print("line", n)
    sys.stdout.buffer.write(b"\\xff\\xfe no text \\x00\\x1b[31m" + b"\\n")
    sys.stdout.write("x" * 5_000_000)
    sys.stdout.flush()
    print()
    print("the last words")
    return pa.table({"x": [1]})
"""
    )
    done = lab.run(project).ok()
    assert lab.rows("SELECT x FROM flood") == [{"x": 1}]
    assert "line 49999" in done.err and "no text" in done.err
    assert "the last words" in lab.forebay("job", "logs", done.json["job_id"]).ok().out


def test_standard_input_is_empty(lab: Lab) -> None:
    body = STORED + "def reads():\n    import sys\n    return {'read': [sys.stdin.read()], 'fd': [__import__('os').read(0, 10)]}\n"
    lab.run(lab.project(body)).ok()
    assert lab.rows("SELECT * FROM reads") == [{"read": "", "fd": b""}]


@pytest.mark.parametrize("body", ["os.write(0, b'garbage' * 100)", "os.close(0)", "os.closerange(0, 1000)", "os.dup2(1, 0)"])
def test_file_descriptors_are_not_ours_to_lose(lab: Lab, body: str) -> None:
    """Whatever a function does to its descriptors, it succeeds or fails; it does not hang and kills nobody else."""
    project = lab.project(STORED + f"def t():\n    import os\n    try:\n        {body}\n    except OSError:\n        pass\n    return {{'x': [1]}}\n")
    done = lab.run(project)
    assert done.code in (0, 1, 3), str(done)
    assert lab.functions() == []
    assert (lab.tables() == ["default.t"]) == (done.code == 0)


@pytest.mark.parametrize(
    "body",
    [
        "raise KeyboardInterrupt",
        "class Odd(Exception):\n        def __str__(self):\n            raise RuntimeError('no words')\n    raise Odd",
        "raise ValueError('\\ud800 lone surrogate \\x00')",
        "raise type('Größe', (Exception,), {})('ü' * 100_000)",
        "def deeper(n):\n        return deeper(n + 1)\n    deeper(0)",
        "raise ExceptionGroup('several', [ValueError('one'), TypeError('two')])",
        "import sys; sys.excepthook = None; sys.stderr = None; sys.stdout = None; raise ValueError('x')",
        "import builtins; builtins.print = builtins.repr = None; raise ValueError('x')",
        "import threading; threading.Thread(target=lambda: threading.Event().wait(), daemon=False).start(); raise ValueError('x')",
    ],
)
def test_odd_exceptions(lab: Lab, body: str) -> None:
    failed = lab.run(lab.project(STORED + f"def t():\n    {body}\n")).failed(1)
    assert node(failed.json, "t")["status"] == "failed" and failed.json["error"]["code"]
    assert lab.tables() == [] and lab.functions() == []


@pytest.mark.parametrize("daemon", [False, True])
def test_a_thread_left_behind_does_not_keep_the_function(lab: Lab, daemon: bool) -> None:
    gate = lab.gate()
    body = f"""
def t():
    import threading
    threading.Thread(target=lambda: {gate.code}, daemon={daemon}).start()
    return {{"x": [1]}}
"""
    lab.run(lab.project(STORED + body)).ok()
    assert lab.rows("SELECT x FROM t") == [{"x": 1}] and lab.functions() == []


def test_functions_may_fork(lab: Lab) -> None:
    body = """
def t():
    import multiprocessing, os
    child = os.fork()
    if child == 0:
        os._exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return {"code": [code], "sum": [sum(pool.map(abs, range(100)))]}
"""
    lab.run(lab.project(STORED + body)).ok()
    assert lab.rows("SELECT * FROM t") == [{"code": 7, "sum": 4950}]


def test_a_forked_child_that_returns_is_not_a_second_result(lab: Lab) -> None:
    body = "def t():\n    import os\n    pid = os.fork()\n    return {'x': [1 if pid else 2]}\n"
    done = lab.run(lab.project(STORED + body))
    assert done.code in (0, 1), str(done)
    if done.code == 0:
        assert lab.query("SELECT x FROM t").num_rows == 1
    assert lab.functions() == []


def test_a_memory_limit(lab: Lab) -> None:
    body = """
@forebay.resources(memory="300M")
def greedy():
    hoard = []
    while True:
        hoard.append(bytearray(50_000_000))
"""
    failed = lab.run(lab.project(STORED + body)).failed(1)
    assert node(failed.json, "greedy")["status"] == "failed" and lab.functions() == []
    lab.run(lab.project(STORED + "def t():\n    return {'x': [1]}\n")).ok()


BAD_TABLES = {
    "a column twice": "pa.table([[1], [2]], names=['x', 'x'])",
    "an empty column name": "pa.table({'': [1]})",
    "columns of unequal length": "{'x': [1, 2], 'y': [1]}",
    "mixed types": "{'x': [1, 'a']}",
    "an object nobody knows": "{'x': [object()]}",
    "a scalar column": "{'x': 1}",
    "a list of numbers": "[1, 2]",
    "an empty list": "[]",
    "an empty dict": "{}",
    "text": "'x'",
    "a generator": "(row for row in [{'x': 1}])",
    "a struct without fields": "pa.table({'x': pa.array([{}], pa.struct([]))})",
    "a duration": "pa.table({'x': pa.array([1], pa.duration('s'))})",
    "a wrong capsule": "type('T', (), {'__arrow_c_stream__': lambda self, requested_schema=None: 1})()",
    "a capsule that raises": "type('T', (), {'__arrow_c_stream__': lambda self, requested_schema=None: 1 / 0})()",
}


@pytest.mark.parametrize("result", BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_results_that_are_no_tables(lab: Lab, result: str) -> None:
    failed = lab.run(lab.project(STORED + f"def odd():\n    return {result}\n")).failed(1)
    assert failed.json["error"]["code"][:3] in ("RUN", "LAK", "IPC") and "odd" in failed.err, str(failed)
    assert failed.json["error"]["fault"] == "request", str(failed)
    assert lab.tables() == []


def test_a_reader_that_breaks_half_way(lab: Lab) -> None:
    body = """
def t():
    def batches():
        yield pa.record_batch({"x": [1]})
        raise ValueError("half way")
    return pa.RecordBatchReader.from_batches(pa.schema([("x", pa.int64())]), batches())
"""
    failed = lab.run(lab.project(STORED + body)).failed(1)
    assert "half way" in failed.err and lab.tables() == []


def test_project_files_may_change_while_they_run(lab: Lab) -> None:
    """What runs is what was planned."""
    gate = lab.gate()
    source = {
        "models.py": f"""
import forebay
@forebay.model()
def first():
    {gate.code}
    return {{"x": [1]}}

{STORED}
def second(data=forebay.Model("first")):
    import helper
    return {{"x": [helper.VALUE]}}
""",
        "helper.py": "VALUE = 'as planned'\n",
    }
    project = lab.project(source)
    run = lab.start_run(project)
    gate.wait()
    (project / "helper.py").write_text("VALUE = 'changed'\n")
    (project / "models.py").unlink()
    gate.open()
    run.wait().ok()
    assert lab.rows("SELECT x FROM second") == [{"x": "as planned"}]


def test_local_modules_named_like_others(lab: Lab) -> None:
    """A `json.py` or `random.py` of the project breaks the project's own imports at most, not the runner."""
    source = {
        "models.py": "import forebay\n\n" + STORED + "def t():\n    return [{'x': 1}]\n",
        "random.py": "raise RuntimeError('not the real one')\n",
        "types.py": "raise RuntimeError('not the real one')\n",
        "numpy.py": "raise RuntimeError('not the real one')\n",
    }
    done = lab.run(lab.project(source))
    assert done.code == 0 or "not the real one" in done.err, str(done)


def test_many_models(lab: Lab) -> None:
    """A wide and deep project: all of it, once each."""
    first = "@forebay.model()\ndef m0():\n    print('once m0')\n    return {'n': [0]}\n\n"
    rest = "".join(
        f"@forebay.model()\ndef m{n}(a=forebay.Model('m{(n - 1) // 2}'), b=forebay.Model('m{n - 1}')):\n"
        f"    print('once m{n}')\n    return {{'n': [a['n'][0].as_py() + b['n'][0].as_py() + 1]}}\n\n"
        for n in range(1, 25)
    )
    last = STORED + "def final(data=forebay.Model('m24')):\n    return data\n"
    done = lab.run(lab.project("import forebay\n" + first + rest + last)).ok()
    numbers = [0]
    for n in range(1, 25):
        numbers.append(numbers[(n - 1) // 2] + numbers[n - 1] + 1)
    assert lab.rows("SELECT n FROM final") == [{"n": numbers[24]}]
    logs = [json.loads(line) for line in lab.forebay("job", "logs", done.json["job_id"], "-o", "json").ok().out.splitlines()]
    assert sorted(line["line"] for line in logs if line["line"].startswith("once")) == sorted(f"once m{n}" for n in range(25))


def test_a_failure_stops_its_siblings(lab: Lab) -> None:
    """While one model fails another is still busy: it is ended, and nothing waits for it."""
    gate = lab.gate()
    project = lab.project(
        f"""
        @forebay.model()
        def busy():
            {gate.code}
            open({str(lab.folder / "gates/never")!r}, "w").close()
            return {{"x": [1]}}

        @forebay.model()
        def failing():
            open({str(lab.folder / "gates/gate.arrived")!r}, "w").close()
            raise ValueError("stop")
        """
    )
    failed = lab.run(project).failed(1)
    assert node(failed.json, "busy")["status"] == "cancelled"
    assert node(failed.json, "failing")["status"] == "failed" and "ValueError: stop" in failed.err
    assert lab.functions() == [] and not (lab.folder / "gates/never").exists()


def test_large_strings_and_long_rows(lab: Lab) -> None:
    body = "def t():\n    return pa.table({'s': ['x' * 50_000_000, None, 'ü' * 10_000_000]})\n"
    lab.run(lab.project(STORED + body)).ok()
    got = lab.query("SELECT length(s) AS n FROM t ORDER BY n")
    assert got["n"].cast(pa.int64()).to_pylist() == [10_000_000, 50_000_000, None]
