"""The build backend of `pip install .`: maturin's, with the `forebay` command and `forebay/preload.so` put into the wheel first.

maturin builds one thing at a time, an extension module or a binary. This builds the binary and the allocator of Python
functions with cargo, leaves them where maturin takes further files from (`[tool.maturin] data` in pyproject.toml), and
lets maturin do the rest.
Works with and without build isolation, and builds into `CARGO_TARGET_DIR` if that is set.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import maturin
from maturin import get_requires_for_build_editable, get_requires_for_build_sdist, get_requires_for_build_wheel

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "target" / "wheel-data"
SCRIPTS = DATA / "scripts"

Settings = "dict[str, Any] | None"

# Without build isolation maturin lies beside this interpreter, which need not be on PATH.
if not shutil.which("maturin"):
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Builds the command, then the wheel."""
    _place_built()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Builds the command, then a wheel that points back here."""
    _place_built()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Everything git tracks; maturin wants its data folder to exist."""
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    return maturin.build_sdist(sdist_directory, config_settings)


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    """Metadata needs no build."""
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    return maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: Settings = None) -> str:
    """Metadata needs no build."""
    return prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def _place_built() -> None:
    command, library = _build()
    _place(command, SCRIPTS / "forebay")
    _place(library, DATA / "platlib" / "forebay" / "preload.so")


def _place(built: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = DATA / f"{place.name}.new"
    # Line tables are for developers; the wheel does without them.
    strip = shutil.which("strip")
    if not strip or subprocess.run([strip, "--strip-debug", "-o", fresh, built]).returncode != 0:
        shutil.copyfile(built, fresh)
    fresh.chmod(0o755)
    fresh.replace(place)


def _build() -> tuple[str, str]:
    """Where cargo left binary and library; cargo is asked, because settings can move the target folder.

    The whole workspace, as `cargo xtask` builds it: another choice of crates would be another choice of features, and
    would compile DataFusion once more.
    """
    cargo = os.environ.get("CARGO", "cargo")
    command = [cargo, "build", "--release", "--workspace", "--message-format", "json-render-diagnostics"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    messages = map(json.loads, done.stdout.splitlines())
    made = [path for message in messages for path in message.get("filenames", [])]
    found = [[path for path in made if Path(path).name == name] for name in ("forebay", "libforebay_preload.so")]
    if not all(found):
        raise RuntimeError(f"cargo built no `forebay` or no `libforebay_preload.so`: {made}")
    return found[0][-1], found[1][-1]
