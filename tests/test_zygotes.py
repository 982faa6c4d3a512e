"""Warm interpreters: what they save, what they must not share, and what happens when one goes wrong."""

from __future__ import annotations

import json
import os
import select
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import wheels
from conftest import CACHE, PATIENCE_S, Lab, descendants, name, node

STORED = '@forebay.model(materialization_strategy="REPLACE")\n'

#: What a function knows of its process.
SELF = STORED + """def out():
    import json, os, random, sys
    status = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
    return [{
        "name": open("/proc/self/comm").read().strip(),
        "fds": json.dumps(sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}"))),
        "random": random.random(),
        "environment": json.dumps(dict(os.environ)),
        "here": os.getcwd(),
        "threads": int(status["Threads"]),
        "shared": sum(1 for line in open("/proc/self/maps") if line.split()[1][3] == "s" and "memfd" not in line),
        "numbers": json.dumps(sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit())),
    }]
"""


@pytest.fixture
def own(lab: Lab, tmp_path: Path) -> Lab:
    """A lab with environments of its own: what is learned about them is the test's."""
    lab.environment["FOREBAY_CACHE"] = str(tmp_path / "cache")
    return lab


@pytest.fixture
def index(own: Lab, tmp_path: Path) -> Path:
    """A folder of packages, the first that is looked into."""
    folder = tmp_path / "index"
    folder.mkdir()
    own.environment["UV_FIND_LINKS"] = str(folder)
    return folder


def in_zygote(text: str) -> str:
    """A module that does something only where it is imported by a zygote."""
    return f"if open('/proc/self/comm').read().strip() == 'forebay-zygote':\n    {text}\nWORD = 'fine'\n"


def using(module: str, package: str) -> str:
    """A project's only function, which uses that module."""
    return (
        f"import forebay\n\n{STORED}@forebay.python('3.11', pip={{'{package}': ''}})\n"
        f"def out():\n    import {module}\n    return [{{'word': {module}.WORD, 'name': open('/proc/self/comm').read().strip()}}]\n"
    )


def ready(lab: Lab) -> list[dict[str, Any]]:
    return [zygote for zygote in lab.warm() if zygote["state"] == "ready"]


def test_functions_are_forked_and_confined_as_ever(lab: Lab) -> None:
    project = lab.project(SELF)
    lab.environment["SECRET"] = "of the daemon"
    rows = []
    for _ in range(3):
        lab.run(project).ok()
        rows += lab.rows("SELECT * FROM out")
    [zygote] = ready(lab)
    assert zygote["forks"] >= 3 and "pyarrow" in zygote["modules"]
    assert {row["name"] for row in rows} == {"forebay-call"}
    assert len({row["random"] for row in rows}) == 3
    for row in rows:
        # Standard input, output, error, the channel, and the folder that is being listed.
        fds = json.loads(row["fds"])
        assert len(fds) <= 6 and not any("ns" in fd or "/proc" in fd for fd in fds), fds
        assert "SECRET" not in row["environment"] and "/projects/" in row["here"]
        # The first process and the function; the one between them has gone.
        assert json.loads(row["numbers"]) == [1, 3]
    assert lab.functions() == []


def test_numbers_are_drawn_anew_in_each_function(lab: Lab) -> None:
    draw = STORED + "def {0}():\n    import random\n    import numpy as np\n    return [{{'a': random.random(), 'b': float(np.random.rand())}}]\n"
    with_numpy = "@forebay.python('3.11', pip={'numpy': ''})\n"
    both = lab.project("import numpy\n" + with_numpy + draw.format("one") + with_numpy + draw.format("two"))
    lab.run(both).ok()
    lab.run(both).ok()
    one, two = lab.rows("SELECT * FROM one")[0], lab.rows("SELECT * FROM two")[0]
    assert one["a"] != two["a"] and one["b"] != two["b"]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ends the process"),
        ("import os; os._exit(0)", "ends the process"),
        ("raise ValueError('no')", "raises ValueError"),
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "a Python thread"),
        ("import mmap; memory = mmap.mmap(-1, 4096)", "its children would share"),
        ("import os; pipe = os.pipe()", "open"),
    ],
)
def test_a_module_that_no_zygote_can_have_is_learned(own: Lab, index: Path, what: str, why: str) -> None:
    """It is imported by each function then; the others are still there warm."""
    wheels.wheel(index, "fbt_bad", {"bad.py": in_zygote(what)})
    project = own.project({"models.py": using("bad", "fbt_bad")})
    own.run(project).ok()
    assert own.rows("SELECT word FROM out") == [{"word": "fine"}]
    [check] = [check for check in own.json("doctor")["checks"] if check["name"] == "warm starts"]
    assert "`bad`" in check["found"] and why in check["found"], check
    own.run(project).ok()
    own.run(project).ok()
    [zygote] = ready(own)
    assert "bad" not in zygote["modules"] and "pyarrow" in zygote["modules"]
    assert own.rows("SELECT * FROM out") == [{"word": "fine", "name": "forebay-call"}]


def test_a_module_that_hangs_in_a_zygote_holds_up_nothing(own: Lab, index: Path) -> None:
    wheels.wheel(index, "fbt_hangs", {"hangs.py": in_zygote("import threading; threading.Event().wait()")})
    project = own.project({"models.py": using("hangs", "fbt_hangs")})
    own.run(project).ok()
    assert own.rows("SELECT word FROM out") == [{"word": "fine"}]
    for process in descendants(own.daemon()):
        if name(process) == "forebay-zygote":
            gone = os.pidfd_open(process)
            assert select.select([gone], [], [], PATIENCE_S)[0], "it is not given up"
            os.close(gone)
    own.run(project).ok()
    own.run(project).ok()
    assert "hangs" in own.json("doctor")["checks"].__str__()
    assert own.rows("SELECT * FROM out") == [{"word": "fine", "name": "forebay-call"}]


def test_a_zygote_that_is_killed_is_missed_by_nobody(lab: Lab) -> None:
    gate = lab.gate()
    waiting = lab.project(STORED + f"def patient():\n    {gate.code}\n    return {{'x': [1]}}\n", "patient")
    quick = lab.project(STORED + "def t():\n    return {'x': [1]}\n")
    lab.run(quick).ok()
    run = lab.start_run(waiting)
    [patient] = gate.wait()
    assert name(patient) == "forebay-call"
    for process in descendants(lab.daemon()):
        if name(process) == "forebay-zygote":
            os.kill(process, signal.SIGKILL)
    for _ in range(3):
        lab.run(quick).ok()
    assert lab.rows("SELECT x FROM t") == [{"x": 1}]
    gate.open()
    run.wait().ok()


def test_what_a_function_does_to_its_interpreter_is_gone_with_it(lab: Lab) -> None:
    """Modules, their contents, the environment, files of `/tmp`, the folder, limits, signals."""
    source = STORED + """def out():
    import json, os, resource, signal, sys
    seen = [os.path.exists("/tmp/left"), hasattr(json, "left"), "left" in os.environ, "left" in sys.modules,
            resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 77, signal.getsignal(signal.SIGTERM) == signal.SIG_IGN]
    open("/tmp/left", "w").close()
    json.left = json
    sys.modules["left"] = json
    os.environ["left"] = "1"
    resource.setrlimit(resource.RLIMIT_NOFILE, (77, 77))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return [{"seen": str(seen)}]
"""
    project = lab.project(source)
    for _ in range(4):
        lab.run(project).ok()
        assert lab.rows("SELECT seen FROM out") == [{"seen": str([False] * 6)}]


def test_another_project_or_another_limit_gets_nothing_that_was_meant_for_the_first(lab: Lab) -> None:
    tell = STORED + "{limit}def out():\n    import os, resource\n    return [{{'files': str(sorted(os.listdir('.'))), 'data': resource.getrlimit(resource.RLIMIT_DATA)[0], 'word': '{word}'}}]\n"
    one, two = lab.project(tell.format(limit="", word="one"), "one"), lab.project(tell.format(limit="", word="two"), "two")
    limited = lab.project(tell.format(limit="@forebay.resources(memory='300MiB')\n", word="limited"), "limited")
    lab.run(one).ok()
    for project, word in [(one, "one"), (two, "two"), (one, "one"), (limited, "limited"), (limited, "limited")]:
        lab.run(project).ok()
        [row] = lab.rows("SELECT * FROM out")
        assert row["word"] == word
        assert (row["data"] == 300 << 20) == (word == "limited"), row


LIBRARIES = {
    "pandas": "import pandas as pd\n    total = int(pd.DataFrame({'k': [1, 1, 2] * 50000, 'v': range(150000)}).groupby('k')['v'].sum().sum())",
    "polars": "import polars as pl\n    frame = pl.DataFrame({'k': [1, 1, 2] * 50000, 'v': list(range(150000))})\n    total = int(frame.lazy().group_by('k').agg(pl.col('v').sum()).collect()['v'].sum())",
    "duckdb": "import duckdb\n    total = int(duckdb.sql('SELECT sum(range) FROM range(150000)').fetchall()[0][0])",
    "pyarrow": "import pyarrow as pa, pyarrow.compute as pc, pyarrow.dataset\n    table = pa.table({'k': [1, 1, 2] * 50000, 'v': list(range(150000))})\n    total = sum(table.group_by('k').aggregate([('v', 'sum')])['v_sum'].to_pylist())",
    "numpy": "import numpy as np\n    left = np.ones((400, 400))\n    total = int((left @ left).sum() / 400 / 400 / 400 * 11249925000)",
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_work_after_the_fork_with_all_their_threads(lab: Lab, library: str) -> None:
    """Their pools start in the child; what an import has started in the zygote is not there, and not missed."""
    body = LIBRARIES[library]
    models = "".join(
        f"{STORED}@forebay.python('3.11', pip={{'{library}': ''}})\n@forebay.resources(timeout=120)\ndef out_{n}():\n    {body}\n"
        "    return [{'total': total, 'name': open('/proc/self/comm').read().strip()}]\n\n"
        for n in range(4)
    )
    project = lab.project({"models.py": "import forebay\n\n" + models})
    lab.run(project).ok()
    lab.run(project).ok()
    for n in range(4):
        assert lab.rows(f"SELECT * FROM out_{n}") == [{"total": 11249925000, "name": "forebay-call"}]


@pytest.mark.parametrize("library", ["polars", "pandas", "duckdb", "pyarrow"])
def test_what_is_made_after_the_fork_is_shared_all_the_same(lab: Lab, library: str) -> None:
    """An allocator that had memory left when it was forked would make small results where nobody can share them."""
    make = {
        "polars": "polars.DataFrame({'n': range(200_000), 's': texts}).sort('n', descending=True)",
        "pandas": "pandas.DataFrame({'n': range(200_000), 's': texts}).sort_values('n', ascending=False)",
        "duckdb": "duckdb.sql('SELECT range AS n, range * 0.5 AS f FROM range(200000)').to_arrow_table()",
        "pyarrow": "pyarrow.table({'n': range(200_000), 's': texts}).sort_by('n')",
    }
    models = f"import forebay\nimport {library}\n\n" + "".join(
        f"{STORED}@forebay.python('3.11', pip={{'{library}': '', 'pyarrow': ''}})\ndef out_{n}():\n"
        "    texts = [f'row {n:09} and then some more' for n in range(200_000)]\n"
        f"    return {make[library]}\n\n"
        for n in range(2)
    )
    project = lab.project({"models.py": models})
    for _ in range(3):
        result = lab.run(project).ok().json
        for n in range(2):
            made = node(result, f"out_{n}")
            # Three pieces below 64 KiB at the beginning of a text column.
            assert made["bytes_copied"] + made["bytes_inline"] <= 60_000 < 3_000_000 < made["bytes_referenced"], made


def test_children_wait_and_daemons_that_stop_leave_none(lab: Lab) -> None:
    """The end of the fixture looks for what is left."""
    project = lab.project(STORED + "def t():\n    return {'x': [1]}\n")
    lab.run(project).ok()
    lab.run(project).ok()
    daemon = lab.daemon()
    zygotes = [process for process in descendants(daemon) if name(process) == "forebay-zygote"]
    assert zygotes and ready(lab)
    lab.forebay("daemon", "stop").ok()
    for process in zygotes:
        assert not Path(f"/proc/{process}").exists() or name(process) != "forebay-zygote" or _ends(process)


def zygotes(lab: Lab) -> set[int]:
    return {process for process in descendants(lab.daemon()) if name(process) == "forebay-zygote"}


def test_functions_that_declare_their_memory_wait_like_others(lab: Lab) -> None:
    """A child that waits has the limits of the function that it waits for, and serves none with others."""
    tell = (
        "import resource, shutil\n    return [{'data': resource.getrlimit(resource.RLIMIT_DATA)[0], 'tmp': shutil.disk_usage('/tmp').total,"
        " 'ticks': int(open('/proc/self/stat').read().rpartition(')')[2].split()[19]), 'name': open('/proc/self/comm').read().strip()}]\n"
    )
    kinds = {"small": "@forebay.resources(memory='300MiB')\n", "usual": ""}
    source = "import forebay\n\n" + "".join(f"{STORED}{limit}def {model}():\n    {tell}\n" for model, limit in kinds.items())
    project = lab.project({"models.py": source})
    waited = set()
    for _ in range(10):
        before = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
        lab.run(project).ok()
        rows = {model: lab.rows(f"SELECT * FROM {model}")[0] for model in kinds}
        assert rows["small"]["data"] == 300 << 20 != rows["usual"]["data"]
        assert rows["small"]["tmp"] <= 150 << 20 < rows["usual"]["tmp"]
        # Whether it was there before it was asked for.
        waited |= {model for model, row in rows.items() if row["name"] == "forebay-call" and row["ticks"] < before - 1}
        if waited == set(kinds):
            return
    raise AssertionError(f"only {waited} waited")


def until_forked(lab: Lab, project: Path) -> None:
    """Runs it until its function comes from a zygote: on a busy machine the first may be quicker without."""
    for _ in range(10):
        lab.run(project).ok()
        [row] = lab.rows("SELECT * FROM out")
        assert row["word"] == "fine"
        if row["name"] == "forebay-call":
            return
    raise AssertionError("it never comes from a zygote")


def test_what_saves_least_is_given_up_when_memory_is_short(own: Lab, index: Path) -> None:
    """A light one that saves a second stays, a heavy one that saves nothing goes, although it was used last."""
    wheels.wheel(index, "fbt_light", {"light.py": in_zygote("import time; time.sleep(1)")})
    wheels.wheel(index, "fbt_heavy", {"heavy.py": in_zygote("weight = b'x' * 300_000_000")})
    own.environment["FOREBAY_WARM_MAX"] = "250M"
    light = own.project({"models.py": using("light", "fbt_light")}, "light")
    heavy = own.project({"models.py": using("heavy", "fbt_heavy")}, "heavy")
    until_forked(own, light)
    first = zygotes(own)
    until_forked(own, heavy)
    # The heavy one and its children; of the light one only children that wait may be gone.
    assert all(_ends(process) for process in zygotes(own) - first)
    [kept] = ready(own)
    assert "light" in kept["modules"] and kept["bytes"] < 250 << 20
    own.run(light).ok()
    assert own.rows("SELECT * FROM out") == [{"word": "fine", "name": "forebay-call"}]


def test_without_memory_for_them_there_are_none(lab: Lab) -> None:
    lab.environment["FOREBAY_WARM_MAX"] = "0"
    for _ in range(2):
        lab.run(lab.project(STORED + "def t():\n    return [{'name': open('/proc/self/comm').read().strip()}]\n")).ok()
        assert lab.rows("SELECT name FROM t")[0]["name"] != "forebay-call"
    assert lab.warm() == [] and zygotes(lab) == set()


def _ends(process: int) -> bool:
    try:
        gone = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([gone], [], [], 20)[0])
    finally:
        os.close(gone)


def test_functions_with_the_network_are_started_afresh(lab: Lab) -> None:
    lab.run(lab.project(STORED.replace(")", ", internet_access=True)") + "def t():\n    return [{'name': open('/proc/self/comm').read().strip()}]\n")).ok()
    [row] = lab.rows("SELECT name FROM t")
    assert row["name"] != "forebay-call" and lab.warm() == []
