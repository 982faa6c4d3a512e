"""A function process: takes one call from the channel on standard input, runs the user's function, gives one reply, exits.

```text
supervisor -> here   {"node", "segments", "inputs", "work", "output_segment", "preview"}   a message per input, a descriptor per segment
here -> supervisor   {"reply": "table" | "truth" | "failed", …}                            the result's message, the new segments
```

The twin of `crates/sipc/src/call.rs`. Starting up is on every node's path, so this module imports next to nothing before the
call: `_function_inputs` and `_function_results` come with the call, `_function_errors` with the first error. `FOREBAY_WARM`
names modules (`pyarrow,pandas`) to import while waiting for it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Callable, NoReturn

from ._native import Channel, Output, die_with_parent


def main() -> NoReturn:
    """Runs one call and ends the process. Never returns: what the user's modules registered with `atexit` still runs."""
    die_with_parent()
    channel = Channel.from_stdin()
    sys.dont_write_bytecode = True
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    _warm(os.environ.pop("FOREBAY_WARM", ""))
    _prepare()
    frame = channel.receive()
    if frame is None:
        os._exit(0)
    pid = os.getpid()
    reply = _Reply()
    try:
        _run(frame, json.loads(frame.header), reply)
    except BaseException as error:
        if os.getpid() == pid:
            reply.fail(error)
    if os.getpid() != pid:
        os._exit(0)  # A child that the user's function forked came back here; the reply is its parent's.
    _flush()
    # Texts of user code may hold lone surrogates, which are no JSON.
    header = json.dumps(reply.header, ensure_ascii=False).encode("utf-8", "replace").decode()
    channel.send(header, reply.blobs, reply.fds)
    _leave(channel)


class _Reply:
    """What will be said, and how to say that it failed: both need to know the call."""

    def __init__(self) -> None:
        self.header: dict[str, Any] = {}
        self.blobs: list[bytes] = []
        self.fds: list[int] = []
        self.node = "?"
        self.project = ""

    def fail(self, error: BaseException) -> None:
        from . import _function_errors

        self.blobs, self.fds = [], []
        self.header = _function_errors.failure(error, self.node, self.project)


def _run(frame: Any, call: dict[str, Any], reply: _Reply) -> None:
    from . import _function_inputs

    work = call["work"]
    reply.node, reply.project = call["node"], work["project"]
    function = _load(work["project"], work["file"], work["function"])
    started = time.monotonic_ns()
    inputs = frame.inputs([(segment["id"], segment["length"]) for segment in call["segments"]])
    arguments, converted = _function_inputs.arguments(work["arguments"], call["inputs"], frame.blobs, inputs)
    received = time.monotonic_ns() - started
    if work["truth"]:
        reply.header = _truth(function, arguments, reply)
        return
    result = _call(function, arguments)
    returned_at = time.monotonic_ns()

    from . import _function_results

    table, warnings = _function_results.table(result)
    del result
    written = _function_results.write(Output(call["output_segment"], inputs), table, call["preview"])
    reply.fds = written.fds
    warnings += _function_results.check_columns(written.column_names, work["columns"], work["strict"])
    reply.blobs = written.blobs
    reply.header = {
        "reply": "table",
        "rows": written.rows,
        "bytes": written.bytes,
        "copies": [{"reason": reason, "bytes": count} for reason, count in written.copies],
        "segments": written.segments,
        "times": {"received_ns": received, "returned_at_ns": returned_at},
        "converted_bytes": converted,
        "preview": written.preview,
        "warnings": warnings,
    }


def _truth(function: Callable[..., Any], arguments: dict[str, Any], reply: _Reply) -> dict[str, Any]:
    """An expectation's verdict; an `assert` that fails in it is a verdict, too."""
    from . import _function_results

    try:
        result = _call(function, arguments)
    except _Raised as raised:
        if not isinstance(raised.error, AssertionError):
            raise
        from . import _function_errors

        return {"reply": "truth", "value": False, "message": _function_errors.assertion(raised.error, reply.project)}
    return {"reply": "truth", "value": _function_results.truth(result)}


class _Raised(Exception):
    """The user's function raised `error`."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _NotLoaded(_Raised):
    """The user's file raised `error` when it was imported."""


class Failure(Exception):
    """An error with a code, found by this side and not by the user's code."""

    def __init__(self, code: str, message: str, *causes: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.causes, self.hint = code, message, list(causes), hint


def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        return function(**arguments)
    except BaseException as error:
        raise _Raised(error) from None


def _load(project: str, file: str, name: str) -> Callable[..., Any]:
    """The function `name` of the project's `file`, imported as a module of the file's name."""
    import importlib.util

    from . import _function_duckdb

    _function_duckdb.keep_connections()
    path = os.path.join(project, file)
    stem = os.path.splitext(os.path.basename(file))[0]
    sys.path[:0] = dict.fromkeys([project, os.path.dirname(path)])
    sys.argv = [path]
    spec = importlib.util.spec_from_file_location(stem, path)
    if spec is None or spec.loader is None:
        raise Failure("RUN0102", f"could not load `{file}`", "it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        raise _NotLoaded(error) from None
    function = getattr(module, name, None)
    if not callable(function):
        found = "nothing of that name" if function is None else f"a `{type(function).__name__}` of that name"
        raise Failure(
            "RUN0104",
            f"could not find the function `{name}` in `{file}`",
            f"importing the file leaves {found}",
            hint="define it at the top level of the file with `def`, and do not assign to its name",
        )
    return function  # type: ignore[no-any-return]


def _warm(names: str) -> None:
    for name in filter(None, names.split(",")):
        try:
            __import__(name)
        except Exception:
            pass  # The call will tell, if it needs the module.


def _prepare() -> None:
    """Imports what a call needs of this package, so that no call waits for it."""
    import atexit  # noqa: F401
    import importlib.util  # noqa: F401

    from . import _function_duckdb, _function_inputs, _function_results  # noqa: F401


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass


def _leave(channel: Channel) -> NoReturn:
    """Runs exit handlers, then leaves without tearing the interpreter down: nothing in it is needed any more."""
    import atexit

    try:
        atexit._run_exitfuncs()
    except BaseException:
        pass
    _flush()
    channel.leave()
