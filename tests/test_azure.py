"""A lake in Azure Blob Storage, as Azurite plays it (`npm install azurite`). Skipped where `azurite-blob` is neither on PATH nor
named by FOREBAY_AZURITE."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import http.client
import io
import os
import shutil
import subprocess
from pathlib import Path
from typing import Iterator

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import Lab
from s3_server import RUNNING, free_ports

AZURITE = os.environ.get("FOREBAY_AZURITE") or shutil.which("azurite-blob")
#: The one account of every Azurite.
ACCOUNT, KEY = "devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

pytestmark = pytest.mark.skipif(AZURITE is None, reason="no `azurite-blob` on PATH (`npm install azurite`)")


class Azurite:
    """One server process."""

    def __init__(self, folder: Path) -> None:
        [self.port] = free_ports(1)
        assert AZURITE
        command = [AZURITE, "--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location", str(folder)]
        command += ["--skipApiVersionCheck", "--disableTelemetry"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        RUNNING.add(self.process.pid)
        assert self.process.stdout
        said = []
        while not any("successfully listen" in line for line in said):
            line = self.process.stdout.readline()
            assert line, "".join(said)
            said.append(line)

    def put(self, path: str, content: bytes = b"") -> None:
        """A blob; of a path without a slash, a container."""
        name, query = (path, "") if "/" in path else (f"{path}?restype=container", "\nrestype:container")
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
        own = {"x-ms-date": now, "x-ms-version": "2021-08-06"} | ({} if query else {"x-ms-blob-type": "BlockBlob"})
        lines = "".join(f"{key}:{own[key]}\n" for key in sorted(own))
        text = f"PUT\n\n\n{len(content) or ''}\n\n\n\n\n\n\n\n\n{lines}/{ACCOUNT}/{ACCOUNT}/{path}{query}"
        mark = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("PUT", f"/{ACCOUNT}/{name}", content, own | {"Authorization": f"SharedKey {ACCOUNT}:{mark}"})
        assert connection.getresponse().status == 201

    def variables(self) -> dict[str, str]:
        """By which a client finds it."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{self.port}/{ACCOUNT}",
        }

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()
        RUNNING.discard(self.process.pid)


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """One server for all tests here."""
    server = Azurite(tmp_path_factory.mktemp("azurite"))
    server.put("lakes")
    server.put("sources")
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def far(lab: Lab, azurite: Azurite) -> Lab:
    """A lab whose lake is in a container."""
    lab.environment.update(azurite.variables(), FOREBAY_LAKE=f"az://lakes/{lab.folder.name}")
    return lab


def test_a_days_work(far: Lab, azurite: Azurite) -> None:
    """Import, run, query, branch, merge, tag, delete, gc."""
    far.load("numbers", pa.table({"x": list(range(1000))}))
    project = far.project("""
        @forebay.model(materialization_strategy="REPLACE")
        def doubled(numbers=forebay.Model("numbers", filter="x >= 100")):
            import pyarrow.compute as pc
            return pa.table({"y": pc.multiply(numbers["x"], 2)})
    """)
    far.run(project).ok()
    assert far.rows("SELECT count(*) AS n, sum(y) AS s FROM doubled") == [{"n": 900, "s": sum(range(200, 2000, 2))}]
    far.forebay("branch", "create", "dev").ok()
    far.load("numbers", pa.table({"x": [1]}), branch="dev")
    assert far.rows("SELECT count(*) AS n FROM numbers") == [{"n": 1000}]
    far.forebay("branch", "merge", "dev", "--into", "main").ok()
    assert far.rows("SELECT count(*) AS n FROM numbers") == [{"n": 1}]
    far.forebay("tag", "create", "v1").ok()
    far.forebay("branch", "delete", "dev").ok()
    far.forebay("branch", "create", "dev").ok()
    far.forebay("gc", "--grace", "0s").ok()
    assert far.rows("SELECT count(*) AS n FROM numbers", "v1") == [{"n": 1}]
    assert far.rows("SELECT count(*) AS n FROM numbers", "main~2") == [{"n": 1000}]


def test_writers_in_a_race_lose_nothing(far: Lab) -> None:
    """All of one table, and for one name."""
    import pyarrow.parquet

    for number in range(5):
        pyarrow.parquet.write_table(pa.table({"x": [number]}), far.folder / f"{number}.parquet")
    far.forebay("table", "create", "t", "--search-uri", far.folder / "0.parquet").ok()
    started = [far.start("table", "import", "t", "--search-uri", far.folder / f"{number}.parquet") for number in range(5)]
    started += [far.start("branch", "create", "same") for _ in range(3)]
    codes = [command.wait().code for command in started]
    assert codes[:5] == [0] * 5 and sorted(codes[5:]) == [0, 1, 1]
    assert far.rows("SELECT count(*) AS n, sum(x) AS s FROM t") == [{"n": 5, "s": 10}]


def test_files_of_a_container(lab: Lab, azurite: Azurite) -> None:
    """Imported into a lake on the disk, and read as a table where they lie."""
    lab.environment.update(azurite.variables())
    for year in (2023, 2024):
        memory = io.BytesIO()
        pyarrow.parquet.write_table(pa.table({"id": [year, year + 1]}), memory)
        azurite.put(f"sources/p/year={year}/a.parquet", memory.getvalue())
    azurite.put("sources/p/b.csv", b"id\n7\n")
    lab.forebay("table", "create", "t", "--search-uri", "az://sources/p/*.csv").ok()
    assert lab.json("table", "import", "t", "--search-uri", "az://sources/p/**/*.parquet", "--best-effort")["rows"] == 4
    assert lab.json("table", "import", "t", "--search-uri", "az://sources/p")["rows"] == 1
    lab.forebay("table", "create-external", "u", "--search-pattern", "az://sources/p/year=*").ok()
    assert lab.rows("SELECT id FROM u WHERE year = 2024 ORDER BY id") == [{"id": 2024}, {"id": 2025}]


def test_what_is_missing_is_said(far: Lab) -> None:
    """By the names of Azure."""

    def code(**variables: str) -> str:
        kept = dict(far.environment)
        far.environment.update(variables)
        done = far.forebay("branch", "ls", "-o", "json")
        far.environment.clear()
        far.environment.update(kept)
        assert done.code != 0 and KEY not in done.out + done.err, str(done)
        return done.json["error"]["code"]

    assert code(AZURE_STORAGE_ACCOUNT_NAME="") == "LAK0080"
    assert code(AZURE_STORAGE_ACCOUNT_KEY="no base 64") == "LAK0080"
    assert code(AZURE_STORAGE_ACCOUNT_KEY=base64.b64encode(b"another" * 9).decode()) == "LAK0082"
    assert code(FOREBAY_LAKE="az://nothing-of-the-kind/x") == "LAK0081"
