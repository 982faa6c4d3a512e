"""The preload library under real libraries: same results, forks as ever, limits kept, and out of the way where it cannot serve.

Each test runs Python programs of its own with the library preloaded: `FOREBAY_PRELOAD` names it, else it is the one that was
installed with the SDK, `forebay/preload.so`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 120

#: What every program begins with: `arena()` is what the arena did so far, by the table that the library exports.
BEGIN = """
import ctypes, gc, os, resource, signal, subprocess, sys, threading
NAMES = "live dirty held allocations recycled maps punched in_place freezes thaws generations refused huge passed_through stale".split()
class Statistics(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in NAMES]
class Face(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint32),
        ("find", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint64))),
        ("descriptor", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint32)),
        ("statistics", ctypes.CFUNCTYPE(None, ctypes.POINTER(Statistics))),
    ]
def face():
    return Face.in_dll(ctypes.CDLL(None), "forebay_arena_face")
def arena():
    into = Statistics()
    face().statistics(ctypes.byref(into))
    return into
def found(address, length):
    generation, offset = ctypes.c_uint32(), ctypes.c_uint64()
    return face().find(address, length, ctypes.byref(generation), ctypes.byref(offset))
MIB = 1 << 20
"""

#: Work that every library does, as one line of text: what it prints must not depend on the preload.
WORK = """
import numpy as np, pandas as pd, polars as pl, pyarrow as pa, pyarrow.compute as pc, duckdb
def work(n=300_000):
    keys, values = np.arange(n) * 7919 % 1009, np.sqrt(np.arange(n))
    words = [f"word {k}" for k in keys[:50_000]]
    told = []
    frame = pd.DataFrame({"k": keys, "v": values})
    told.append(frame.groupby("k").v.sum().round(3).sum())
    told.append(frame.merge(frame.drop_duplicates("k"), on="k").v_y.sum().round(3))
    table = pa.table({"k": keys, "v": values})
    told.append(pc.sum(table.sort_by([("v", "descending")]).slice(10, 1000)["v"]).as_py())
    told.append(pa.table({"w": words}).group_by("w").aggregate([([], "count_all")]).num_rows)
    polars = pl.from_arrow(table)
    told.append(round(polars.group_by("k").agg(pl.col("v").max()).sort("k")["v"].sum(), 3))
    told.append(polars.join(polars.unique("k"), on="k").sort("v").height)
    duck = duckdb.connect()
    duck.execute("SET threads = 2")
    told.append(duck.sql("SELECT count(*), round(sum(s), 3) FROM (SELECT k, sum(v) s FROM polars GROUP BY k)").fetchall())
    return repr(told)
"""


def library() -> Path:
    """The built library; without it there is nothing to test, and that is a failure."""
    named = os.environ.get("FOREBAY_PRELOAD")
    spec = importlib.util.find_spec("forebay")
    path = Path(named) if named else Path((spec.origin if spec else None) or "forebay/__init__.py").with_name("preload.so")
    assert path.is_file(), f"{path}: the preload library is missing; build it (`cargo xtask setup`) or name it with FOREBAY_PRELOAD"
    return path.resolve()


def python(code: str, *, preload: bool = True, before: Any = None, python: str = sys.executable, **variables: str) -> str:
    """Runs a program and returns what it printed. `before` runs in the process before Python does."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LD_", "FOREBAY_"))}
    if preload:
        environment |= {"LD_PRELOAD": str(library())}
    program = BEGIN + textwrap.dedent(code)
    done = subprocess.run(
        [python, "-c", program], env=environment | variables, preexec_fn=before, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def limited(limit: int, value: int) -> Any:
    """Sets a limit of this process, soft and hard."""

    def limit_process() -> None:
        import resource

        resource.setrlimit(limit, (value, value))

    return limit_process


def test_results_are_those_without_it() -> None:
    code = WORK + "print(work())\n"
    used = "assert arena().allocations > 20 and arena().generations == 1, arena().allocations\n"
    assert python(code + used) == python(code, preload=False)


def test_results_of_threads() -> None:
    code = """
    from concurrent.futures import ThreadPoolExecutor
    expected = work(100_000)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, [100_000] * 18)) == [expected] * 18
    """
    python(WORK + textwrap.dedent(code))


def test_started_programs_run_without_it() -> None:
    code = """
    assert not [name for name in os.environ if name == "LD_PRELOAD" or name.startswith("FOREBAY_ARENA")], os.environ
    told = subprocess.run(["/bin/sh", "-c", "echo $LD_PRELOAD$FOREBAY_ARENA_KEEP; cat /proc/self/maps"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("\\n") and "preload" not in told.stdout and "forebay-arena" not in told.stdout
    assert arena().generations <= 1
    """
    python(code, FOREBAY_ARENA_KEEP="1000000")


def test_large_objects_are_in_the_file_and_small_ones_are_not() -> None:
    code = """
    import numpy as np
    large, small = np.arange(100_000), np.arange(100)
    assert found(large.ctypes.data, large.nbytes) == 1 and found(small.ctypes.data, small.nbytes) == 0
    file = face().descriptor(0)
    assert os.pread(file, 0, 0) == b""
    """
    python(code)


def test_bare_fork() -> None:
    code = """
    import numpy as np
    data = np.ones(4 * MIB)
    for number in range(12):
        child = os.fork()
        if child == 0:
            data[:] = number + 100
            fresh = np.full(MIB, number)
            ok = (data == number + 100).all() and fresh.sum() == number * MIB
            os._exit(0 if ok else 1)
        data[number] = 7
        other = np.full(MIB, number)
        assert os.waitpid(child, 0)[1] == 0
        assert other.sum() == number * MIB and (data[: number + 1] == 7).all() and (data[number + 1 :] == 1).all()
    assert arena().freezes >= 12
    """
    python(code)


def test_memory_is_shareable_again_after_a_fork() -> None:
    code = """
    data = bytearray(8 * MIB)
    where = ctypes.addressof(ctypes.c_char.from_buffer(data))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    data[5] = 1
    assert found(where, len(data)) == 2
    more = bytearray(8 * MIB)
    assert found(where, len(data)) == 1 and data[5] == 1 and arena().thaws == 1 and arena().generations == 1
    """
    python(code)


#: Ways of running work in other processes. Those that are started afresh (spawn, loky) run without the library.
POOLS = {
    "fork": 'import multiprocessing as m; pool = m.get_context("fork").Pool(2)\nresults = pool.map(task, range(6))',
    "spawn": 'import multiprocessing as m; pool = m.get_context("spawn").Pool(2)\nresults = pool.map(task, range(6))',
    "forkserver": 'import multiprocessing as m; pool = m.get_context("forkserver").Pool(2)\nresults = pool.map(task, range(6))',
    "executor": "from concurrent.futures import ProcessPoolExecutor as P; pool = P(2)\nresults = list(pool.map(task, range(6)))",
    "loky": "import joblib\nresults = joblib.Parallel(n_jobs=2)(joblib.delayed(task)(n) for n in range(6))",
}


@pytest.mark.parametrize("pool", POOLS)
def test_pools_of_processes(pool: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "import numpy as np\ndef task(n):\n    data = np.full(500_000, n)\n    return data * 2\n"
    )
    program = f"""
    import numpy as np
    sys.path.insert(0, {str(tmp_path)!r})
    from tasks import task
    if __name__ == "__main__":
        before = np.arange(1_000_000)
    """
    check = 'for n, result in enumerate(results):\n    assert (result == 2 * n).all()\nassert before.sum() == 499_999_500_000\nif "pool" in dir():\n    getattr(pool, "terminate", pool.shutdown if hasattr(pool, "shutdown") else None)()\nprint("done")\n'
    main = tmp_path / "main.py"
    body = textwrap.indent(POOLS[pool] + "\n" + check, "    ")
    main.write_text(BEGIN + textwrap.dedent(program) + body)
    code = f'import runpy; runpy.run_path({str(main)!r}, run_name="__main__")'
    assert python(code).strip() == "done"


def test_forks_in_the_middle_of_work_by_threads() -> None:
    code = """
    import numpy as np
    stop, wrong = threading.Event(), []
    def churn(seed):
        random = np.random.default_rng(seed)
        kept = []
        while not stop.is_set():
            size = int(random.integers(8_000, 400_000))
            kept.append(np.full(size, seed))
            if len(kept) > 8:
                if not (kept.pop(int(random.integers(0, 8))) == seed).all():
                    wrong.append(seed)
    threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(3)]
    [thread.start() for thread in threads]
    mine = np.arange(300_000)
    for number in range(10):
        child = os.fork()
        if child == 0:
            again = np.arange(300_000)
            os._exit(0 if (mine == again).all() else 1)
        mine[number] = number
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    [thread.join() for thread in threads]
    assert not wrong and arena().freezes >= 5
    """
    python(code)


def test_subprocesses_and_closing_everything() -> None:
    code = """
    import numpy as np
    data = np.arange(1_000_000)
    assert subprocess.run(["/bin/echo", "hi"], capture_output=True, close_fds=True).stdout == b"hi\\n"
    assert subprocess.run(["/bin/echo", "hi"], capture_output=True, preexec_fn=lambda: None).stdout == b"hi\\n"
    os.closerange(3, 100_000)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                pass
    C = ctypes.CDLL(None)
    if hasattr(C, "closefrom"):
        C.closefrom(3)
    if hasattr(C, "close_range"):
        assert C.close_range(3, ctypes.c_uint(-1), 0) == 0 and C.close_range(3, ctypes.c_uint(-1), 4) == 0
    pid = os.fork()
    if pid == 0:
        data[:] = 5
        os._exit(0 if (np.arange(1_000_000) >= 0).all() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert (data == np.arange(1_000_000)).all()
    file = face().descriptor(0)
    assert file > 2 and os.fstat(file).st_size > 0
    """
    python(code)


def test_a_descriptor_that_was_replaced_is_never_written() -> None:
    code = """
    import numpy as np
    data = np.arange(1_000_000)
    victim = os.memfd_create("victim")
    names = {int(n): os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}") or int(n) > 20}
    ours = [n for n, name in names.items() if "forebay-arena" in name]
    os.write(victim, b"precious" * 1000)
    os.dup2(victim, ours[0])
    del data
    more = [np.ones(300_000) for _ in range(10)]
    del more
    assert face().descriptor(0) < 0
    assert os.pread(victim, 8000, 0) == b"precious" * 1000
    """
    python(code, FOREBAY_ARENA_KEEP="0")


def test_few_descriptors() -> None:
    code = "a = bytearray(MIB); assert arena().generations == 1\nprint(len(os.listdir('/proc/self/fd')) < 20)"
    assert python(code, before=limited(7, 64)) == "True\n"
    # None is left at all: forks go on, and what they cannot have in a file passes through.
    none = """
    data, held = bytearray(MIB), []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    pid = os.fork()
    if pid == 0:
        data[0] = 1
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    more = bytearray(MIB)
    more[5] = 1
    assert data[0] == 0 and arena().thaws == 0 and arena().generations == 1 and arena().passed_through > 0
    """
    python(none, before=limited(7, 64))


def test_little_address_space_passes_through() -> None:
    import resource

    code = "a = bytearray(8 * MIB); b = bytes(a); assert arena().generations == 0 and b == a"
    python(code, before=limited(resource.RLIMIT_AS, 2 << 30))


def test_address_space_limited_later() -> None:
    code = """
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == 1 << 30
    small = [bytes(1000) for _ in range(100_000)]
    large = bytearray(64 * MIB)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    """
    python(code)


def test_small_files_only_pass_through() -> None:
    import resource

    code = "a = bytearray(8 * MIB); a[5] = 1; assert arena().generations == 0"
    python(code, before=limited(resource.RLIMIT_FSIZE, 1 << 20))


def test_the_limit_is_a_memory_error_and_memory_comes_back() -> None:
    code = """
    import numpy as np
    held = []
    try:
        while True:
            held.append(np.ones(4 * MIB))
    except MemoryError:
        pass
    assert 4 <= len(held) <= 8 and arena().refused > 0 and arena().held <= 256 * MIB
    held.clear()
    assert np.ones(16 * MIB).sum() == 16 * MIB
    try:
        bytearray(300 * MIB)
        raise SystemExit("no error")
    except MemoryError:
        pass
    """
    python(code, FOREBAY_ARENA_LIMIT=str(256 << 20))


def test_fork_under_a_hard_data_limit() -> None:
    import resource

    code = """
    half = bytearray(150 * MIB)
    half[:: 4096] = b"1" * len(half[:: 4096])
    pid = os.fork()
    if pid == 0:
        half[0] = 2
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0 and half[0] == 49
    more = bytearray(90 * MIB)
    grabbed = ctypes.create_string_buffer(60_000)
    """
    python(code, before=limited(resource.RLIMIT_DATA, 320 << 20), FOREBAY_ARENA_LIMIT=str(320 << 20))


def test_a_fork_that_cannot_be_private_is_an_error() -> None:
    import resource

    code = """
    data = bytearray(400 * MIB)
    data[:: 4096] = b"1" * len(data[:: 4096])
    try:
        if os.fork() == 0:
            os._exit(0)
        raise SystemExit("forked")
    except OSError as error:
        assert error.errno == 12, error
    assert data[4096] == 49 and subprocess.run(["/bin/true"]).returncode == 0
    """
    python(code, before=limited(resource.RLIMIT_DATA, 300 << 20))


def test_the_mmap_module() -> None:
    code = """
    import mmap
    private = mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(private))
    assert found(address, 8 * MIB) == 1
    private[:4] = b"here"
    private[4 * MIB] = 7
    private.madvise(mmap.MADV_DONTNEED, 0, 4 * MIB)
    assert private[:4] == bytes(4) and private[4 * MIB] == 7
    pid = os.fork()
    if pid == 0:
        private[4 * MIB] = 9
        private.madvise(mmap.MADV_DONTNEED, 0, 4 * MIB)
        os._exit(0 if private[4 * MIB] == 9 and private[:4] == bytes(4) else 1)
    assert os.waitpid(pid, 0)[1] == 0 and private[4 * MIB] == 7
    shared = mmap.mmap(-1, 8 * MIB)
    where = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    assert found(where, 10) == 0
    """
    python(code)


def test_dying_in_the_middle_leaves_nothing() -> None:
    code = """
    pid = os.fork()
    if pid == 0:
        a = bytearray(4 * MIB)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    a = bytearray(4 * MIB)
    pid = os.fork()
    if pid == 0:
        a[0] = 1
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0 and a[0] == 0
    """
    python(code)
