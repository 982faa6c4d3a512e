"""The stub of the native module names what the module has, no more and no less; versions agree everywhere."""

import ast
import re
from pathlib import Path

import pytest

import forebay

ROOT = Path(__file__).parents[2]
STUB = Path(forebay.__file__).with_name("_native.pyi")


def public(names):
    kept = ("__version__", "__enter__", "__exit__", "__arrow_c_schema__", "__arrow_c_stream__")
    return {name for name in names if not name.startswith("_") or name in kept}


def test_the_stub_of_the_native_module_is_complete():
    native = pytest.importorskip("forebay._native", reason="skipped: the native module is not built here")
    declared = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef):
            declared[node.name] = public(part.name for part in node.body if isinstance(part, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef):
            declared[node.name] = None
        elif isinstance(node, ast.AnnAssign):
            declared[node.target.id] = None
    assert set(declared) == public(vars(native))
    for name, members in declared.items():
        if members is not None and name != "Error":
            assert members == public(vars(getattr(native, name))), name


def test_versions_agree():
    python = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    cargo = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert python.group(1) == cargo.group(1) == forebay.__version__
