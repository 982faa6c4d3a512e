"""A zygote: imports what the functions of a project import, executes nothing else, and forks a process for each call.

```text
supervisor -> here   {"modules": […]}                                    then, per child, what the child should know
here -> supervisor   {"importing": name}
                     {"imported": name, "seconds", "why", "raised"}              `why`: after this, a fork would not be safe
                     {"ready": true, "bytes": private memory}
```

It has no data, no secrets and no network, and sees neither the project nor the lake: see `crates/sandbox/src/zygote.rs`. A child
gets its call as a function process of its own would.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import threading
import time
from importlib.machinery import PathFinder
from typing import Any, Callable, NoReturn, Optional

from . import _function, _function_errors  # noqa: F401  (the second is needed when there may be no memory left to import it)
from ._native import Channel, Door, set_name, start_arena

#: Packages whose own threads, started by an import, do no harm in a child that has them no more: they start others when they
#: need them. Tried with each of them (`tests/test_zygotes.py`); of others that is not known.
THREADS_ARE_HARMLESS = frozenset(("numpy", "pyarrow", "pandas", "polars", "duckdb", "scipy", "sklearn"))


def main() -> NoReturn:
    """Never returns: a zygote ends when its supervisor wants no more of it, a child with its call."""
    door = Door.from_stdin()
    set_name("forebay-zygote")
    wanted = json.loads(door.hear())
    _function.prepare()
    harmless = _Harmless()
    sys.meta_path.insert(0, harmless)
    for name in wanted["modules"]:
        if not _import(door, name, harmless):
            os._exit(0)
    sys.meta_path.remove(harmless)
    # Nothing in here is ever collected: a collector that looks at it in a child would copy its pages.
    gc.collect()
    gc.freeze()
    door.say(json.dumps({"ready": True, "bytes": _private_bytes()}))
    word = door.serve()
    if word is None:
        os._exit(0)
    _be_born(json.loads(word))


def _be_born(word: dict[str, Optional[int]]) -> NoReturn:
    """Goes on as the process of one call."""
    start_arena(word["limit"])
    _reseed()
    _function.serve(Channel.from_stdin(), lambda: set_name("forebay-call"))


def _reseed() -> None:
    """No two children draw the same numbers. (Generators that are made in the child are seeded by the system anyway.)"""
    if "random" in sys.modules:
        sys.modules["random"].seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


class _Harmless:
    """Counts the threads that harmless packages start, whoever imports them."""

    def __init__(self) -> None:
        self.threads = 0
        self._inside = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The usual one, whose module is watched while it is executed."""
        if name.partition(".")[0] not in THREADS_ARE_HARMLESS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self._count(execute, module)  # type: ignore[method-assign]
        return spec

    def _count(self, execute: Callable[[Any], None], module: Any) -> None:
        if self._inside:
            return execute(module)
        self._inside, before = True, _threads()
        try:
            execute(module)
        finally:
            self._inside = False
            self.threads += _threads() - before


def _import(door: Door, name: str, harmless: _Harmless) -> bool:
    """Whether the zygote may go on with this module in it."""
    door.say(json.dumps({"importing": name}))
    before, start, raised = _State(harmless), time.monotonic(), False
    try:
        importlib.import_module(name)
        why = before.objection(harmless)
    except BaseException as error:
        # The function will tell its user, if it needs the module.
        why, raised = f"importing it raises {type(error).__name__}", True
    door.say(json.dumps({"imported": name, "seconds": time.monotonic() - start, "why": why, "raised": raised}))
    return why is None


class _State:
    """What a fork would share with a child, or take away from it."""

    def __init__(self, harmless: _Harmless) -> None:
        self.threads = _threads() - harmless.threads
        self.descriptors = {name: _target(name) for name in os.listdir("/proc/self/fd")}
        self.shared = _shared_maps()

    def objection(self, harmless: _Harmless) -> Optional[str]:
        """What is new since then that makes a fork unsafe."""
        now = _State(harmless)
        if threading.active_count() > 1:
            return "importing it starts a Python thread"
        if now.threads > self.threads:
            return "importing it starts threads"
        opened = [target for fd, target in now.descriptors.items() if target and self.descriptors.get(fd) != target]
        if opened:
            return f"importing it leaves {opened[0]} open"
        if now.shared > self.shared:
            return "importing it maps memory that its children would share"
        return None


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _target(descriptor: str) -> Optional[str]:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return None  # The one by which the folder was listed.


def _shared_maps() -> int:
    """Mappings that parent and child would both write to."""
    with open("/proc/self/maps") as maps:
        return sum(1 for line in maps if line.split(" ", 2)[1][1::2] == "ws")


def _private_bytes() -> int:
    """Memory that is this process's alone, in bytes."""
    with open("/proc/self/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Anonymous:"))
