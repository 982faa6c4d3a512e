"""How long the Iceberg REST catalog takes: load a table, commit to one, list tables, at 10 and 10,000 tables, with 1 and 8 clients.

Plain HTTP over connections that stay open, so that nothing is measured but the service: a commit changes one property of a
table of the client's own, which is a metadata file, a tree, a commit and a ref, each synced to disk. A against B is the
same at 10 and at 10,000 tables. Prints p50 and p95; appends a line to history.jsonl.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable

import _lab
from catalog import FOREBAY, percentiles, program

FIELDS = [{"id": 1, "name": "x", "type": "int", "required": False}]
BASE = "/iceberg/main/v1/namespaces/default/tables"


def measure(folder: Path, latency: Path, tables: int, clients: int, rounds: int) -> dict[str, Any]:
    """p50 and p95 by operation."""
    subprocess.run([latency, folder / "lake/catalog", str(tables), "1", "1", "1"], check=True, stdout=subprocess.DEVNULL)
    environment = dict(os.environ, FOREBAY_HOME=str(folder / "home"), FOREBAY_LAKE=f"file://{folder}/lake")
    command = [FOREBAY, "serve", "--port", "0", "-o", "json", "-q"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    said = json.loads(server.stdout.readline())
    times: dict[str, list[float]] = {"load": [], "commit": [], "list": []}

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(said["url"].removeprefix("http://"))

        def ask(method: str, path: str, body: Any = None) -> None:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Authorization": f"Bearer {said['token']}"})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status < 300, text

        def timed(name: str, work: Callable[[], None]) -> None:
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)

        ask("POST", BASE, {"name": f"own_{number}", "schema": {"type": "struct", "schema-id": 0, "fields": FIELDS}})
        for turn in range(rounds):
            updates = [{"action": "set-properties", "updates": {"turn": str(turn)}}]
            timed("commit", lambda: ask("POST", f"{BASE}/own_{number}", {"requirements": [], "updates": updates}))
            timed("load", lambda: ask("GET", f"{BASE}/own_{number}"))
            timed("list", lambda: ask("GET", BASE))

    try:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
    return {name: percentiles(taken) for name, taken in times.items()}


def main() -> None:
    """Measures all cases and prints them."""
    given = _lab.options(__doc__).parse_args()
    machine = _lab.facts()
    rounds = 3 if given.quick else 40
    latency = program()
    cases: dict[str, dict[str, Any]] = {}
    for tables in (10,) if given.quick else (10, 10_000):
        for clients in (1, 8):
            with tempfile.TemporaryDirectory() as folder:
                cases[f"{tables} tables, {clients} clients"] = measure(Path(folder), latency, tables, clients, rounds)
    operations = ("load", "commit", "list")
    rows = [[name, *(f"{found[op]['p50_ms']:.3g} / {found[op]['p95_ms']:.3g}" for op in operations)] for name, found in cases.items()]
    _lab.show(["p50 / p95 in ms", *operations], rows)
    _lab.record("rest", given.quick, machine, cases=cases)


if __name__ == "__main__":
    sys.exit(main())
