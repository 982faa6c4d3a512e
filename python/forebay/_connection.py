"""The client's way to the daemon: finds and starts it, and carries one request per connection.

```text
forebay daemon start -o json   ->  {"socket", "lake", "active_branch", "author", "version"}
connect(socket)                ->  {"v": 1, "lake", "author", "op", …}
                               <-  {"event": …} …, then {"result": …} or {"error": …}
```

A connection lives as long as its request, so threads and forked processes share nothing, and closing it cancels the
request. A daemon that went away meanwhile is started again, before the request is sent and never after.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping

from ._errors import from_wire
from .exceptions import ForebayError, JobTimeoutError, ServiceUnavailableError

PROTOCOL_VERSION = 1
_START_TIMEOUT_S = 60
_PIPE_BYTES = 1 << 20
_PROJECT_FILES = ("forebay.toml", "bauplan_project.yml", "bauplan_project.yaml")

Event = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Session:
    """What `forebay daemon start` said: where to connect, and what a request is made with."""

    socket: str
    lake: str
    active_branch: str
    author: Mapping[str, str]
    version: str


@dataclass(frozen=True)
class Answer:
    """A result, and the table beside it if there was one (an object with `__arrow_c_stream__`)."""

    result: Any
    table: Any = None


class _Asked:
    """A request that was sent, on a connection of its own."""

    def __init__(self, channel: Any, op: str, limit: float | None) -> None:
        self.channel = channel
        self.op = op
        self.limit = limit
        self.deadline = None if limit is None or limit < 0 else time.monotonic() + limit

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of the connection as ours. Any error cancels the request."""
        from . import _native

        try:
            yield
        except ForebayError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise _broken(self.op, error) from error
        except _native.Error as error:
            self.close()
            keys = ("code", "message", "causes", "hint", "fault")
            raise from_wire(dict(zip(keys, error.args)), self.op) from error

    def frame(self) -> tuple[Any, Any]:
        """The next frame and its header."""
        self.wait(self.channel.fileno())
        # A frame that has begun comes to its end: the daemon writes it at once.
        frame = self.channel.receive()
        if frame is None:
            raise _broken(self.op, None)
        header = json.loads(frame.header)
        if header.get("error") is not None:
            raise from_wire(header["error"], self.op)
        return frame, header

    def answer(self, on_event: Event | None = None) -> Answer:
        with self.errors():
            while True:
                frame, header = self.frame()
                if "event" not in header:
                    result = header.get("result")
                    return Answer(result, _table(frame, result))
                if on_event is not None:
                    on_event(header)

    def wait(self, descriptor: int) -> None:
        """Waits here and not in native code: Ctrl-C must interrupt it, and a deadline must end it."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic()) * 1000
        if not poll.poll(left):
            raise JobTimeoutError(f"`{self.op}` took longer than client_timeout={self.limit:g} s and was cancelled")

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> _Asked:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class _Pipe(io.RawIOBase):
    """The reading end of a pipe, with the patience of a request."""

    def __init__(self, descriptor: int, asked: _Asked) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._asked = asked

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._asked.wait(self._descriptor)
        return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class RowStream:
    """Rows of a query as they come: an iterator over record batches. Closing it early cancels the query."""

    def __init__(self, asked: _Asked) -> None:
        import pyarrow as pa

        self._asked = asked
        with asked.errors():
            while True:
                frame, header = asked.frame()
                if header.get("event") == "stream":
                    break
                if "event" not in header:
                    raise _broken(asked.op, None)
            pipe = _Pipe(os.dup(frame.fds[0]), asked)
        self._file = io.BufferedReader(pipe, _PIPE_BYTES)
        try:
            self._reader = pa.ipc.open_stream(pa.PythonFile(self._file, mode="r"))
        except (pa.ArrowInvalid, OSError):
            # It ended before it knew its columns: the answer says why.
            self._end()
            raise
        except BaseException:
            self.close()
            raise
        self.schema = self._reader.schema

    def __iter__(self) -> RowStream:
        return self

    def __next__(self) -> Any:
        import pyarrow as pa

        if self._file.closed:
            raise StopIteration
        try:
            return self._reader.read_next_batch()
        except StopIteration:
            self._end()
            raise
        except (pa.ArrowInvalid, OSError):
            # The stream was cut off; the answer says why.
            self._end()
            raise
        except BaseException:
            self.close()
            raise

    def _end(self) -> None:
        """Takes the answer: an error there means that the rows are not complete."""
        try:
            self._asked.answer()
        finally:
            self.close()

    def close(self) -> None:
        """Ends it, whether all rows were taken or not. May be called again."""
        self._file.close()
        self._asked.close()

    def __enter__(self) -> RowStream:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class Connection:
    """Settings of one client, and its requests. Safe to use from several threads."""

    def __init__(self, profile: str | None, client_timeout: float | None) -> None:
        self.profile = profile
        self.client_timeout = client_timeout
        self._lock = threading.Lock()
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The session; the first use starts the daemon."""
        with self._lock:
            if self._session is None:
                self._session = start_daemon(self.profile)
            return self._session

    def call(
        self,
        op: str,
        fields: Mapping[str, Any],
        *,
        client_timeout: float | None = None,
        on_event: Event | None = None,
    ) -> Answer:
        """Sends one request and waits for its answer; events go to `on_event`. `None` fields are left out.

        Raises:
            ForebayError: what the daemon answered.
            JobTimeoutError: after `client_timeout` seconds; the request is cancelled.
            ServiceUnavailableError: if the daemon cannot be started, or ends before it has answered.
        """
        with self._asked(op, fields, client_timeout) as asked:
            return asked.answer(on_event)

    def stream(self, op: str, fields: Mapping[str, Any], *, client_timeout: float | None = None) -> RowStream:
        """Sends one request whose rows come as they are made. Returns when the first may come.

        Raises:
            As `call`; also later, while the rows are read.
        """
        asked = self._asked(op, {**fields, "stream": True}, client_timeout)
        try:
            return RowStream(asked)
        except BaseException:
            asked.close()
            raise

    def _asked(self, op: str, fields: Mapping[str, Any], client_timeout: float | None) -> _Asked:
        limit = self.client_timeout if client_timeout is None else client_timeout
        channel = self._connect()
        session = self.session
        request = {"v": PROTOCOL_VERSION, "lake": session.lake, "author": session.author, "op": op}
        request.update((key, value) for key, value in fields.items() if value is not None)
        asked = _Asked(channel, op, limit)
        with asked.errors():
            channel.send(json.dumps(request))
        return asked

    def _connect(self) -> Any:
        from ._native import Channel

        known = self.session
        try:
            return Channel.connect(known.socket)
        except OSError:
            pass
        fresh = start_daemon(self.profile)
        with self._lock:
            self._session = fresh
        try:
            return Channel.connect(fresh.socket)
        except OSError as error:
            raise ServiceUnavailableError(
                f"could not connect to the daemon at `{fresh.socket}`",
                causes=[str(error)],
                hint="run `forebay daemon status`",
                fault="platform",
            ) from error


def start_daemon(profile: str | None) -> Session:
    """Runs `forebay daemon start`, which returns at once if a daemon of this version runs already.

    Raises:
        ServiceUnavailableError: if there is no `forebay` command, or it could not start a daemon.
    """
    command = [find_binary(), "daemon", "start", "-o", "json"]
    if profile is not None:
        command += ["--profile", profile]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_START_TIMEOUT_S, stdin=subprocess.DEVNULL)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        said = {}
    if isinstance(said.get("error"), dict):
        raise from_wire(said["error"], "daemon start")
    if done.returncode != 0 or "socket" not in said:
        raise ServiceUnavailableError(
            "could not start the daemon",
            causes=[(done.stderr or done.stdout).strip()],
            hint="run `forebay doctor`",
            fault="platform",
        )
    return Session(
        socket=said["socket"],
        lake=said["lake"],
        active_branch=said.get("active_branch") or "main",
        author=said["author"],
        version=said.get("version", ""),
    )


def with_secrets(
    project_dir: str, parameters: dict[str, str], profile: str | None
) -> tuple[dict[str, str], dict[str, Any] | None]:
    """The parameters of a run without its secrets, and these, sealed: `forebay parameter seal` reads and seals them.

    Raises:
        ForebayError: if the value of a secret cannot be had.
    """
    if not any("secret" in _text(os.path.join(project_dir, name)) for name in _PROJECT_FILES):
        return parameters, None
    command = [find_binary(), "parameter", "seal", "-o", "json", "-p", project_dir]
    if profile is not None:
        command += ["--profile", profile]
    # Not on the command line, where others could read what somebody takes for a parameter.
    given = json.dumps(parameters)
    done = subprocess.run(command, capture_output=True, text=True, timeout=_START_TIMEOUT_S, input=given)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        said = {"error": {"code": "CLI0009", "message": "could not seal the secrets", "causes": [done.stderr.strip()]}}
    if isinstance(said.get("error"), dict):
        raise from_wire(said["error"], "run")
    return said["parameters"], said["secrets"]


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def find_binary() -> str:
    """The `forebay` command: `FOREBAY_BIN`, the one beside this interpreter, or the first on `PATH`.

    Raises:
        ServiceUnavailableError: if there is none.
    """
    beside = os.path.join(sys.prefix, "bin", "forebay")
    found = os.environ.get("FOREBAY_BIN") or (beside if os.access(beside, os.X_OK) else shutil.which("forebay"))
    if not found:
        raise ServiceUnavailableError(
            "could not find the `forebay` command",
            causes=[f"not in `{os.path.dirname(beside)}`, not on PATH, and FOREBAY_BIN is not set"],
            hint="install it with `pip install .`, or point FOREBAY_BIN at the binary",
            fault="usage",
        )
    return found


def _table(frame: Any, result: Any) -> Any:
    if not isinstance(result, dict) or "segments" not in result or not frame.blobs:
        return None
    segments = [(part["id"], part["length"]) for part in result["segments"]]
    return frame.table(0, segments)


def _broken(op: str, error: OSError | None) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        f"the daemon went away during `{op}`",
        causes=[str(error)] if error else [],
        hint="see `forebay daemon logs`; the lake is as it was before, or has the whole change",
        fault="platform",
    )
