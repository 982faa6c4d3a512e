"""SQL models of runs that need more memory than they have go to disk, as queries do."""

from __future__ import annotations

import pyarrow as pa
import pytest
from conftest import Lab

ROWS = 150_000

#: Over two tables of about 16 MB each.
MODELS = {
    "sort": "SELECT n, s FROM a ORDER BY s DESC",
    "groups": "SELECT s, min(n) AS n FROM a GROUP BY s",
    "join": "SELECT a.n, b.t, a.s FROM a JOIN b ON a.s = b.s",
    "full_join": "SELECT a.n, b.n AS m, a.s FROM a FULL JOIN b ON a.n = b.n + 100000",
}


@pytest.fixture
def tables(lab: Lab) -> Lab:
    numbers = range(ROWS)
    mixed = [n * 7919 % ROWS for n in numbers]
    lab.load("a", pa.table({"n": numbers, "s": [f"{n:0100}" for n in mixed]}))
    lab.load("b", pa.table({"n": mixed, "s": [f"{n:0100}" for n in numbers], "t": [f"other {n}" for n in numbers]}))
    return lab


def results(lab: Lab) -> dict[str, pa.Table]:
    """The models' tables, those without an order of their own sorted."""
    found = {}
    for name in MODELS:
        table = lab.query(f"SELECT * FROM {name}")
        found[name] = table if name == "sort" else table.sort_by([(column, "ascending") for column in table.column_names])
    return found


def test_models_larger_than_memory(tables: Lab) -> None:
    header = "-- forebay: materialization_strategy=REPLACE\n"
    project = tables.project({f"{name}.sql": header + sql for name, sql in MODELS.items()})
    tables.run(project).ok()
    wanted = results(tables)
    assert wanted["sort"]["s"].to_pylist() == [f"{n:0100}" for n in reversed(range(ROWS))]
    (tables.home / "config.toml").write_text('[query]\nmemory = "12MiB"\n')
    tables.run(project).ok()
    (tables.home / "config.toml").write_text("")
    for name, table in results(tables).items():
        assert table.equals(wanted[name]), name
    assert not list((tables.home / "state/spill").glob("*"))


def test_a_full_disk_is_told(tables: Lab) -> None:
    project = tables.project({"sorted.sql": MODELS["sort"]})
    (tables.home / "config.toml").write_text('[query]\nmemory = "8MiB"\nspill = "1MiB"\n')
    assert "RUN0041" in tables.run(project).failed(3).err
    assert not list((tables.home / "state/spill").glob("*"))
