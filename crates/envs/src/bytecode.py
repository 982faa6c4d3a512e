"""Compiles byte code of packages. Executes none of it.

Arguments: a mark; then `ahead`, a folder for half-made files, the environment, how many processes, modules (with spaces between) and trees
of layers: what importing these modules will need, in the order in which an interpreter meets it; or `rest` and trees of layers: all that
is left of them, at the lowest priority. Each file appears with one rename. It ends with whoever started it: standard input closes.

Import statements are found by how lines look, since parsing takes as long as compiling: those of a module's outermost block, and of
blocks in it that are neither functions, classes nor for type checkers. What is found in a text by mistake is no module, or one
that is compiled before its time.
"""

import os
import re
import sys
import threading
from importlib._bootstrap_external import _code_to_timestamp_pyc, _write_atomic
from importlib.util import cache_from_source

SITE = "lib/python%d.%d/site-packages" % sys.version_info[:2]

#: More are left to whoever imports them: their indices fit into a pipe.
MODULES_MAX = 16_000

#: A block whose imports are for later, with all that is indented below its first line.
NOT_NOW = re.compile(
    rb"^([ \t]*)(?:async |def |class |if (?:\w+\.)?TYPE_CHECKING\b|if __name__)[^\n]*"
    rb"(?:\n(?:\1[ \t)\]}][^\n]*|[ \t]*#[^\n]*|[ \t]*(?=\n)))*",
    re.M,
)
_LINE = rb"((?:\\\n|[^#;\n])*)"
#: Groups: dots and name after `from`; names in brackets, or on a line; what follows `import` alone.
STATEMENT = re.compile(
    rb"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]*(?:\(([^)]*)\)|" + _LINE + rb")|import[ \t]+" + _LINE + rb")", re.M
)
COMMENT = re.compile(rb"#[^\n]*")


def names_of(text):
    """`a.b as c, d`: a.b and d."""
    text = COMMENT.sub(b"", text).replace(b"\\\n", b" ").decode("utf-8", "replace")
    return [words[0] for words in (item.split() for item in text.split(",")) if words]


class Imports:
    """The modules that others import, with those themselves."""

    def __init__(self, trees):
        self.order = []
        self._found = {}
        self._homes = {}
        for tree in trees:
            site = os.path.join(tree, SITE)
            for name in os.listdir(site) if os.path.isdir(site) else ():
                self._homes.setdefault(name[:-3] if name.endswith(".py") else name, []).append(tree)

    def visit(self, name):
        """A module, the packages it is in, and what they import."""
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[:length])
            if name not in self._found:
                self._found[name] = self._find(parts[:length])
                if self._found[name]:
                    self.order.append(self._found[name])
                    self._follow(parts[:length], self._found[name][1])

    def _find(self, parts):
        for tree in self._homes.get(parts[0], ()):
            base = os.path.join(tree, SITE, *parts)
            for path in (base + "/__init__.py", base + ".py"):
                if os.path.isfile(path):
                    return tree, path
        return None

    def _follow(self, parts, path):
        with open(path, "rb") as file:
            text = NOT_NOW.sub(b"", file.read())
        package = parts if path.endswith("/__init__.py") else parts[:-1]
        for dots, module, some, others, alone in STATEMENT.findall(text):
            for name in names_of(alone):
                self.visit(name)
            base = package[: len(package) - len(dots) + 1] if dots else []
            base = base + [part for part in module.decode("utf-8", "replace").split(".") if part]
            if not base or base[0] not in self._homes:
                continue
            base = ".".join(base)
            self.visit(base)
            if not self._found[base] or self._found[base][1].endswith("/__init__.py"):
                for name in names_of(some or others):
                    self.visit(base + "." + name)


def byte_code(path):
    """Where the byte code of a module belongs, and what it is; `None`: it is there."""
    target = cache_from_source(path)
    if os.path.exists(target):
        return None
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    state = os.stat(path)
    return target, _code_to_timestamp_pyc(code, int(state.st_mtime), state.st_size)


def make_folder_of(path):
    """Not `makedirs`, which makes the whole way to it: a package that was removed meanwhile would be half there again."""
    try:
        os.mkdir(os.path.dirname(path))
    except FileExistsError:
        pass


def compile_ahead(tree, path, staging, environment):
    """The byte code of a module, in its layer and in the environment."""
    found = byte_code(path)
    if not found:
        return
    target, code = found
    made = os.path.join(staging, "%d.pyc" % os.getpid())
    with open(made, "wb") as file:
        file.write(code)
    linked = os.path.join(environment, os.path.relpath(target, tree))
    make_folder_of(target)
    make_folder_of(linked)
    os.rename(made, target)
    os.link(target, linked)


def ends_with_its_starter():
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(1)), daemon=True).start()


def ahead(staging, environment, processes, modules, *trees):
    """Never raises: what cannot be compiled is left to whoever imports it."""
    sys.setrecursionlimit(20_000)
    imports = Imports(trees)
    for module in modules.split():
        try:
            imports.visit(module)
        except Exception:
            pass
    order = imports.order[:MODULES_MAX]
    # What is left to do, by index: who reads one does it.
    queue, fill = os.pipe()
    os.write(fill, b"".join(index.to_bytes(4, "little") for index in range(len(order))))
    os.close(fill)
    for _ in range(min(int(processes), len(order)) - 1):
        if os.fork() == 0:
            break
    ends_with_its_starter()
    while True:
        index = os.read(queue, 4)
        if not index:
            os._exit(0)
        try:
            compile_ahead(*order[int.from_bytes(index, "little")], staging, environment)
        except Exception:
            pass


def rest(*trees):
    """Tests are left out: they are most of the files, and nobody imports them. Never raises."""
    ends_with_its_starter()
    os.nice(19)
    for tree in trees:
        for folder, folders, files in os.walk(tree):
            folders[:] = [name for name in folders if name not in ("__pycache__", "tests", "test")]
            for name in files:
                if not name.endswith(".py"):
                    continue
                try:
                    found = byte_code(os.path.join(folder, name))
                    if found:
                        make_folder_of(found[0])
                        _write_atomic(*found)
                except Exception:
                    pass
        open(os.path.join(os.path.dirname(tree), "compiled"), "w").close()
    os._exit(0)


{"ahead": ahead, "rest": rest}[sys.argv[2]](*sys.argv[3:])
