"""The Iceberg REST catalog of a lake in a bucket: clients are told where it is, and get keys if they sent the token."""

from __future__ import annotations

import pyarrow as pa
import pyiceberg.expressions as where
import pytest
from conftest import Lab
from engines import RestServer, agree, by_duckdb, by_pyiceberg, commits, rows
from s3_server import OWNER

ROWS = pa.table({"id": [1, 2, 3], "name": ["a", "b", None]})


def test_both_clients_work_in_a_bucket_with_nothing_but_the_token(far: Lab) -> None:
    far.load("ours", ROWS)
    with RestServer(far) as server:
        agree(far, server, "default.ours", [(1, "a"), (2, "b"), (3, None)])
        catalog = server.pyiceberg()
        table = catalog.create_table("default.theirs", ROWS.schema)
        assert table.location().startswith(far.environment["FOREBAY_LAKE"] + "/tables/default/theirs-")
        table.append(ROWS)
        table.delete(where.EqualTo("id", 2))
        agree(far, server, "default.theirs", [(1, "a"), (3, None)])
        duck = server.duck()
        duck.execute("CREATE TABLE lake.default.ducks AS SELECT i AS id FROM range(10) r(i)")
        duck.execute("DELETE FROM lake.default.ducks WHERE id > 3")
        before = len(commits(far))
        duck.execute("BEGIN; UPDATE lake.default.theirs SET name = 'c' WHERE id = 3; INSERT INTO lake.default.ducks VALUES (7); COMMIT")
        assert len(commits(far)) == before + 1
        agree(far, server, "default.ducks", [(0,), (1,), (2,), (3,), (7,)])
        agree(far, server, "default.theirs", [(1, "a"), (3, "c")])
        far.forebay("branch", "create", "dev").ok()
        server.pyiceberg("dev").load_table("default.theirs").append(ROWS)
        assert len(rows(far, "theirs")) == 2 and len(by_duckdb(server, "default.theirs", "dev")) == 5
    assert not far.lake.exists()


def test_two_writers_of_one_table_in_a_bucket(far: Lab) -> None:
    with RestServer(far) as server:
        catalog = server.pyiceberg()
        catalog.create_table("default.t", ROWS.schema)
        first, second = catalog.load_table("default.t"), catalog.load_table("default.t")
        first.append(ROWS)
        second.append(ROWS)
        assert len(by_pyiceberg(server, "default.t")) == 6
        refused = server.ask("POST", "/iceberg/main/v1/namespaces/default/tables", {
            "name": "x", "location": "s3://lakes/elsewhere", "schema": {"type": "struct", "fields": [{"id": 1, "name": "a", "type": "int", "required": False}]},
        })
        assert refused.status == 400 and "RST0005" in refused.body["error"]["message"]


def test_keys_are_for_those_with_the_token(far: Lab) -> None:
    far.load("t", ROWS)
    path = "/iceberg/main/v1/namespaces/default/tables/t"
    with RestServer(far) as server:
        told = server.ask("GET", path).body
        assert told["config"]["s3.secret-access-key"] == OWNER[1]
        assert told["storage-credentials"][0]["prefix"] == far.environment["FOREBAY_LAKE"] + "/tables"
        assert server.ask("GET", f"{path}/credentials").body["storage-credentials"] == told["storage-credentials"]
        assert OWNER[1] not in str(server.ask("GET", path, Authorization="Bearer wrong").body)
    with RestServer(far, "--no-token") as server:
        told = server.ask("GET", path).body
        assert OWNER[1] not in str(told) and told["config"]["s3.endpoint"] == far.environment["AWS_ENDPOINT_URL"]
        assert server.ask("GET", f"{path}/credentials").body == {"storage-credentials": []}
        # Clients bring their own.
        keys = {"s3.access-key-id": OWNER[0], "s3.secret-access-key": OWNER[1]}
        assert server.pyiceberg(**keys).load_table("default.t").scan().to_arrow().num_rows == 3


def test_a_bucket_that_cannot_be_reached_is_told(far: Lab) -> None:
    far.environment["AWS_SECRET_ACCESS_KEY"] = "wrong"
    refused = far.forebay("serve", "--port", "0")
    assert refused.code in (1, 2, 3) and "error[" in refused.err, str(refused)
