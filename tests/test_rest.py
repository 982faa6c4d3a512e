"""The Iceberg REST catalog: who is served, what is served where, and what hostile clients get. Plain HTTP and both clients."""

from __future__ import annotations

import base64
import os
import re
import shlex
import socket
import urllib.parse
from pathlib import Path
from typing import Iterator

import duckdb
import pyarrow as pa
import pytest
from conftest import Lab
from engines import RestServer, duck
from pyiceberg.exceptions import ForbiddenError, NoSuchTableError, UnauthorizedError

GUIDE = Path(__file__).parents[1] / "docs/guide/other-engines.md"
ROWS = pa.table({"id": [1, 2, 3], "name": ["a", "b", None]})


@pytest.fixture
def server(lab: Lab) -> Iterator[RestServer]:
    """A lake with the table `trips`, served with its token."""
    lab.load("trips", ROWS)
    with RestServer(lab) as server:
        yield server


def test_both_clients_read_what_we_wrote(lab: Lab, server: RestServer) -> None:
    table = server.pyiceberg().load_table("default.trips")
    assert table.scan().to_arrow().to_pylist() == ROWS.to_pylist()
    assert table.metadata_location == lab.metadata("trips")
    assert server.duck().execute("SELECT * FROM lake.default.trips ORDER BY id").fetchall() == [(1, "a"), (2, "b"), (3, None)]


def test_what_it_prints_can_be_pasted(lab: Lab) -> None:
    lab.load("trips", ROWS)
    started = lab.start("serve", "--port", "0")
    lines = [started.line("stdout").strip() for _ in range(12)]
    text = [line for line in lines if line]
    python = [line for line in text if "RestCatalog" in line]
    scope: dict[str, object] = {}
    exec("\n".join(python), scope)
    assert scope["catalog"].list_tables("default") == [("default", "trips")]
    [attach] = [line for line in text if line.startswith("ATTACH")]
    connection = duck()
    connection.execute(attach)
    assert connection.execute("SELECT count(*) FROM lake.default.trips").fetchall() == [(3,)]
    assert "Ctrl-C" in started.line("stderr")
    started.interrupt()
    assert started.wait().code == 0


def test_the_token_is_the_same_next_time_and_private(lab: Lab, server: RestServer) -> None:
    server.end()
    with RestServer(lab) as again:
        assert again.token == server.token and len(server.token or "") == 64
    assert (lab.home / "state" / "rest-token").stat().st_mode & 0o777 == 0o600


def test_nobody_is_let_in_without_the_token(lab: Lab, server: RestServer) -> None:
    for path in ("config", "namespaces", "namespaces/default/tables/trips"):
        for wrong in ("", "Bearer nonsense", f"Basic {server.token}", "Bearer None"):
            reply = server.ask("GET", f"/iceberg/main/v1/{path}", Authorization=wrong)
            assert (reply.status, reply.body["error"]["type"]) == (401, "NotAuthorizedException")
            assert "RST0002" in reply.body["error"]["message"] and reply.headers["www-authenticate"] == "Bearer"
    head = lab.head()
    assert server.ask("POST", "/iceberg/main/v1/namespaces", {"namespace": ["x"]}, Authorization="").status == 401
    assert lab.head() == head
    with pytest.raises(UnauthorizedError):
        server.pyiceberg(token="wrong")
    with pytest.raises(duckdb.Error):
        server.duck(options="TOKEN 'wrong'")


def test_client_credentials(server: RestServer) -> None:
    """Both clients' OAuth forms: the secret is the token."""
    catalog = server.pyiceberg(credential=f"anybody:{server.token}")
    assert catalog.list_tables("default") == [("default", "trips")]
    connection = server.duck(options=f"CLIENT_ID 'anybody', CLIENT_SECRET '{server.token}'")
    assert connection.execute("SELECT count(*) FROM lake.default.trips").fetchall() == [(3,)]
    path = "/iceberg/main/v1/oauth/tokens"
    wrong = server.ask("POST", path, b"grant_type=client_credentials&client_secret=wrong", Authorization="")
    assert (wrong.status, wrong.body["error"]) == (401, "invalid_client")
    basic = base64.b64encode(f"x:{server.token}".encode()).decode()
    right = server.ask("POST", path, b"grant_type=client_credentials", Authorization=f"Basic {basic}")
    assert right.body["access_token"] == server.token


def test_a_token_of_ones_own(lab: Lab) -> None:
    with RestServer(lab, "--token", "my own") as server:
        assert server.token == "my own"
        assert server.pyiceberg().list_namespaces() == [("default",)]
    lab.environment["FOREBAY_SERVE_TOKEN"] = "from the environment"
    with RestServer(lab) as server:
        assert server.token == "from the environment"


def test_open_for_this_machine_only(lab: Lab) -> None:
    lab.load("trips", ROWS)
    with RestServer(lab, "--no-token") as server:
        assert server.token is None
        assert server.pyiceberg().load_table("default.trips").scan().to_arrow().num_rows == 3
        assert server.duck().execute("SELECT count(*) FROM lake.default.trips").fetchall() == [(3,)]
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            reply = server.ask("POST", "/iceberg/main/v1/namespaces", {"namespace": ["x"]}, **headers)
            assert reply.status == 403 and "RST0009" in reply.body["error"]["message"]
    refused = lab.forebay("serve", "--no-token", "--host", "0.0.0.0", "--port", "0").failed(2)
    assert "RST0010" in refused.err


def test_addresses_that_cannot_be_used(lab: Lab, server: RestServer) -> None:
    port = server.url.rpartition(":")[2]
    assert "RST0011" in lab.forebay("serve", "--port", port).failed(3).err
    assert "CTL0023" in lab.forebay("serve", "--host", "example.org").failed(2).err


def test_a_ref_that_is_none_is_told_at_once(server: RestServer) -> None:
    for ref in ("mian", "user/bob", "main@0000dead", "../x", "%"):
        reply = server.ask("GET", f"/iceberg/{urllib.parse.quote(ref, safe='')}/v1/config")
        assert (reply.status, reply.body["error"]["type"]) == (404, "NoSuchReferenceException"), ref
    with pytest.raises(Exception, match="mian"):
        server.pyiceberg("mian")
    with pytest.raises(duckdb.Error):
        server.duck("mian")


def test_a_base_with_a_slash_at_its_end(server: RestServer) -> None:
    assert server.ask("GET", "/iceberg/main//v1/config").status == 200
    connection = duck()
    connection.execute(f"ATTACH '' AS lake (TYPE iceberg, ENDPOINT '{server.base()}/', TOKEN '{server.token}')")
    assert connection.execute("SELECT count(*) FROM lake.default.trips").fetchall() == [(3,)]


def test_each_branch_is_a_catalog_of_its_own(lab: Lab, server: RestServer) -> None:
    lab.forebay("branch", "create", "ann.try-it", "--from-ref", "main").ok()
    dev, main = server.pyiceberg("ann.try-it"), server.pyiceberg()
    dev.load_table("default.trips").append(pa.table({"id": [4], "name": ["d"]}))
    assert dev.load_table("default.trips").scan().to_arrow().num_rows == 4
    assert main.load_table("default.trips").scan().to_arrow().num_rows == 3
    server.duck("ann.try-it").execute("INSERT INTO lake.default.trips VALUES (5, 'e')")
    assert lab.rows("SELECT count(*) AS n FROM trips", "ann.try-it") == [{"n": 5}]
    assert lab.rows("SELECT count(*) AS n FROM trips") == [{"n": 3}]
    lab.forebay("branch", "merge", "ann.try-it", "--into", "main").ok()
    assert server.duck().execute("SELECT max(id) FROM lake.default.trips").fetchall() == [(5,)]


def test_tags_and_commits_are_only_read(lab: Lab, server: RestServer) -> None:
    lab.forebay("tag", "create", "v1").ok()
    first = lab.head()
    server.pyiceberg().load_table("default.trips").append(ROWS)
    for ref in ("v1", f"main@{first}", f"@{first[:12]}", "main~1"):
        catalog = server.pyiceberg(ref)
        table = catalog.load_table("default.trips")
        assert table.scan().to_arrow().num_rows == 3, ref
        with pytest.raises((NotImplementedError, ForbiddenError)):
            table.append(ROWS)
        with pytest.raises(duckdb.Error, match="RST0006"):
            server.duck(ref).execute("INSERT INTO lake.default.trips VALUES (9, 'z')")
        path = f"/iceberg/{urllib.parse.quote(ref, safe='')}/v1"
        for method, rest, body in WRITES:
            reply = server.ask(method, f"{path}/{rest}", body)
            assert (reply.status, reply.body["error"]["type"]) == (403, "ForbiddenException"), f"{method} {rest}"
        assert server.duck(ref).execute("SELECT count(*) FROM lake.default.trips").fetchall() == [(3,)]
    assert lab.rows("SELECT count(*) AS n FROM trips") == [{"n": 6}]


#: One request of each kind that writes.
WRITES = [
    ("POST", "namespaces", {"namespace": ["new"], "properties": {}}),
    ("DELETE", "namespaces/default", None),
    ("POST", "namespaces/default/tables", {"name": "n", "schema": {"type": "struct", "fields": []}}),
    ("POST", "namespaces/default/tables", {"name": "n", "stage-create": True, "schema": {"type": "struct", "fields": []}}),
    ("POST", "namespaces/default/register", {"name": "n", "metadata-location": "/x"}),
    ("POST", "namespaces/default/tables/trips", {"requirements": [], "updates": []}),
    ("DELETE", "namespaces/default/tables/trips", None),
    ("POST", "tables/rename", {"source": {"namespace": ["default"], "name": "trips"}, "destination": {"namespace": ["default"], "name": "t"}}),
    ("POST", "transactions/commit", {"table-changes": []}),
]


def test_protected_branches_are_moved_by_merges_only(lab: Lab, server: RestServer) -> None:
    lab.forebay("branch", "protect", "main").ok()
    head = lab.head()
    with pytest.raises(ForbiddenError, match="CAT0019"):
        server.pyiceberg().load_table("default.trips").append(ROWS)
    with pytest.raises(duckdb.Error, match="CAT0019"):
        server.duck().execute("DELETE FROM lake.default.trips WHERE id = 1")
    for method, rest, body in WRITES:
        reply = server.ask(method, f"/iceberg/main/v1/{rest}", body)
        assert reply.status == 403 and "CAT0019" in reply.body["error"]["message"], f"{method} {rest}"
    assert lab.head() == head
    lab.forebay("branch", "unprotect", "main").ok()
    server.pyiceberg().load_table("default.trips").append(ROWS)


def test_what_a_failed_run_left_can_be_read_and_not_changed(lab: Lab, server: RestServer) -> None:
    source = """
        @forebay.model(materialization_strategy="REPLACE")
        def good(trips=forebay.Model("trips")):
            return trips

        @forebay.model(materialization_strategy="REPLACE")
        def bad(good=forebay.Model("good")):
            raise ValueError("no")
    """
    branch = lab.run(lab.project(source)).failed().json["failed_branch"]
    catalog = server.pyiceberg(branch)
    assert catalog.load_table("default.trips").scan().to_arrow().num_rows == 3
    with pytest.raises(ForbiddenError, match="CAT0006"):
        catalog.load_table("default.trips").append(ROWS)
    assert lab.rows("SELECT count(*) AS n FROM trips", branch) == [{"n": 3}]


def test_names_that_are_not_there(server: RestServer) -> None:
    catalog = server.pyiceberg()
    with pytest.raises(NoSuchTableError, match="trips"):
        catalog.load_table("default.trisp")
    assert not catalog.table_exists("default.nothing") and catalog.table_exists("default.trips")
    assert not catalog.namespace_exists("nothing") and catalog.namespace_exists("default")
    base = "/iceberg/main/v1/namespaces"
    for path, kind in (
        (f"{base}/nothing", "NoSuchNamespaceException"),
        (f"{base}/a%1Fb", "NoSuchNamespaceException"),
        (f"{base}/nothing/tables", "NoSuchNamespaceException"),
        (f"{base}/nothing/tables/trips", "NoSuchNamespaceException"),
        (f"{base}/default/tables/a%2Fb", "NoSuchTableException"),
        (f"{base}?parent=nothing", "NoSuchNamespaceException"),
        (f"{base}/default/views", "NoSuchEndpointException"),
        (f"{base}/default/views/v", "NoSuchEndpointException"),
        ("/iceberg/main/v1/nonsense", "NoSuchEndpointException"),
        ("/", "NoSuchEndpointException"),
    ):
        reply = server.ask("GET", path)
        assert (reply.status, reply.body["error"]["type"]) == (404, kind), path
    assert server.ask("GET", f"{base}?parent=default").body == {"namespaces": []}
    assert server.ask("HEAD", f"{base}/default/tables/trips").status == 204
    assert server.ask("HEAD", f"{base}/default/tables/nothing").status == 404


HOSTILE = [
    b"",
    b"no json",
    b"[]",
    b"null",
    b"{",
    b'{"a":' * 50_000,
    b"[" * 100_000,
    b'{"requirements": 7, "updates": []}',
    b'{"requirements": [], "updates": [{"action": "add-snapshot", "snapshot": {"snapshot-id": 1e400}}]}',
    b'{"requirements": [{"type": "assert-nothing"}], "updates": []}',
    b'{"updates": [{"action": "set-location", "location": "/etc"}]}',
    b'{"updates": [{"action": "set-location", "location": "../../x"}]}',
    b'{"updates": [{"action": "upgrade-format-version", "format-version": 99}]}',
    b'{"updates": [{"action": "add-schema", "schema": {"type": "struct", "fields": [{"id": 1}]}}]}',
    b'{"updates": [{"action": "set-properties", "updates": {"a": {"b": 1}}}]}',
    b'{"updates": [{"action": "set-properties", "updates": {"a": "\xff"}}]}',
    b'{"name": "x", "schema": {"type": "struct", "fields": []}}',
    b'{"name": "../x", "schema": {"type": "struct", "fields": [{"id": 1, "name": "a", "type": "int", "required": false}]}}',
    b'{"name": "x", "location": "/tmp/x", "schema": {"type": "struct", "fields": [{"id": 1, "name": "a", "type": "int", "required": false}]}}',
    b'{"name": "x", "metadata-location": "/etc/passwd"}',
    b'{"namespace": ["a", "b"]}',
    b'{"namespace": ["a/b"]}',
    b'{"namespace": "a"}',
    b'{"source": {"namespace": ["default"], "name": 3}, "destination": {}}',
    b'{"table-changes": [{"identifier": {"namespace": ["default"], "name": "trips"}}]}',
    b'{"table-changes": 3}',
]


def test_hostile_bodies_change_nothing(lab: Lab, server: RestServer) -> None:
    head = lab.head()
    paths = [f"/iceberg/main/v1/{rest}" for method, rest, _ in WRITES if method == "POST"]
    for body in HOSTILE:
        for path in paths:
            reply = server.ask("POST", path, body)
            assert reply.status in (400, 404), f"{path} {body[:80]!r}: {reply}"
            assert "[" in reply.body["error"]["message"] and "passwd:" not in str(reply.body) and "root:" not in str(reply.body)
    assert lab.head() == head
    assert server.ask("GET", "/iceberg/main/v1/config").status == 200


def test_bodies_have_an_end(server: RestServer) -> None:
    path = "/iceberg/main/v1/namespaces/default/tables/trips"
    reply = server.ask("POST", path, b" " * (17 << 20))
    assert reply.status == 413 and "RST0007" in reply.body["error"]["message"]
    assert server.ask("POST", "/iceberg/main/v1/oauth/tokens", b"x" * 100_000).status == 413


def test_slow_and_silent_clients_keep_nobody_out(server: RestServer) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    slow = []
    for number in range(150):
        connection = socket.create_connection((host, int(port)))
        # Nothing at all, half a head, or half a body.
        head = f"POST /iceberg/main/v1/namespaces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\nContent-Length: 99\r\n\r\n"
        connection.send([b"", head[:40].encode(), head.encode() + b"{"][number % 3])
        slow.append(connection)
    assert server.pyiceberg().load_table("default.trips").scan().to_arrow().num_rows == 3
    for connection in slow:
        connection.close()
    garbage = socket.create_connection((host, int(port)))
    garbage.send(os.urandom(1000) + b"\r\n\r\n")
    garbage.close()
    assert server.ask("GET", "/iceberg/main/v1/config").status == 200


def test_it_needs_no_daemon_and_ends_by_a_signal(lab: Lab, server: RestServer) -> None:
    lab.forebay("daemon", "stop").ok()
    assert server.pyiceberg().list_tables("default") == [("default", "trips")]
    assert lab.json("daemon", "status")["running"] is False
    server.started.popen.terminate()
    assert server.started.wait().code == 0


def test_the_guide_works_as_written(lab: Lab, server: RestServer) -> None:
    """The Python and SQL of the page, in their order, against this server; then its commands."""
    page = GUIDE.read_text().replace("http://127.0.0.1:8181", server.url).replace('"TOKEN"', f'"{server.token}"')
    page = page.replace("'TOKEN'", f"'{server.token}'")
    [python] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    [sql] = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(python, {"pa": pa})
    assert duck().execute(sql).fetchall() == [("north", 0.75)]
    assert lab.json("commit", "main")["commits"][0]["message"].count("`") == 4, "the transaction is one commit"
    for line in re.findall(r"^\$ forebay (branch|query)(.*)$", page, re.MULTILINE):
        lab.forebay(line[0], *shlex.split(line[1])).ok()
        if "create" in line[1]:
            server.pyiceberg("fix").load_table("default.readings").delete("id = 4")
    assert lab.rows("SELECT count(*) AS n FROM readings") == [{"n": 2}]


def test_config_keeps_clients_below_the_ref(server: RestServer) -> None:
    config = server.ask("GET", "/iceberg/main/v1/config?warehouse=any").body
    assert (config["defaults"], config["overrides"]) == ({}, {})
    assert "POST /v1/{prefix}/transactions/commit" in config["endpoints"]
