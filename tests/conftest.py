"""End-to-end tests drive the built `forebay` command, each in a home and a lake of its own.

- `FOREBAY_BIN` names the command (default `target/release/forebay`), `FOREBAY_TEST_CACHE` a folder of environments that
  tests share (default `target/test-cache`). Nothing else of the caller's settings reaches a test.
- At the end of each test its daemon is stopped, and nothing that it started may be left. This process is the
  reaper of all orphans below it, so "nothing" is exact: a process cannot hide by losing its parent.
- No sleeps. Tests and models meet at a `Gate` (two named pipes); the end of a process is waited for by its descriptor.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import textwrap
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
import s3_server

ROOT = Path(__file__).parents[1]
FOREBAY = os.environ.get("FOREBAY_BIN", str(ROOT / "target/release/forebay"))
CACHE = os.environ.get("FOREBAY_TEST_CACHE", str(ROOT / "target/test-cache"))

#: How long anything may take before a test gives up. Never reached when all is well.
PATIENCE_S = 180
#: How long a killed or stopped process may take to disappear.
END_S = 20

PR_SET_CHILD_SUBREAPER = 36
#: Settings of the caller that would change what a test does.
FOREIGN = ("FOREBAY_", "XDG_", "PYTHON", "UV_", "VIRTUAL_ENV")
KEPT = ("FOREBAY_RUNTIME", "FOREBAY_UV", "FOREBAY_PYTHONS", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_CACHE_DIR")

HEADER = "import forebay\nimport pyarrow as pa\n\n"


@pytest.fixture(scope="session", autouse=True)
def reaper() -> None:
    """Orphans become our children, so that we see them."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A fresh home and lake, and the means to work on them."""
    lab = Lab(tmp_path)
    yield lab
    lab.forebay("daemon", "stop")
    # Servers that several tests share are not of this one.
    left = [process for process in descendants(os.getpid()) if process not in s3_server.RUNNING and not ends(process)]
    names = [f"{process} {command_line(process)}" for process in left]
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not names, "left running after `forebay daemon stop`"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    """A server for the tests of one file."""
    server = s3_server.S3Server(tmp_path_factory.mktemp("s3")).start()
    server.bucket("lakes")
    server.bucket("sources")
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def far(lab: Lab, s3: s3_server.S3Server) -> Lab:
    """A lab whose lake is in a bucket."""
    lab.environment.update(s3.variables(), FOREBAY_LAKE=f"s3://lakes/{uuid.uuid4().hex}/wh")
    return lab


@dataclass
class Done:
    """A finished command."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What `-o json` printed."""
        try:
            return json.loads(self.out)
        except ValueError:
            raise AssertionError(f"no JSON from {self}") from None

    def ok(self) -> Done:
        """Itself, if it succeeded."""
        assert self.code == 0, str(self)
        return self

    def failed(self, code: int = 1) -> Done:
        """Itself, if it failed with this exit code."""
        assert self.code == code, str(self)
        return self

    def __str__(self) -> str:
        return f"forebay {' '.join(self.args)} -> {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Started:
    """A command under way."""

    def __init__(self, lab: Lab, args: tuple[str, ...]) -> None:
        self.args = args
        self.unread = {"stdout": b"", "stderr": b""}
        self.popen = subprocess.Popen(
            [*lab.command(), *args],
            env=lab.environment,
            cwd=lab.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> Done:
        """Its end."""
        out, err = self.popen.communicate(timeout=PATIENCE_S)
        return Done(self.args, self.popen.returncode, out, err)

    def line(self, of: str = "stderr") -> str:
        """The next line it prints."""
        # Read from the descriptor: a buffered stream may hold lines that `select` knows nothing of.
        descriptor = getattr(self.popen, of).fileno()
        while b"\n" not in self.unread[of]:
            assert select.select([descriptor], [], [], PATIENCE_S)[0], f"`forebay {' '.join(self.args)}` says nothing"
            piece = os.read(descriptor, 65536)
            if not piece:
                break
            self.unread[of] += piece
        line, end, self.unread[of] = self.unread[of].partition(b"\n")
        return (line + end).decode()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.popen.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """kill -9."""
        self.popen.kill()


class Lab:
    """One home, one lake, and projects to run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.lake = folder / "lake"
        self.environment = {
            name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(FOREIGN)
        }
        self.environment.update(
            FOREBAY_HOME=str(self.home),
            FOREBAY_LAKE=f"file://{self.lake}",
            FOREBAY_CACHE=CACHE,
            USER="ann",
            NO_COLOR="1",
        )

    def command(self) -> list[str]:
        """The command, before its arguments."""
        return [FOREBAY]

    def start(self, *args: str | Path) -> Started:
        """Starts a command."""
        return Started(self, tuple(map(str, args)))

    def forebay(self, *args: str | Path) -> Done:
        """Runs a command to its end, whatever that is."""
        return self.start(*args).wait()

    def json(self, *args: str | Path) -> Any:
        """What a command prints as JSON."""
        return self.forebay(*args, "-o", "json").ok().json

    def run(self, project: Path, *args: str) -> Done:
        """`forebay run -o json`."""
        return self.forebay("run", "-p", project, "-o", "json", *args)

    def start_run(self, project: Path, *args: str) -> Started:
        """The same, not waiting for its end."""
        return self.start("run", "-p", project, "-o", "json", *args)

    def project(self, source: str | dict[str, str], name: str = "project", settings: str = "") -> Path:
        """A project of one `models.py` (the imports are added), or of the files as given."""
        if isinstance(source, str):
            source = {"models.py": HEADER + textwrap.dedent(source)}
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if not any(file.startswith(("forebay.toml", "bauplan_project")) for file in source):
            (folder / "forebay.toml").write_text(f'[project]\nname = "{name}"\n{settings}')
        for file, text in source.items():
            (folder / file).write_text(text)
        return folder

    def head(self, branch: str = "main") -> str:
        """The hash a branch is at."""
        return self.json("branch", "get", branch)["branch"]["hash"]

    def tables(self, ref: str = "main") -> list[str]:
        """Full names of the tables at a ref."""
        listed = self.json("table", "ls", "-r", ref)["tables"]
        return [f"{table['namespace']}.{table['name']}" for table in listed]

    def query(self, sql: str, ref: str = "main") -> pa.Table:
        """The result of a SELECT, with types as they come."""
        path = self.folder / "result.arrow"
        self.forebay("query", sql, "-r", ref, "--to", path).ok()
        with pa.ipc.open_file(path) as file:
            return file.read_all()

    def rows(self, sql: str, ref: str = "main") -> list[dict[str, Any]]:
        """The rows of a SELECT."""
        return self.query(sql, ref).to_pylist()

    def load(self, name: str, table: pa.Table, *, branch: str = "main", partitioned_by: str | None = None) -> None:
        """Puts a table into the lake, through a Parquet file."""
        path = self.folder / f"{name}-{len(list(self.folder.iterdir()))}.parquet"
        pa.parquet.write_table(table, path)
        more = ["--partitioned-by", partitioned_by] if partitioned_by else []
        self.forebay("table", "create", name, "--search-uri", path, "-b", branch, "--replace", *more).ok()
        if table.num_rows:
            self.forebay("table", "import", name, "--search-uri", path, "-b", branch).ok()

    def metadata(self, name: str, ref: str = "main") -> str:
        """Where a table's Iceberg metadata is."""
        return self.json("table", "get", name, "-r", ref)["table"]["metadata_location"]

    def daemon(self) -> int:
        """Process id of the daemon, which is started if there is none."""
        self.forebay("daemon", "start").ok()
        return self.json("daemon", "status")["pid"]

    def functions(self) -> list[int]:
        """Processes below the daemon, but for those that stay (the launcher, zygotes, and their children that wait for a call), and
        for those that compile byte code of new environments."""
        daemon = self.daemon()

        def belongs(one: int, above: dict[int, int]) -> bool:
            parent = above.get(one, 0)
            stays = parent == daemon and is_launcher(one) or name(one) in STAYING or name(parent) == "forebay-nest"
            return not stays and "forebay-byte-code" not in command_line(one)

        above = parents()
        found = [one for one in descendants(daemon) if belongs(one, above)]
        # What the launcher has only just forked says what it is in a moment.
        until(lambda: not any(name(one) == "forebay-launch" for one in found))
        above = parents()
        return [one for one in found if one in above and belongs(one, above)]

    def warm(self) -> list[dict[str, Any]]:
        """The daemon's warm interpreters."""
        return self.json("daemon", "status")["zygotes"]

    def sandbox(self, **settings: Any) -> None:
        """Sets `[sandbox]` of the configuration: `mode`, `read`, `write`."""
        config = self.home / "config.toml"
        config.parent.mkdir(mode=0o700, exist_ok=True)
        kept = config.read_text().partition("[sandbox]")[0] if config.exists() else ""
        config.write_text(kept + "[sandbox]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))

    def gate(self, name: str = "gate") -> Gate:
        """A place where a model waits for the test, which is let into the model's sandbox."""
        place = self.folder / "gates"
        if not place.exists():
            place.mkdir()
            # Functions of a daemon of root's run as somebody else.
            place.chmod(0o777)
            self.sandbox(write=[str(place)])
        return Gate(place / name)


class Gate:
    """Where a model and a test meet: the model says it is there, and goes on when the test lets it.

    `gate.code` is the Python expression that a model waits with. Its process id is the one of the test's world.
    """

    def __init__(self, path: Path) -> None:
        self._pipes = {}
        for end in ("arrived", "go"):
            pipe = path.with_name(f"{path.name}.{end}")
            os.mkfifo(pipe)
            pipe.chmod(0o666)
            # Open both ways: opening never blocks, and nobody sees an end of file.
            self._pipes[end] = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        arrived, go = (str(path.with_name(f"{path.name}.{end}")) for end in ("arrived", "go"))
        self._met: set[int] = set()
        self.code = (
            f"(lambda go: (open({arrived!r}, 'w').write('here' + chr(10)), go.read(1)))(open({go!r}, 'rb', buffering=0))"
        )

    def wait(self, arrivals: int = 1) -> list[int]:
        """Process ids of so many models that have arrived. They wait with the pipe in hand, which is how they are known."""
        text = b""
        while text.count(b"\n") < arrivals:
            assert select.select([self._pipes["arrived"]], [], [], PATIENCE_S)[0], "no model came to the gate"
            text += os.read(self._pipes["arrived"], 1000)
        met = [process for process in holders(self._pipes["go"]) if process not in self._met]
        self._met.update(met)
        return met

    def open(self, models: int = 1) -> None:
        """Lets so many models go on."""
        os.write(self._pipes["go"], b"x" * models)

    def __del__(self) -> None:
        for pipe in self._pipes.values():
            os.close(pipe)


def holders(descriptor: int) -> list[int]:
    """Processes other than this one that have the same file open."""
    wanted = os.fstat(descriptor)
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            names = os.listdir(f"/proc/{process}/fd")
        except OSError:
            continue  # It has ended, or is not ours to see.
        if any(is_file(f"/proc/{process}/fd/{name}", wanted) for name in names):
            found.append(int(process))
    return [process for process in found if process != os.getpid()]


def is_file(path: str, wanted: os.stat_result) -> bool:
    """Whether the path leads to that file; a descriptor may have been closed since it was listed."""
    try:
        file = os.stat(path)
    except OSError:
        return False
    return (file.st_dev, file.st_ino) == (wanted.st_dev, wanted.st_ino)


#: Names of processes that belong to no run: zygotes and their first processes, the children of both until they are called, and
#: the first processes of those children, which end with them.
STAYING = ("forebay-nest", "forebay-zygote", "forebay-child")


def name(process: int) -> str:
    """What a process calls itself; empty if it has ended."""
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""


def is_launcher(process: int) -> bool:
    """Whether it is the parent of a daemon's functions."""
    return command_line(process).split()[1:] == ["launcher"]


def parents() -> dict[int, int]:
    """The parent of every living process; zombies of ours are buried."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            state, parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            found[int(entry)] = int(parent)
        elif int(parent) == os.getpid():
            bury(int(entry))
    return found


def bury(process: int) -> None:
    """Takes the exit status of an adopted zombie. `subprocess` takes those of commands we started ourselves."""
    try:
        os.waitpid(process, os.WNOHANG)
    except ChildProcessError:
        pass


def until(there: Callable[[], Any]) -> None:
    """Waits for what nothing tells of."""
    end = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < end, "it does not come"
        os.sched_yield()


def descendants(ancestor: int) -> list[int]:
    """Living processes below one."""
    above = parents()
    found = {ancestor}
    while more := {process for process, parent in above.items() if parent in found} - found:
        found |= more
    return sorted(found - {ancestor})


def ends(process: int, seconds: float = END_S) -> bool:
    """Waits for the end of a process."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def command_line(process: int) -> str:
    """For messages."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def node(result: dict[str, Any], name: str) -> dict[str, Any]:
    """The node of that name in the result of a run."""
    found = [one for one in result["nodes"] if one["name"] == name]
    assert len(found) == 1, f"`{name}` is not one of {[one['name'] for one in result['nodes']]}"
    return found[0]
