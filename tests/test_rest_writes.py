"""PyIceberg and DuckDB write through the Iceberg REST catalog: each write is a commit, and what they write is a table of ours."""

from __future__ import annotations

import datetime
from typing import Any, Callable, Iterator

import duckdb
import pyarrow as pa
import pyiceberg.expressions as where
import pytest
from conftest import Lab
from engines import RestServer
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import DoubleType, LongType, NestedField, StringType, TimestampType

ROWS = pa.table({"id": [1, 2, 3], "name": ["a", "b", None]})


@pytest.fixture
def server(lab: Lab) -> Iterator[RestServer]:
    """An empty lake, served."""
    with RestServer(lab) as server:
        yield server


def commits(lab: Lab, ref: str = "main") -> list[dict[str, Any]]:
    """The history, newest first."""
    return lab.json("commit", ref)["commits"]


def rows(lab: Lab, name: str, ref: str = "main") -> list[tuple[Any, ...]]:
    """The rows of a table as we read them, sorted."""
    found = lab.query(f"SELECT * FROM {name}", ref).to_pylist()
    return sorted((tuple(row.values()) for row in found), key=str)


def by_pyiceberg(server: RestServer, name: str, ref: str = "main") -> list[tuple[Any, ...]]:
    """The same by PyIceberg."""
    found = server.pyiceberg(ref).load_table(name).scan().to_arrow().to_pylist()
    return sorted((tuple(row.values()) for row in found), key=str)


def by_duckdb(server: RestServer, name: str, ref: str = "main") -> list[tuple[Any, ...]]:
    """The same by DuckDB."""
    return sorted(server.duck(ref).execute(f"SELECT * FROM lake.{name}").fetchall(), key=str)


def agree(lab: Lab, server: RestServer, name: str, expected: list[tuple[Any, ...]] | None = None) -> None:
    """All three read the same rows."""
    ours = rows(lab, name)
    assert by_pyiceberg(server, name) == ours == by_duckdb(server, name)
    if expected is not None:
        assert ours == sorted(expected, key=str)


def test_pyiceberg_creates_and_changes_a_table(lab: Lab, server: RestServer) -> None:
    catalog = server.pyiceberg()
    catalog.create_namespace("raw")
    schema = Schema(
        NestedField(1, "id", LongType(), required=False),
        NestedField(2, "ts", TimestampType(), required=False),
        NestedField(3, "region", StringType(), required=False),
    )
    spec = PartitionSpec(PartitionField(2, 1000, DayTransform(), "ts_day"), PartitionField(3, 1001, IdentityTransform(), "region"))
    table = catalog.create_table("raw.events", schema, partition_spec=spec, properties={"owner": "ann", "format-version": "2"})
    assert table.properties["gc.enabled"] == "false" and table.properties["owner"] == "ann"
    when = datetime.datetime(2026, 11, 1, 9)
    day = datetime.timedelta(days=1)

    def batch(*ids: int) -> pa.Table:
        types = pa.schema([("id", pa.int64()), ("ts", pa.timestamp("us")), ("region", pa.string())])
        return pa.table({"id": list(ids), "ts": [when + i * day for i in ids], "region": [["eu", None][i % 2] for i in ids]}, types)

    table.append(batch(1, 2, 3))
    table.append(batch(4, 5))
    agree(lab, server, "raw.events", [tuple(row.values()) for row in batch(1, 2, 3, 4, 5).to_pylist()])
    table.overwrite(batch(20), overwrite_filter=where.EqualTo("region", "eu"))
    agree(lab, server, "raw.events", [tuple(row.values()) for row in batch(1, 3, 5, 20).to_pylist()])
    table.delete(where.EqualTo("id", 3))
    agree(lab, server, "raw.events", [tuple(row.values()) for row in batch(1, 5, 20).to_pylist()])
    with table.update_schema() as update:
        update.add_column("score", DoubleType(), doc="How good")
        update.rename_column("region", "place")
    agree(lab, server, "raw.events", [(*row.values(), None) for row in batch(1, 5, 20).to_pylist()])
    with table.transaction() as transaction:
        transaction.set_properties({"owner": "bob"})
    assert lab.json("table", "get", "raw.events")["table"]["properties"]["owner"] == "bob"
    history = commits(lab)
    words = [commit["message"] for commit in history]
    assert words[:8] == [
        "Change `raw.events`",
        "Change the schema of `raw.events`",
        "Delete rows of `raw.events`",
        "Overwrite rows of `raw.events`",
        "Append to `raw.events`",
        "Append to `raw.events`",
        "Create the table `raw.events`",
        "Create the namespace `raw`",
    ]
    assert history[0]["author"]["name"] == "ann" and "PyIceberg" in history[0]["properties"]["forebay.client"]


def test_duckdb_creates_and_changes_a_table(lab: Lab, server: RestServer) -> None:
    duck = server.duck()
    duck.execute("CREATE SCHEMA lake.raw")
    duck.execute("CREATE TABLE lake.raw.t (id INTEGER, name VARCHAR, price DECIMAL(9, 2), seen TIMESTAMP)")
    duck.execute("INSERT INTO lake.raw.t SELECT i, 'n' || i, i / 4, TIMESTAMP '2026-11-01' + INTERVAL (i) DAY FROM range(10) r(i)")
    agree(lab, server, "raw.t")
    assert len(rows(lab, "raw.t")) == 10
    duck.execute("DELETE FROM lake.raw.t WHERE id % 3 = 0")
    agree(lab, server, "raw.t")
    duck.execute("UPDATE lake.raw.t SET name = 'changed' WHERE id > 6")
    agree(lab, server, "raw.t")
    assert [row[:2] for row in rows(lab, "raw.t")] == [(1, "n1"), (2, "n2"), (4, "n4"), (5, "n5"), (7, "changed"), (8, "changed")]
    duck.execute("CREATE TABLE lake.raw.copied AS SELECT * FROM lake.raw.t WHERE id < 5")
    agree(lab, server, "raw.copied")
    duck.execute("DROP TABLE lake.raw.copied")
    assert lab.tables() == ["raw.t"]
    assert any("Create" in commit["message"] for commit in commits(lab))


def test_duckdb_changes_columns(lab: Lab, server: RestServer) -> None:
    duck = server.duck()
    duck.execute("CREATE TABLE lake.default.t (id INTEGER, name VARCHAR)")
    duck.execute("INSERT INTO lake.default.t VALUES (1, 'a')")
    duck.execute("ALTER TABLE lake.default.t ADD COLUMN score DOUBLE")
    duck.execute("INSERT INTO lake.default.t VALUES (2, 'b', 0.5)")
    agree(lab, server, "default.t", [(1, "a", None), (2, "b", 0.5)])
    duck.execute("ALTER TABLE lake.default.t RENAME COLUMN name TO label")
    assert lab.query("SELECT * FROM t").column_names == ["id", "label", "score"]
    agree(lab, server, "default.t", [(1, "a", None), (2, "b", 0.5)])


def test_tables_of_duckdb_are_inputs_and_outputs_of_runs(lab: Lab, server: RestServer) -> None:
    """Position deletes and summaries without totals: read by runs and queries, written to by runs, merged, reverted."""
    duck = server.duck()
    duck.execute("CREATE TABLE lake.default.feed (id BIGINT, name VARCHAR)")
    duck.execute("INSERT INTO lake.default.feed SELECT i, 'n' || i FROM range(100) r(i)")
    duck.execute("DELETE FROM lake.default.feed WHERE id >= 10")
    duck.execute("UPDATE lake.default.feed SET name = 'zero' WHERE id = 0")
    source = """
        @forebay.model(materialization_strategy="{}")
        def {}(rows=forebay.Model("{}", columns=["id", "name"], filter="id < 5")):
            return rows
    """
    lab.forebay("branch", "create", "dev").ok()
    lab.run(lab.project(source.format("REPLACE", "kept", "feed")), "--ref", "dev").ok()
    lab.run(lab.project(source.format("APPEND", "feed", "kept")), "--ref", "dev").ok()
    expected = [(0, "zero"), *((i, f"n{i}") for i in range(1, 5))]
    assert rows(lab, "kept", "dev") == expected == by_duckdb(server, "default.kept", "dev")
    assert len(rows(lab, "feed", "dev")) == 15 == len(by_pyiceberg(server, "default.feed", "dev"))
    server.duck("dev").execute("DELETE FROM lake.default.feed WHERE id = 1")
    lab.forebay("branch", "merge", "dev", "--into", "main").ok()
    agree(lab, server, "default.feed")
    assert len(rows(lab, "feed")) == 13
    assert lab.json("table", "get", "feed")["table"]["snapshots"] >= 4
    lab.forebay("revert", "main", "-b", "main").ok()
    agree(lab, server, "default.feed")
    assert len(rows(lab, "feed")) == 15


def test_tables_of_ours_are_changed_by_both(lab: Lab, server: RestServer) -> None:
    source = """
        @forebay.model(materialization_strategy="{}", partitioned_by="country")
        def trips():
            return pa.table({{
                "id": pa.array(range(20), pa.int64()), "country": [["de", "it", None][i % 3] for i in range(20)],
                "u": pa.array(range(20), pa.uint64()), "l": pa.array([[i] for i in range(20)], pa.list_(pa.int32())),
            }})
    """
    lab.run(lab.project(source.format("REPLACE"))).ok()
    server.duck().execute("DELETE FROM lake.default.trips WHERE id = 7")
    server.duck().execute("INSERT INTO lake.default.trips VALUES (100, 'fr', 5, [1, 2])")
    table = server.pyiceberg().load_table("default.trips")
    table.delete(where.EqualTo("country", "de"))
    agree(lab, server, "default.trips")
    assert [row[0] for row in rows(lab, "trips") if row[1] != "it"] == sorted([2, 5, 8, 11, 14, 17, 100], key=str)
    lab.run(lab.project(source.format("APPEND"))).ok()
    agree(lab, server, "default.trips")
    lab.run(lab.project(source.format("REPLACE"))).ok()
    agree(lab, server, "default.trips")
    assert len(rows(lab, "trips")) == 20
    diff = lab.json("branch", "diff", "main~1", "main")
    assert "trips" in str(diff)


def test_a_transaction_over_two_tables_is_one_commit(lab: Lab, server: RestServer) -> None:
    duck = server.duck()
    duck.execute("CREATE TABLE lake.default.a (x INTEGER); CREATE TABLE lake.default.b (x INTEGER)")
    before = len(commits(lab))
    duck.execute("BEGIN; INSERT INTO lake.default.a VALUES (1); INSERT INTO lake.default.b VALUES (2); COMMIT")
    history = commits(lab)
    assert len(history) == before + 1
    assert sorted(history[0]["message"].lower().split(", ")) == ["append to `default.a`", "append to `default.b`"]
    # A conflict on one of them changes none.
    duck.execute("BEGIN; INSERT INTO lake.default.a VALUES (10); INSERT INTO lake.default.b VALUES (20)")
    server.pyiceberg().load_table("default.b").append(pa.table({"x": pa.array([3], pa.int32())}))
    head = lab.head()
    with pytest.raises(duckdb.Error, match="RST0004"):
        duck.execute("COMMIT")
    assert lab.head() == head
    agree(lab, server, "default.a", [(1,)])
    agree(lab, server, "default.b", [(2,), (3,)])


def test_a_transaction_does_not_mind_other_tables(lab: Lab, server: RestServer) -> None:
    duck = server.duck()
    duck.execute("CREATE TABLE lake.default.a (x INTEGER); CREATE TABLE lake.default.b (x INTEGER)")
    duck.execute("BEGIN; INSERT INTO lake.default.a VALUES (1)")
    server.duck().execute("INSERT INTO lake.default.b VALUES (2)")
    duck.execute("COMMIT")
    agree(lab, server, "default.a", [(1,)])
    agree(lab, server, "default.b", [(2,)])


def test_two_writers_of_one_table(lab: Lab, server: RestServer) -> None:
    catalog = server.pyiceberg()
    catalog.create_table("default.t", ROWS.schema).append(ROWS)
    first, second = catalog.load_table("default.t"), catalog.load_table("default.t")
    first.append(ROWS.slice(0, 1))
    second.append(ROWS.slice(1, 1))  # It is refused, looks again, and lands.
    agree(lab, server, "default.t", [(1, "a"), (1, "a"), (2, "b"), (2, "b"), (3, None)])
    stale = catalog.load_table("default.t")
    first.refresh()
    first.delete(where.EqualTo("id", 2))
    with pytest.raises(Exception, match="(?i)conflict|changed|found"):
        stale.overwrite(ROWS, overwrite_filter=where.EqualTo("id", 2))
    head = lab.head()
    duck, other = server.duck(), server.duck()
    duck.execute("BEGIN; INSERT INTO lake.default.t VALUES (7, 'g')")
    other.execute("INSERT INTO lake.default.t VALUES (8, 'h')")
    with pytest.raises(duckdb.Error, match="RST0004"):
        duck.execute("COMMIT")
    assert lab.head() != head
    assert (8, "h") in rows(lab, "t") and (7, "g") not in rows(lab, "t")


def recorded(catalog: RestCatalog, work: Callable[[], object]) -> list[tuple[str, str, dict[str, Any]]]:
    """The requests with a body that `work` makes a catalog send: method, path and body."""
    sent: list[tuple[str, str, dict[str, Any]]] = []
    session = catalog._session
    send = session.send

    def spy(request: Any, **options: Any) -> Any:
        if request.body:
            sent.append((request.method, request.path_url, request.body))
        return send(request, **options)

    session.send = spy  # type: ignore[method-assign]
    try:
        work()
    finally:
        session.send = send  # type: ignore[method-assign]
    return sent


def test_the_same_commit_twice_is_made_once(lab: Lab, server: RestServer) -> None:
    """A client that lost the answer sends the same again: it succeeds, and nothing is there twice."""
    catalog = server.pyiceberg()
    [create] = recorded(catalog, lambda: catalog.create_table("default.t", ROWS.schema))
    assert server.ask(create[0], create[1], raw(create[2])).status == 409
    table = catalog.load_table("default.t")
    [append] = recorded(catalog, lambda: table.append(ROWS))
    head = lab.head()
    again = server.ask(append[0], append[1], raw(append[2]))
    assert again.status == 200 and again.body["metadata-location"] == lab.metadata("t")
    assert lab.head() == head
    table.append(ROWS)
    assert server.ask(append[0], append[1], raw(append[2])).status == 200, "also when others came after it"
    agree(lab, server, "default.t")
    assert len(rows(lab, "t")) == 6
    # On a branch that was made after it, it is there; on one made before it, the table is not.
    assert server.ask(append[0], append[1].replace("/main/", "/nothing/"), raw(append[2])).status == 404


def raw(body: Any) -> bytes:
    """A recorded body as bytes."""
    return body if isinstance(body, bytes) else body.encode()


def test_a_created_table_with_rows_twice(lab: Lab, server: RestServer) -> None:
    catalog = server.pyiceberg()

    def create() -> None:
        with catalog.create_table_transaction("default.t", ROWS.schema) as transaction:
            transaction.append(ROWS)

    staged, commit = recorded(catalog, create)
    assert "stage-create" in str(staged[2])
    head = lab.head()
    assert server.ask(commit[0], commit[1], raw(commit[2])).status == 200
    assert lab.head() == head and len(rows(lab, "t")) == 3
    other = catalog.load_table("default.t")
    catalog.drop_table("default.t")
    catalog.create_table("default.t", ROWS.schema)
    refused = server.ask(commit[0], commit[1], raw(commit[2]))
    assert (refused.status, refused.body["error"]["type"]) == (409, "AlreadyExistsException")
    with pytest.raises((CommitFailedException, ValueError)):
        other.append(ROWS)
    assert rows(lab, "t") == []


def test_staging_leaves_nothing_on_the_branch(lab: Lab, server: RestServer) -> None:
    head = lab.head()
    duck = server.duck()
    duck.execute("BEGIN; CREATE TABLE lake.default.t AS SELECT 1 AS x; ROLLBACK")
    assert lab.head() == head and lab.tables() == []
    duck.execute("CREATE TABLE lake.default.t AS SELECT 1 AS x")
    agree(lab, server, "default.t", [(1,)])


def test_rename_drop_and_register(lab: Lab, server: RestServer) -> None:
    catalog = server.pyiceberg()
    catalog.create_namespace("raw")
    catalog.create_table("default.t", ROWS.schema).append(ROWS)
    location = lab.metadata("t")
    catalog.rename_table("default.t", "raw.moved")
    agree(lab, server, "raw.moved", [(1, "a"), (2, "b"), (3, None)])
    catalog.create_table("default.t", ROWS.schema)
    with pytest.raises(TableAlreadyExistsError):
        catalog.rename_table("raw.moved", "default.t")
    with pytest.raises(NoSuchTableError):
        catalog.rename_table("raw.nothing", "raw.x")
    with pytest.raises(TableAlreadyExistsError):
        catalog.create_table("default.t", ROWS.schema)
    with pytest.raises(NamespaceNotEmptyError):
        catalog.drop_namespace("raw")
    catalog.purge_table("raw.moved")
    with pytest.raises(NoSuchTableError):
        catalog.load_table("raw.moved")
    with pytest.raises(NoSuchTableError):
        catalog.drop_table("raw.moved")
    # Its files stay: older commits have it, and it can be there again.
    assert len(rows(lab, "raw.moved", "main~1")) == 3
    catalog.register_table("raw.again", location)
    agree(lab, server, "raw.again", [(1, "a"), (2, "b"), (3, None)])
    with pytest.raises(TableAlreadyExistsError):
        catalog.register_table("raw.again", location)
    catalog.load_table("raw.again").append(ROWS)
    assert len(rows(lab, "raw.again")) == 6
    catalog.drop_table("raw.again")
    catalog.drop_namespace("raw")
    assert catalog.list_namespaces() == [("default",)]
    lab.forebay("revert", "main~2", "-b", "main")
    with pytest.raises(NamespaceAlreadyExistsError):
        catalog.create_namespace("default")


def test_a_foreign_metadata_file_cannot_be_registered(lab: Lab, server: RestServer) -> None:
    elsewhere = lab.folder / "elsewhere.metadata.json"
    lab.load("t", ROWS)
    with open(lab.metadata("t").removeprefix("file://")) as file:
        elsewhere.write_text(file.read())
    inside = lab.lake / "tables" / "x.metadata.json"
    inside.write_text(elsewhere.read_text().replace(str(lab.lake), "/somewhere/else"))
    for path in (str(elsewhere), str(inside), f"{lab.lake}/tables/../../elsewhere.metadata.json", f"{lab.lake}/tables/none.json"):
        reply = server.ask("POST", "/iceberg/main/v1/namespaces/default/register", {"name": "n", "metadata-location": path})
        assert (reply.status, reply.body["error"]["type"]) == (400, "BadRequestException"), path
    assert lab.tables() == ["default.t"]


def test_columns_that_partitions_are_made_of_stay(lab: Lab, server: RestServer) -> None:
    lab.load("t", ROWS, partitioned_by="name")
    with pytest.raises(Exception, match="partition"):
        with server.pyiceberg().load_table("default.t").update_schema(allow_incompatible_changes=True) as update:
            update.delete_column("name")
    agree(lab, server, "default.t")


def test_table_branches_are_those_of_the_lake(lab: Lab, server: RestServer) -> None:
    lab.load("t", ROWS)
    table = server.pyiceberg().load_table("default.t")
    with pytest.raises(Exception, match="branches and tags are those of the lake"):
        table.manage_snapshots().create_branch(table.current_snapshot().snapshot_id, "dev").commit()
    with pytest.raises(Exception, match="gc.enabled"):
        with table.transaction() as transaction:
            transaction.set_properties({"gc.enabled": "true"})


def test_an_import_still_knows_its_files(lab: Lab, server: RestServer) -> None:
    """What the catalog remembers of a table survives writes of others."""
    lab.load("t", ROWS)
    [file] = lab.folder.glob("t-*.parquet")
    server.duck().execute("DELETE FROM lake.default.t WHERE id = 1")
    again = lab.json("table", "import", "t", "--search-uri", file)
    assert again["rows"] == 0 and len(again["skipped"]) == 1
    agree(lab, server, "default.t", [(2, "b"), (3, None)])


def test_old_states_stay_readable_by_clients(lab: Lab, server: RestServer) -> None:
    catalog = server.pyiceberg()
    table = catalog.create_table("default.t", ROWS.schema)
    table.append(ROWS)
    first = lab.head()
    table.overwrite(ROWS.slice(0, 1))
    assert by_duckdb(server, "default.t") == [(1, "a")]
    assert len(by_duckdb(server, "default.t", f"main@{first}")) == 3
    assert len(by_pyiceberg(server, "default.t", "main~1")) == 3
    first_snapshot = min(table.refresh().metadata.snapshots, key=lambda snapshot: snapshot.sequence_number)
    assert table.scan(snapshot_id=first_snapshot.snapshot_id).to_arrow().num_rows == 3
