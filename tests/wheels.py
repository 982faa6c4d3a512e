"""Small packages for tests, made on the spot: wheels with all that wheels may hold, and sources that do or do not build."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import tarfile
import threading
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


class Index:
    """A package index of the files of a folder, for who knows the password. Gives its port."""

    def __init__(self, folder: Path, user: str, password: str) -> None:
        expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802
                if self.headers.get("Authorization") != expected:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", "Basic realm=x")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                kind, body = self.page()
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET

            def page(self) -> tuple[str, bytes]:
                parts = self.path.split("?")[0].strip("/").split("/")
                if parts[0] == "files" and (folder / parts[-1]).is_file():
                    return "application/octet-stream", (folder / parts[-1]).read_bytes()
                if parts[0] == "simple" and len(parts) == 2:
                    wanted = parts[1].replace("-", "_")
                    names = [path.name for path in folder.iterdir() if path.name.startswith(wanted + "-")]
                    links = "".join(f'<a href="/files/{name}">{name}</a>' for name in names)
                    return "text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode() if links else b""
                return "text/plain", b""

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> int:
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self.server.server_address[1]

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


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
