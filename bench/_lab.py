"""What the benchmarks share: a Forebay of their own, memory of a tree of processes, facts of the machine, tables of text.

Memory of a tree is `RssAnon` of each process plus the blocks of each shared-memory file (memfd, or file below /dev/shm)
that a process of the tree holds open or that lies in a given folder, each file once. Unlike the sum of PSS it counts pages
that nobody maps at the moment (a table between its producer's exit and its consumer's start), costs no walk through page
tables, and sees nothing of other programs. Byte code, libraries and the page cache of disks are not in it. Pages that a
forked child shares with its parent count twice.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Iterable, Sequence

FOREBAY = os.environ.get("FOREBAY_BIN", "forebay")
BENCH = Path(__file__).resolve().parent
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
GIB = 1 << 30
MIB = 1 << 20


class Lab:
    """A home, a lake and a daemon for one benchmark, in a folder that is removed at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"forebay-bench-{name}-"))
        # What baselines put into shared memory lies here, and is counted as theirs.
        self.shm = Path(tempfile.mkdtemp(prefix=f"forebay-bench-{name}-", dir="/dev/shm"))
        self.environment = dict(os.environ, FOREBAY_HOME=str(self.folder / "home"), FOREBAY_LAKE=f"file://{self.folder}/lake", NO_COLOR="1")
        if cache := os.environ.get("FOREBAY_TEST_CACHE"):
            self.environment["FOREBAY_CACHE"] = cache

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([FOREBAY, "daemon", "stop"], env=self.environment, capture_output=True)
        for folder in (self.folder, self.shm):
            shutil.rmtree(folder, ignore_errors=True)

    def project(self, files: dict[str, str], name: str = "project") -> Path:
        """A project of these files; what is in `shared/` can be imported by models and is not read as models."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "shared").mkdir(parents=True)
        (folder / "forebay.toml").write_text(f'[project]\nname = "{name}"\n')
        for file, text in files.items():
            (folder / file).write_text(text)
        return folder

    def let_read(self, *files: Path) -> None:
        """Lets the sandbox of every function read these files of the host."""
        home = self.folder / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        (home / "config.toml").write_text(f"[sandbox]\nread = {json.dumps([str(file) for file in files])}\n")

    def forebay(self, *arguments: str | Path) -> str:
        """Runs a command of Forebay and gives what it printed."""
        done = subprocess.run([FOREBAY, *map(str, arguments)], env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"forebay {' '.join(map(str, arguments))} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout

    def daemon(self) -> int:
        """Process id of the daemon, which is started if need be."""
        self.forebay("daemon", "start")
        return int(json.loads(self.forebay("daemon", "status", "-o", "json"))["pid"])

    def run(self, project: Path, *, peak: Memory | None = None) -> Run:
        """`forebay run -o json`; with its peak memory if asked for."""
        start = time.perf_counter()
        command = [FOREBAY, "run", "-o", "json", "-p", str(project)]
        popen = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = popen.communicate()
        seconds = time.perf_counter() - start
        if popen.returncode:
            if peak is not None and peak.stopped:
                return Run({"nodes": []}, {}, seconds)
            sys.exit(f"{' '.join(command)} failed:\n{out[-2000:]}{err[-4000:]}")
        stamps = {name: int(value) for name, value in re.findall(r"stamp (\w+) (\d+)", err)}
        notes = dict(re.findall(r"note (\w+) (.+)", err))
        return Run(json.loads(out), stamps, seconds, notes)


class Run:
    """What a run printed."""

    def __init__(self, result: dict[str, Any], stamps: dict[str, int], seconds: float, notes: dict[str, str] | None = None) -> None:
        self.result, self.stamps, self.seconds, self.notes = result, stamps, seconds, notes or {}

    def node(self, name: str) -> dict[str, Any]:
        """A node by its name."""
        return next(node for node in self.result["nodes"] if node["name"] == name)

    def bytes(self, way: str, names: Iterable[str] | None = None) -> int:
        """Bytes that got into tables in one way (`copied`, `referenced`, `reshared`, `inline`)."""
        chosen = None if names is None else set(names)
        return sum(node.get(f"bytes_{way}") or 0 for node in self.result["nodes"] if chosen is None or node["name"] in chosen)


class Memory:
    """Samples the memory of the trees below `roots` until it is left; `limit` ends the trees that pass it.

    `peak` is the most at one time, `anonymous` and `shared` the most of each, all in bytes.
    """

    def __init__(self, roots: Sequence[int], folder: Path | None = None, *, interval_s: float = 0.02, limit: int | None = None) -> None:
        self.roots, self.folder, self.interval_s, self.limit = list(roots), folder, interval_s, limit
        self.peak = self.anonymous = self.shared = self.before = 0
        self.stopped = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Memory:
        self.before = sum(tree_memory(self.roots, self.folder))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._end.wait(self.interval_s):
            anonymous, shared = tree_memory(self.roots, self.folder)
            self.peak = max(self.peak, anonymous + shared)
            self.anonymous, self.shared = max(self.anonymous, anonymous), max(self.shared, shared)
            if self.limit is not None and anonymous + shared > self.limit and not self.stopped:
                self.stopped = True
                for process in self.roots:
                    kill(process)


class Idle:
    """A process that holds 4 MiB and does nothing, by which one sees whether memory became slow meanwhile.

    Now and then each page of a virtual machine costs 10 to 140 us at its next use, in every process, so that what is measured in milliseconds takes ten
    times as long. The kernel's counters of faults, steal and disk show nothing of it: its host took the memory back or mapped it anew, as far as one can
    tell from inside. A busy process pays at once, an idle one when it is needed.
    """

    _HOLD = """
import mmap, sys, time
held = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, len(held), 4096): held[at] = 1
for _ in sys.stdin:
    start = time.monotonic_ns()
    for at in range(0, len(held), 4096): held[at]
    print(time.monotonic_ns() - start, flush=True)
"""
    #: A look at 1024 pages that are there takes 0.1 to 0.2 ms, at slow ones 3 to 30 ms.
    _SLOW_NS = 2_000_000

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-I", "-c", self._HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def became_slow(self) -> bool:
        """Whether it did, since this was last asked."""
        assert self._process.stdin and self._process.stdout
        print(file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline()) > self._SLOW_NS

    def __enter__(self) -> Idle:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def kill(process: int) -> None:
    """Ends one process; those below it die with it."""
    try:
        os.kill(process, 9)
    except ProcessLookupError:
        pass


def tree(roots: Sequence[int]) -> list[int]:
    """The living processes at and below `roots`."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found, left = [], list(roots)
    while left:
        process = left.pop()
        found.append(process)
        left.extend(children.get(process, ()))
    return found


def tree_memory(roots: Sequence[int], folder: Path | None = None) -> tuple[int, int]:
    """Bytes of anonymous memory, and of shared-memory files; see the top of this file."""
    anonymous, files = 0, {}
    for process in tree(roots):
        try:
            with open(f"/proc/{process}/status", "rb") as file:
                match = re.search(rb"RssAnon:\s*(\d+) kB", file.read())
            anonymous += int(match[1]) * 1024 if match else 0
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                path = f"/proc/{process}/fd/{descriptor}"
                if os.readlink(path).startswith(("/memfd:", "/dev/shm/")):
                    state = os.stat(path)
                    files[state.st_dev, state.st_ino] = state.st_blocks * 512
        except OSError:
            continue  # It ended meanwhile.
    for path in folder.iterdir() if folder else ():
        try:
            state = path.stat()
        except OSError:
            continue
        files[state.st_dev, state.st_ino] = state.st_blocks * 512
    return anonymous, sum(files.values())


def available() -> int:
    """Bytes that can be allocated: free memory, and no more than /dev/shm holds."""
    memory = int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024  # type: ignore[index]
    shm = os.statvfs("/dev/shm")
    return min(memory, shm.f_bavail * shm.f_frsize)


def touch(size: int) -> None:
    """Takes and gives back so much memory, in a process of its own, just before a baseline needs it.

    A virtual machine whose host takes back idle memory pays for each page again at its next use. Those pages would be
    charged to the baselines, which need them, and not to Forebay, which does not. So they are brought back beforehand.
    """
    code = f"import mmap\nm = mmap.mmap(-1, {max(size, 1)}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nfor at in range(0, {size}, 4096): m[at] = 1"
    populate = "import ctypes, mmap, sys\nm = mmap.mmap(-1, %d, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nsys.exit(ctypes.CDLL(None).madvise(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(m))), ctypes.c_size_t(%d), 23) != 0)"
    # 23 is MADV_POPULATE_WRITE (Linux 5.14); without it page by page.
    if subprocess.run([sys.executable, "-I", "-c", populate % (max(size, 1), size)], capture_output=True).returncode:
        subprocess.run([sys.executable, "-I", "-c", code], check=True)


def facts(packages: dict[str, str] | None = None) -> dict[str, Any]:
    """The machine, as far as numbers depend on it."""
    huge = Path("/sys/kernel/mm/transparent_hugepage")

    def chosen(path: Path) -> str:
        try:
            return re.search(r"\[(.+?)\]", path.read_text())[1]  # type: ignore[index]
        except (OSError, TypeError):
            return "absent"

    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1),
        "kernel": platform.release(),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "huge_anonymous": chosen(huge / "enabled"),
        "huge_shmem": chosen(huge / "shmem_enabled"),
        "huge_shmem_64k": chosen(huge / "hugepages-64kB/shmem_enabled"),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **(packages or {}),
    }


def options(description: str | None, **more: Any) -> argparse.ArgumentParser:
    """The parser of a benchmark: `--quick`, and what is added to it."""
    parser = argparse.ArgumentParser(description=(description or "").strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small tables and few rounds: shows that it works, measures little")
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    return parser


def show(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table; the first column is text, the others are numbers."""
    texts = [[cell if isinstance(cell, str) else "-" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(headers), *texts]) for column in range(len(headers))]
    for row in [list(headers), *texts]:
        print("  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths))).rstrip())
    print(flush=True)


def ms(seconds: float | None) -> str | None:
    """Seconds as milliseconds, three digits."""
    if seconds is None:
        return None
    return f"{seconds * 1e3:.3g}" if seconds < 0.9995 else f"{seconds * 1e3:.0f}"


def size(count: float | None) -> str | None:
    """Bytes, in the unit that fits."""
    if count is None:
        return None
    for unit, bytes_ in (("GiB", GIB), ("MiB", MIB), ("KiB", 1024)):
        if abs(count) >= bytes_:
            return f"{count / bytes_:.2f} {unit}"
    return f"{count:.0f} B"


def median(values: Iterable[float | None]) -> float | None:
    """Median of the values that are there."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def record(name: str, quick: bool, machine: dict[str, Any], **results: Any) -> None:
    """Appends a line to the history. Quick runs are not history."""
    if quick:
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=BENCH, capture_output=True, text=True).stdout.strip()
    line = {"bench": name, "commit": commit, "machine": f"{platform.machine()}, {os.cpu_count()} cores", "facts": machine, **results}
    with open(BENCH / "history.jsonl", "a") as history:
        history.write(json.dumps(line) + "\n")


def uv() -> str | None:
    """The uv command, if there is one."""
    beside = Path(sys.executable).with_name("uv")
    return os.environ.get("FOREBAY_UV") or (str(beside) if beside.exists() else shutil.which("uv"))
