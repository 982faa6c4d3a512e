"""Other engines at our Iceberg REST catalog: a server of a lab's lake, PyIceberg and DuckDB as its clients, and plain HTTP."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from conftest import END_S, Lab, Started, ends
from pyiceberg.catalog.rest import RestCatalog


@dataclass
class Reply:
    """What the server answered."""

    status: int
    body: Any
    headers: dict[str, str]


class RestServer:
    """`forebay serve` on a port of its own, for as long as the `with` block."""

    def __init__(self, lab: Lab, *args: str) -> None:
        self.lab = lab
        self.started: Started = lab.start("serve", "--port", "0", "-o", "json", *args)
        line = self.started.line("stdout")
        assert line, str(self.started.wait())
        said = json.loads(line)
        self.url: str = said["url"]
        self.token: str | None = said["token"]
        self.said = said

    def __enter__(self) -> RestServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ctrl-C, and its end."""
        if self.started.popen.poll() is None:
            self.started.interrupt()
            assert ends(self.started.popen.pid, END_S), "the server does not end"
        self.started.wait()

    def base(self, ref: str = "main") -> str:
        """The catalog of a ref."""
        return f"{self.url}/iceberg/{urllib.parse.quote(ref, safe='')}"

    def pyiceberg(self, ref: str = "main", **properties: str) -> RestCatalog:
        """A catalog of PyIceberg's, with the token unless `properties` say otherwise."""
        if self.token and not {"token", "credential"} & properties.keys():
            properties["token"] = self.token
        return RestCatalog("lake", uri=self.base(ref), **properties)

    def duck(self, ref: str = "main", options: str | None = None) -> duckdb.DuckDBPyConnection:
        """DuckDB with the catalog of a ref attached, and in use, as `lake`."""
        connection = duck()
        if options is None:
            options = f"TOKEN '{self.token}'" if self.token else "AUTHORIZATION_TYPE 'none'"
        connection.execute(f"ATTACH '' AS lake (TYPE iceberg, ENDPOINT '{self.base(ref)}', {options})")
        return connection

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request with the token, unless `Authorization` is given (empty: none). `body` is JSON, or bytes as they are."""
        host = self.url.removeprefix("http://")
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        if not headers.get("Authorization"):
            headers.pop("Authorization", None)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(host, timeout=60)
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read()
            parsed = json.loads(text) if text else None
            return Reply(answer.status, parsed, {name.lower(): value for name, value in answer.getheaders()})
        finally:
            connection.close()


def duck() -> duckdb.DuckDBPyConnection:
    """DuckDB with its Iceberg extension, loaded from the wheels' files; nothing is downloaded."""
    import duckdb_extension_avro
    import duckdb_extension_httpfs
    import duckdb_extension_iceberg

    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    connection.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false; SET TimeZone = 'UTC'")
    modules = {"avro": duckdb_extension_avro, "httpfs": duckdb_extension_httpfs, "iceberg": duckdb_extension_iceberg}
    for name, module in modules.items():
        [file] = Path(module.__file__).parent.glob(f"extensions/v{duckdb.__version__}/{name}.duckdb_extension")
        connection.execute(f"LOAD '{file}'")
    return connection
