"""Python snippets of the guide and the example's README: they compile, use names and arguments that exist, and those
marked `python run` run against a home of their own, page by page, if there is a binary (`FOREBAY_BIN`)."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import forebay

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/guide/*.md"), *ROOT.glob("examples/*/README.md"), ROOT / "README.md"])
FENCE = re.compile(r"^```python( run)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def snippets(page: Path):
    text = page.read_text()
    for found in FENCE.finditer(text):
        line = text[: found.start()].count("\n") + 1
        yield line, bool(found.group(1)), "\n" * line + found.group(2)


ALL = [pytest.param(page, line, code, id=f"{page.name}:{line}") for page in PAGES for line, _, code in snippets(page)]
RUN = [page for page in PAGES if any(marked for _, marked, _ in snippets(page))]


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def public(path: str):
    """The object behind `forebay.x.y` or `client.x`."""
    first, *rest = path.split(".")
    value = {"forebay": forebay, "client": forebay.Client}[first]
    for name in rest:
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(("page", "line", "code"), ALL)
def test_snippets_use_what_exists(page, line, code):
    tree = ast.parse(code, filename=str(page))
    for node in ast.walk(tree):
        path = dotted(node) if isinstance(node, ast.Attribute) else ""
        if path.startswith(("forebay.", "client.")) and "?" not in path:
            public(path)
        if isinstance(node, ast.Call) and dotted(node.func).startswith(("forebay.", "client.")):
            known = inspect.signature(public(dotted(node.func))).parameters
            given = {keyword.arg for keyword in node.keywords if keyword.arg}
            assert given <= set(known) or any(p.kind is p.VAR_KEYWORD for p in known.values()), (line, given - set(known))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("forebay"):
            module = __import__(node.module, fromlist=["x"])
            for alias in node.names:
                assert hasattr(module, alias.name), alias.name


@pytest.mark.skipif("FOREBAY_BIN" not in os.environ, reason="skipped: FOREBAY_BIN names no binary to run against")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_marked_snippets_run(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text("\n".join(code.lstrip("\n") for _, marked, code in snippets(page) if marked))
    home = {"FOREBAY_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    settings = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_") or name == "FOREBAY_BIN"}
    try:
        done = subprocess.run([sys.executable, script], cwd=tmp_path, env={**settings, **home}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run([os.environ["FOREBAY_BIN"], "daemon", "stop"], env={**settings, **home}, capture_output=True)


def test_the_guide_has_snippets():
    assert len(ALL) > 10 and RUN
