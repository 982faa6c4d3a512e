"""The chains of the resharing benchmark: filter, sort, add a column, filter again, over a table of long texts.

In Forebay's models these functions are imported; as a program this is one worker of the baseline, which keeps every table
as an Arrow IPC file on /dev/shm and takes its tasks line by line from stdin:

```text
python _chains.py      {"step": "sort", "chain": 3, "inputs": ["…/c3_filter"], "output": "…/c3_sort"}  ->  {"rows": …, "bytes": …}
```
"""

from __future__ import annotations

import json
import sys
from typing import Any, Callable

import polars as pl

#: In the order of a chain; the first reads the source.
STEPS = ("filter", "sort", "add", "half")


def run(step: str, chain: int, data: pl.DataFrame) -> pl.DataFrame:
    """One step. Chains differ a little, so that nobody can compute one for all."""
    steps: dict[str, Callable[[], pl.DataFrame]] = {
        "filter": lambda: data.filter(pl.col("score") < 0.5 + chain / 1000),
        "sort": lambda: data.sort("score"),
        "add": lambda: data.with_columns((pl.col("score") * 2).alias("twice")),
        "half": lambda: data.filter(pl.col("id") % 2 == 0),
    }
    return steps[step]()


#: The same steps as SQL over a model or table of this name.
SQL = {
    "filter": "SELECT * FROM {source} WHERE score < {limit}",
    "sort": "SELECT * FROM {source} ORDER BY score",
    "add": "SELECT *, score * 2 AS twice FROM {source}",
    "half": "SELECT * FROM {source} WHERE id % 2 = 0",
}


def sql(step: str, chain: int, source: str) -> str:
    """One step as a query."""
    return SQL[step].format(source=source, limit=0.5 + chain / 1000) + "\n"


def worker() -> None:
    """Executes tasks until stdin ends."""
    import pyarrow as pa
    import pyarrow.ipc
    import pyarrow.parquet as pq

    def read(path: str) -> pa.Table:
        return pq.read_table(path) if path.endswith(".parquet") else pa.ipc.open_file(pa.memory_map(path)).read_all()

    def execute(task: dict[str, Any]) -> pa.Table:
        inputs = [read(path) for path in task["inputs"]]
        if task["step"] == "source":
            return inputs[0]
        if task["step"] == "end":
            return pa.table({"rows": [table.num_rows for table in inputs]})
        # Texts go back to Arrow's usual form, without the bytes of rows that are gone: fewer bytes in the file than with views.
        return run(task["step"], task["chain"], pl.from_arrow(inputs[0])).to_arrow()

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        table = execute(task)
        with pa.OSFile(task["output"], "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        print(json.dumps({"rows": table.num_rows, "bytes": table.nbytes}), flush=True)
        del table


if __name__ == "__main__":
    worker()
