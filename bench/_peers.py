"""The baselines of the hand-off benchmark: one producer and one consumer process, driven line by line over stdin and stdout.

```text
python _peers.py produce|consume SYSTEM KIND ROWS FOLDER SOCKET     ipc-file | ipc-socket | parquet
python _peers.py ray SIZE KIND ROWS                                  Ray: two actors, one hand-over
```

Everything is imported, and the producer holds its table, before the clock starts. Producer and consumer are joined by a
socket, over which the one tells the other to begin (or sends the table), so no driver stands between them. Times are
`CLOCK_MONOTONIC`, which all processes of a machine share.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any

import _tables
import pyarrow as pa
import pyarrow.compute  # noqa: F401  (imported before the clock starts)
import pyarrow.ipc
import pyarrow.parquet as pq

#: Rows of a batch on the socket, so that one side reads while the other writes.
STREAM_ROWS = 1 << 17


class SocketFile:
    """A socket that Arrow reads from without a copy of its own: straight into the buffers of the batch."""

    closed = False

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    def read_buffer(self, size: int) -> pa.Buffer:
        """So many bytes, fewer at the end."""
        buffer = pa.allocate_buffer(size)
        view, filled = memoryview(buffer).cast("B"), 0
        while filled < size and (got := self._link.recv_into(view[filled:])):
            filled += got
        return buffer.slice(0, filled)

    def read(self, size: int) -> bytes:
        """The same, as bytes."""
        return self.read_buffer(size).to_pybytes()

    def readable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Nothing to do."""


def put(system: str, table: pa.Table, path: str, link: socket.socket) -> None:
    """The producer's side: when it returns, the consumer can have the table."""
    if system == "ipc-file":
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    elif system == "parquet":
        pq.write_table(table, path)
    else:
        with link.makefile("wb", buffering=0) as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=STREAM_ROWS)
        return
    link.sendall(b"!")


def get(system: str, path: str, link: socket.socket) -> tuple[pa.Table, int]:
    """The consumer's side: the table, and when it began to read."""
    if system == "ipc-socket":
        link.recv(1, socket.MSG_PEEK)
        begun = time.monotonic_ns()
        return pa.ipc.open_stream(pa.PythonFile(SocketFile(link), mode="r")).read_all(), begun
    link.recv(1)
    begun = time.monotonic_ns()
    return (pa.ipc.open_file(pa.memory_map(path)).read_all() if system == "ipc-file" else pq.read_table(path)), begun


def say(**values: Any) -> None:
    """One line to the driver."""
    print(json.dumps(values), flush=True)


def peer(role: str, system: str, kind: str, rows: int, path: str, descriptor: int) -> None:
    """One side of a hand-over."""
    link = socket.socket(fileno=descriptor)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        link.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
    if role == "produce":
        table = _tables.build(kind, rows)
        say(bytes=table.nbytes)
        sys.stdin.readline()
        returned = time.monotonic_ns()
        put(system, table, path, link)
        say(returned=returned, published=time.monotonic_ns())
    else:
        say(ready=True)
        table, begun = get(system, path, link)
        held = time.monotonic_ns()
        total = _tables.scan(table)
        say(begun=begun, held=held, scanned=time.monotonic_ns(), total=total)
    sys.stdin.readline()


def through_ray(size: int, kind: str, rows: int) -> None:
    """One hand-over through Ray's object store: a task returns the table, another, submitted before, takes it as argument."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=int(size * 1.15) + (256 << 20))

    @ray.remote
    class Producer:
        def build(self) -> int:
            self.table = _tables.build(kind, rows)
            return self.table.nbytes

        def produce(self) -> Any:
            self.returned = time.monotonic_ns()
            return self.table

        def when(self) -> int:
            return self.returned

    @ray.remote
    class Consumer:
        def ready(self) -> bool:
            return True

        def consume(self, table: Any) -> tuple[int, int, float]:
            held = time.monotonic_ns()
            total = _tables.scan(table)
            return held, time.monotonic_ns(), total

    producer, consumer = Producer.remote(), Consumer.remote()
    ray.get(consumer.ready.remote())
    say(bytes=ray.get(producer.build.remote()))
    sys.stdin.readline()
    result = consumer.consume.remote(producer.produce.remote())
    held, scanned, total = ray.get(result)
    say(returned=ray.get(producer.when.remote()), held=held, scanned=scanned, total=total)
    sys.stdin.readline()
    ray.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "ray":
        through_ray(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        peer(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5], int(sys.argv[6]))
