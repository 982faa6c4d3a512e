"""Small packages for tests, made on the spot: wheels with all that wheels may hold, and sources that do or do not build."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path


def wheel(folder: Path, name: str, files: dict[str, str], version: str = "1.0", scripts: str = "") -> Path:
    """A pure wheel; `{d}` in a path is its `.data` folder."""
    info = f"{name}-{version}.dist-info"
    whole = {path.replace("{d}", f"{name}-{version}.data"): text for path, text in files.items()}
    whole[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    whole[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if scripts:
        whole[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}\n"
    quoted = {path: f'"{path}"' if "," in path else path for path in whole}
    record = "".join(f"{quoted[path]},sha256={digest(text)},{len(text.encode())}\n" for path, text in whole.items())
    whole[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in whole.items():
            archive.writestr(member, text)
    return path


def digest(text: str) -> str:
    """As `RECORD` has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


#: A build backend of one file that needs nothing.
BACKEND = '''
import os, sys, zipfile
{first}
def build_wheel(folder, config=None, metadata=None):
    name = "{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        archive.writestr("{name}.py", "WORDS = 'built here'\\n")
        info = "{name}-1.0.dist-info/"
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(info + "RECORD", "{name}.py,,\\n" + info + "METADATA,,\\n" + info + "WHEEL,,\\n" + info + "RECORD,,\\n")
    return name
'''


def source(folder: Path, name: str, first: str = "") -> Path:
    """A package of sources only; `first` is executed when it is built."""
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.format(first=first, name=name),
    }
    path = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{member}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path
