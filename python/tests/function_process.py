"""Drives a function process as its supervisor does: a subprocess with the channel as standard input."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
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
    return written.blobs[0], [(segment, sealed(fd), fd) for segment, fd in zip(written.segments, written.fds)]


def sealed(fd: int) -> int:
    """Seals a segment as the supervisor does, only untrimmed, and gives its length."""
    fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
    return os.fstat(fd).st_size


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
                for segment, fd in zip(reply["segments"], frame.fds):
                    done.segments.append((segment, sealed(fd), os.dup(fd)))
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


def skip_unless_installed(name: str) -> None:
    for package in ("pandas", "polars", "duckdb"):
        if package in name and not has(package):
            pytest.skip(f"{package} is not installed")
    if "capsule" in name and version("pyarrow") < (14, 0):
        pytest.skip("this pyarrow exports no capsules")
