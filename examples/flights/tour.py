"""The tour: `python tour.py [DATA FOLDER]`, or `cargo xtask demo` in the repository.

It types real commands and shows what they print, then does the last step from Python. It runs in whatever lake the
settings name (`FOREBAY_HOME`, `FOREBAY_LAKE`) and stops at the first thing that does not go as told.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from fetch import fetch

import forebay

HERE = Path(__file__).resolve().parent
SCORES = "SELECT name, arrivals, round(100 * late_share, 1) AS late_percent FROM carrier_scorecard ORDER BY late_share LIMIT 5"


def main() -> None:
    began = time.monotonic()
    data = Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "data").resolve()
    import_tables(data)
    first_run()
    what_a_run_leaves()
    what_if()
    nothing_by_halves()
    from_python()
    say(f"The tour took {time.monotonic() - began:.0f} s. Look around: `forebay query`, `forebay branch ls`, `forebay job ls`.")


def import_tables(data: Path) -> None:
    say("1. Five files become five Iceberg tables: 336,776 flights, and what is known of airlines, airports, planes, weather.")
    for table, path in fetch(data).items():
        forebay_command("table", "create", table, "--search-uri", str(path), "--replace")
        forebay_command("table", "import", table, "--search-uri", str(path))
    forebay_command("table", "ls")


def first_run() -> None:
    say("2. The folder holds seven models in SQL, pandas, polars and duckdb. It is read, not executed; this is its plan:")
    forebay_command("plan")
    say("3. A run: every function in a process of its own, with its own packages; tables pass through shared memory.")
    forebay_command("run")


def what_a_run_leaves() -> None:
    say("4. Its two materialized results are tables now, and came as one commit.")
    forebay_command("query", SCORES)
    forebay_command("query", "SELECT * FROM daily_delays ORDER BY late DESC LIMIT 5")
    forebay_command("commit", "-n", "5")


def what_if() -> None:
    say("5. What if only an hour counts as late? On a branch, with another parameter; main does not notice.")
    forebay_command("branch", "create", "an_hour", "--from-ref", "main", "--if-not-exists")
    forebay_command("run", "--ref", "an_hour", "--param", "min_delay=60")
    forebay_command("query", SCORES, "--ref", "an_hour")
    forebay_command("branch", "diff", "main", "an_hour")


def nothing_by_halves() -> None:
    say("6. A threshold of minus an hour makes no sense, and an expectation says so. The run fails, and main stays as it is.")
    before = main_hash()
    forebay_command("run", "--param", "min_delay=-60", expect=1)
    if main_hash() != before:
        raise SystemExit("main moved, although the run failed")
    say(f"   main is still at {before[:12]}.")


def from_python() -> None:
    say("7. The same from Python: merge the branch, and look at the history. Nothing else had moved, so main takes the branch's commit.")
    client = forebay.Client()
    client.merge_branch("an_hour", into_branch="main")
    for commit in client.get_commits("main", limit=3):
        print(f"   {commit.hash[:12]}  {commit.subject}")
    table = client.scan("carrier_scorecard", columns=["name", "late_share"], filters="late_share < 0.06")
    print(f"   {table.num_rows} carriers bring less than 6 % of their flights an hour late: {table['name'].to_pylist()}")


def main_hash() -> str:
    return forebay.Client().get_branch("main").hash


def forebay_command(*arguments: str, expect: int = 0) -> None:
    """Shows a command, runs it here, and checks how it ends."""
    shown = shlex.join(["forebay", *arguments])
    print(f"\n\033[1m$ {shown}\033[0m" if sys.stdout.isatty() else f"\n$ {shown}", flush=True)
    program = os.environ.get("FOREBAY_BIN", "forebay")
    code = subprocess.run([program, *arguments], cwd=HERE).returncode
    if code != expect:
        raise SystemExit(f"`{shown}` ended with {code}, not {expect}")


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    main()
