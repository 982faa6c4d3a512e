"""What a query costs: TPC-H on our Iceberg tables, against DataFusion alone and DuckDB on the same Parquet files.

A: `Client.query` (daemon, plan, a process of its own, the table mapped), and with `--cli` the command line. B: the `datafusion`
package of our engine's version, in this process, over the data files of A's tables. C: DuckDB, the same. All have as many
threads as there are processors and start with warm files. In each round every query has its turn in each engine, in an order
that rotates. B needs `pip install datafusion==54.1.0`; without it B is left out. Tables come from `tpchgen-cli`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import _lab as lab

TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")


def queries() -> dict[int, str]:
    """The 22 queries by their numbers."""
    parts = re.split(r"^-- query (\d+)\n", (lab.BENCH / "tpch.sql").read_text(), flags=re.MULTILINE)
    return {int(number): text.strip().rstrip(";") for number, text in zip(parts[1::2], parts[2::2])}


def generate(folder: Path, scale: float) -> None:
    """One Parquet file for each table."""
    generator = Path(sys.executable).with_name("tpchgen-cli")
    command = [str(generator) if generator.exists() else "tpchgen-cli", "parquet", "-s", str(scale), "-q", "--output-dir", str(folder)]
    subprocess.run(command, check=True)


def data_files(lake: Path, table: str) -> list[str]:
    """The files of a table that was written once."""
    return sorted(map(str, lake.glob(f"tables/default/{table}-*/data/**/*.parquet")))


Ask = Callable[[str], int]


def forebay(session: lab.Lab) -> Ask:
    """Rows of an answer of ours."""
    os.environ.update({name: value for name, value in session.environment.items() if name.startswith("FOREBAY_")})
    from forebay import Client

    client = Client()
    return lambda sql: client.query(sql).num_rows


def command_line(session: lab.Lab) -> Ask:
    """The same through the command line, into a file."""
    path = session.folder / "answer.arrow"

    def ask(sql: str) -> int:
        session.forebay("query", sql, "--to", path)
        return 0

    return ask


def datafusion(lake: Path) -> Ask:
    """Rows of an answer of DataFusion alone."""
    from datafusion import SessionConfig, SessionContext

    context = SessionContext(SessionConfig().with_target_partitions(os.cpu_count() or 1))
    for table in TABLES:
        context.register_parquet(table, str(Path(data_files(lake, table)[0]).parent))
    return lambda sql: sum(batch.num_rows for batch in context.sql(sql).collect())


def duckdb(lake: Path) -> Ask:
    """Rows of an answer of DuckDB."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET threads = {os.cpu_count() or 1}")
    for table in TABLES:
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet({data_files(lake, table)!r})")
    return lambda sql: connection.execute(sql).arrow().read_all().num_rows


def measure(engines: dict[str, Ask], rounds: int) -> dict[str, dict[int, float]]:
    """Seconds, as medians over rounds; the first round warms up and is not counted."""
    taken: dict[str, dict[int, list[float]]] = {name: {number: [] for number in queries()} for name in engines}
    names = list(engines)
    for turn in range(rounds + 1):
        for number, sql in queries().items():
            rows = {}
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                start = time.perf_counter()
                rows[name] = engines[name](sql)
                if turn:
                    taken[name][number].append(time.perf_counter() - start)
            counted = {count for name, count in rows.items() if name != "forebay cli"}
            assert len(counted) == 1, f"query {number}: {rows} rows"
    return {name: {number: lab.median(times) or 0.0 for number, times in each.items()} for name, each in taken.items()}


def load(session: lab.Lab, folder: Path) -> None:
    """Imports the files, one commit each."""
    for table in TABLES:
        path = folder / f"{table}.parquet"
        session.forebay("table", "create", table, "--search-uri", path)
        session.forebay("table", "import", table, "--search-uri", path)


def main() -> None:
    """Generates, imports, measures, prints ratios."""
    parser = lab.options(__doc__, sf={"type": float, "default": 1.0}, rounds={"type": int, "default": 5}, cli={"action": "store_true"})
    arguments = parser.parse_args()
    scale, rounds = (0.01, 1) if arguments.quick else (arguments.sf, arguments.rounds)
    with lab.Lab("query") as session:
        files = session.folder / "files"
        generate(files, scale)
        load(session, files)
        lake = session.folder / "lake"
        engines: dict[str, Ask] = {"forebay": forebay(session)}
        if arguments.cli:
            engines["forebay cli"] = command_line(session)
        if importlib.util.find_spec("datafusion"):
            engines["datafusion"] = datafusion(lake)
        else:
            print("DataFusion alone is left out: `pip install datafusion==54.1.0` brings it in")
        engines["duckdb"] = duckdb(lake)
        seconds = measure(engines, rounds)
    machine = lab.facts()
    report(scale, seconds, machine, arguments.quick)


def report(scale: float, seconds: dict[str, dict[int, float]], machine: dict[str, Any], quick: bool) -> None:
    """Milliseconds per query and ratios of ours to the others."""
    ours, others = seconds["forebay"], [name for name in seconds if name != "forebay"]
    rows: list[list[object]] = []
    for number in queries():
        ratios = [f"{ours[number] / seconds[name][number]:.2f}" for name in others]
        rows.append([f"query {number}", *(lab.ms(seconds[name][number]) for name in seconds), *ratios])
    total = {name: sum(each.values()) for name, each in seconds.items()}
    rows.append(["total", *(lab.ms(each) for each in total.values()), *(f"{total['forebay'] / total[name]:.2f}" for name in others)])
    print(f"TPC-H at scale {scale:g}, milliseconds")
    lab.show(["", *seconds, *(f"/{name}" for name in others)], rows)
    lab.record("query", quick, machine, scale=scale, seconds=seconds, total=total)


if __name__ == "__main__":
    main()
