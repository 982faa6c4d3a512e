"""Errors of a function as replies: the user's traceback, trimmed to their code, and our words after it."""

from __future__ import annotations

import errno
import os
import resource
import sys
import traceback
from typing import Any

from ._function import Failure, _NotLoaded, _Raised
from ._native import Error

_FRAMES_MAX = 30
_HERE = os.path.dirname(os.path.abspath(__file__))

# Packages that are imported under another name than they are installed by.
_PACKAGE_OF = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "google": "google-cloud",
    "jwt": "pyjwt",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "psycopg2": "psycopg2-binary",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def failure(error: BaseException, node: str, project: str) -> dict[str, Any]:
    """The `failed` reply for whatever ended the call."""
    if isinstance(error, _Raised):
        return _raised(error, node, project)
    if isinstance(error, Failure):
        return _reply(error.code, error.message, error.causes, error.hint)
    if isinstance(error, Error):
        code, message, causes, hint, fault = error.args
        return _reply(code, message, causes, hint, fault=fault)
    ours = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return _reply("RUN0115", f"could not run `{node}`", [_line(error)], None, ours, "platform")


def assertion(error: AssertionError, project: str) -> str:
    """The text of a failed `assert`, or its source line if it has no text."""
    text = str(error).strip()
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename, project)]
    if not frames:
        return text or "an assertion failed"
    last = frames[-1]
    place = f"{_relative(last.filename, project)}:{last.lineno}"
    return f"{text or last.line or 'an assertion failed'} ({place})"


def _raised(raised: _Raised, node: str, project: str) -> dict[str, Any]:
    error = raised.error
    trace = _trace(error, project)
    at_import = isinstance(raised, _NotLoaded)
    what = f"could not load the file of `{node}`" if at_import else f"could not run `{node}`"
    if isinstance(error, SystemExit):
        code = "" if error.code is None else f" with `{error.code}`"
        return _reply("RUN0105", what, [f"it called `exit`{code}"], "return a table, or raise an exception", trace)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _reply("RUN0103", what, [_line(error)], _missing(error.name), trace)
    if at_import:
        return _reply("RUN0102", what, [_line(error)], None, trace)
    if isinstance(error, ValueError) and "read-only" in str(error):
        hint = "inputs are shared with other functions: make a copy and change that, for example `array = array.copy()`"
        return _reply("RUN0114", f"could not run `{node}`: it writes into an input", [_line(error)], hint, trace)
    hint = None
    if "onnection has already been closed" in _line(error):
        hint = "the duckdb connection was closed before its relation was read: return `relation.fetch_arrow_table()`"
    if isinstance(error, MemoryError):
        return _out_of_memory(node, error, trace)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return _full(node, error, trace)
    if isinstance(error, BlockingIOError) and "fork" in trace or "can't start new thread" in _line(error):
        hint = "start fewer: a pool of one process per core (`@forebay.resources(cpus=…)`) is enough"
        return _reply("RUN0121", f"`{node}` could not start another process or thread", [_line(error)], hint, trace)
    return _reply("RUN0101", what, [_line(error)], hint, trace)


def _out_of_memory(node: str, error: BaseException, trace: str) -> dict[str, Any]:
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    held = f"at most it used {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB at a time"
    what = f"`{node}` ran out of memory"
    more = ""
    if limit != resource.RLIM_INFINITY:
        what = f"`{node}` used more memory than its limit of {limit >> 20} MiB"
        more = f": `@forebay.resources(memory=\"{limit >> 19}MiB\")`, or `forebay run --memory {limit >> 19}MiB`"
    return _reply("RUN0031", what, [_line(error), held], f"read fewer columns or rows, or give it more{more}", trace)


#: Size of `/tmp` beyond which more memory makes it no larger, in MiB: `TMP_BYTES_MAX` of the sandbox.
_TMP_MIB_MAX = 4096


def _full(node: str, error: OSError, trace: str) -> dict[str, Any]:
    """A full disk: the function's own, unless what was written lies elsewhere."""
    causes, size = [_line(error)], 0
    for folder in ("/tmp", "/dev/shm"):
        try:
            space = os.statvfs(folder)
        except OSError:
            continue
        used = (space.f_blocks - space.f_bfree) * space.f_frsize
        size = space.f_blocks * space.f_frsize >> 20
        # Temporary files are often gone by now, removed by the very error.
        causes.append(f"`{folder}` holds {size} MiB at most; {used >> 20} MiB are in use now, after what was removed since")
    more = f'give it more memory, of which each is half (`@forebay.resources(memory="{size * 4}MiB")`), or write less'
    hint = more if size < _TMP_MIB_MAX else "write less, or pass data on as tables: larger than this they do not get"
    return _reply("RUN0120", f"`{node}` filled its disk", causes, hint, trace)


def _missing(module: str) -> str:
    top = module.split(".")[0]
    if top in getattr(sys, "stdlib_module_names", ()):
        return f"`{module}` is not part of Python {sys.version_info.major}.{sys.version_info.minor}"
    package = _PACKAGE_OF.get(top, top)
    return f"package `{package}` is not in this model's environment: add it to `@forebay.python(pip=…)`"


def _line(error: BaseException) -> str:
    """`KeyError: 'x'`, as the last line of a traceback."""
    lines = traceback.format_exception_only(type(error), error)
    return lines[-1].strip() if lines else type(error).__name__


def _reply(
    code: str, message: str, causes: list[str], hint: str | None, trace: str | None = None, fault: str = "request"
) -> dict[str, Any]:
    return {
        "reply": "failed",
        "code": code,
        "message": message,
        "causes": causes,
        "hint": hint,
        "traceback": trace,
        "fault": fault,
    }


def _trace(error: BaseException, project: str) -> str:
    return "\n".join(_chain(traceback.TracebackException.from_exception(error), project, set()))


def _chain(told: traceback.TracebackException, project: str, seen: set[int]) -> list[str]:
    seen.add(id(told))
    lines: list[str] = []
    cause, context = told.__cause__, told.__context__
    if cause is not None and id(cause) not in seen:
        lines += _chain(cause, project, seen)
        lines += ["", "The above exception was the direct cause of the following exception:", ""]
    elif context is not None and not told.__suppress_context__ and id(context) not in seen:
        lines += _chain(context, project, seen)
        lines += ["", "During handling of the above exception, another exception occurred:", ""]
    if isinstance(getattr(told, "filename", None), str):
        told.filename = _relative(told.filename, project)
    frames = _frames(told.stack, project)
    if frames:
        lines += ["Traceback (most recent call last):", *frames]
    lines += "".join(told.format_exception_only()).rstrip("\n").split("\n")
    return lines


def _frames(stack: traceback.StackSummary, project: str) -> list[str]:
    """The user's frames, and a line for each group of others between and after them. Ours at the top are left out."""
    groups: list[list[str]] = []
    elsewhere: list[str] = []
    for frame in stack:
        if _is_users(frame.filename, project):
            if elsewhere and groups:
                groups.append([_summary(elsewhere)])
            elsewhere = []
            place = f'  File "{_relative(frame.filename, project)}", line {frame.lineno}, in {frame.name}'
            groups.append([place, f"    {frame.line}"] if frame.line else [place])
        elif not frame.filename.startswith((_HERE, "<frozen importlib")):
            elsewhere.append(frame.filename)
    if elsewhere and groups:
        groups.append([_summary(elsewhere)])
    if len(groups) > _FRAMES_MAX:
        half = _FRAMES_MAX // 2
        groups[half:-half] = [[f"  … {len(groups) - _FRAMES_MAX} more calls …"]]
    return [line for group in groups for line in group]


def _summary(files: list[str]) -> str:
    packages = dict.fromkeys(map(_package, files))
    calls = "1 call" if len(files) == 1 else f"{len(files)} calls"
    return f"    … {calls} inside {', '.join(packages)}"


def _package(file: str) -> str:
    for folder in ("site-packages", "dist-packages"):
        _, found, rest = file.partition(f"{os.sep}{folder}{os.sep}")
        if found:
            return rest.split(os.sep)[0].removesuffix(".py")
    return "Python"


def _is_users(file: str, project: str) -> bool:
    return bool(project) and file.startswith(project.rstrip(os.sep) + os.sep)


def _relative(file: str, project: str) -> str:
    return os.path.relpath(file, project) if _is_users(file, project) else file
