"""SELECTs over the lake: into memory, mapped from shared memory; or as a stream, row by row or into files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, Literal, Mapping, Sequence, Union

from ._client_base import Methods
from ._connection import RowStream
from ._convert import NamespaceArg, RefArg, TableArg, namespace_name, table_name
from ._filters import scan_statement

if TYPE_CHECKING:
    import pyarrow as pa

PathArg = Union[str, "os.PathLike[str]"]
CacheArg = Union[bool, Literal["on", "off"], None]

MemoryArg = Union[int, str, None]

_ROWS_PER_STEP = 4096
_ROW_GROUP_ROWS = 128 * 1024


class QueryMethods(Methods):
    """SELECTs over the lake, into memory or files."""

    def query(
        self,
        query: str,
        *,
        ref: RefArg | None = None,
        max_rows: int | None = None,
        cache: CacheArg = None,
        namespace: NamespaceArg | None = None,
        args: Mapping[str, str] | None = None,
        priority: int | None = None,
        memory: MemoryArg = None,
        client_timeout: float | None = None,
    ) -> pa.Table:
        """Runs one SELECT and returns its rows. The table's buffers lie in shared memory and are read-only.

        Args:
            query: One SELECT; tables are `table` or `namespace.table`.
            ref: Any ref, so also a tag or an older commit. Default: the active branch.
            max_rows: At most so many rows.
            cache: Accepted; query results are not cached yet.
            namespace: Where tables without namespace are. Default: `default`.
            args: Accepted; there are no options of the engine to set.
            priority: Accepted, 1 to 10; queries do not wait for each other.
            memory: Memory of the query's operators, as bytes or text (`"512M"`, `"2GiB"`); what needs more spills to disk.
                Default: as configured. The result comes on top: take a larger one with `query_to_generator` or into a file.
            client_timeout: Seconds; then the query is cancelled.

        Raises:
            ForebayQueryError: if the query is wrong or fails.
            RefNotFoundError: if there is no such ref.
            JobTimeoutError: after `client_timeout`.

        Example:
            >>> client.query("SELECT carrier, count(*) AS n FROM flights GROUP BY carrier")  # doctest: +SKIP
        """
        fields = self._fields(query, ref, max_rows, namespace, memory, (cache, args, priority))
        answer = self._connection.call("query", fields, client_timeout=client_timeout)
        import pyarrow as pa

        return pa.table(answer.table)

    def query_to_batches(
        self,
        query: str,
        *,
        ref: RefArg | None = None,
        max_rows: int | None = None,
        cache: CacheArg = None,
        namespace: NamespaceArg | None = None,
        args: Mapping[str, str] | None = None,
        priority: int | None = None,
        memory: MemoryArg = None,
        client_timeout: float | None = None,
    ) -> RowStream:
        """Like `query`, as an iterator over `pyarrow.RecordBatch` with a `schema`. Rows come while the query runs, and wait until
        they are taken, so a result may be larger than memory. Use it in `with`, or `close()` it, to cancel the rest.

        Example:
            >>> with client.query_to_batches("SELECT * FROM flights") as batches:  # doctest: +SKIP
            ...     for batch in batches:
            ...         print(batch.num_rows)
        """
        fields = self._fields(query, ref, max_rows, namespace, memory, (cache, args, priority))
        return self._connection.stream("query", fields, client_timeout=client_timeout)

    def query_to_generator(
        self,
        query: str,
        *,
        ref: RefArg | None = None,
        max_rows: int | None = None,
        cache: CacheArg = None,
        namespace: NamespaceArg | None = None,
        args: Mapping[str, str] | None = None,
        priority: int | None = None,
        memory: MemoryArg = None,
        client_timeout: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Like `query`, row by row as dicts. The query starts when this is called, and its rows come as they are taken.

        Example:
            >>> for row in client.query_to_generator("SELECT carrier FROM airlines"):  # doctest: +SKIP
            ...     print(row["carrier"])
        """
        fields = self._fields(query, ref, max_rows, namespace, memory, (cache, args, priority))
        return _rows(self._connection.stream("query", fields, client_timeout=client_timeout))

    def query_to_parquet_file(
        self,
        path: PathArg,
        query: str,
        *,
        ref: RefArg | None = None,
        max_rows: int | None = None,
        cache: CacheArg = None,
        namespace: NamespaceArg | None = None,
        args: Mapping[str, str] | None = None,
        priority: int | None = None,
        memory: MemoryArg = None,
        client_timeout: float | None = None,
        row_group_size: int = _ROW_GROUP_ROWS,
        **options: Any,
    ) -> Path:
        """Like `query`, into a Parquet file, as rows come. `options` go to `pyarrow.parquet.ParquetWriter`. Returns the path.

        Args:
            row_group_size: Rows of a row group; it is held in memory until it is written.

        Example:
            >>> client.query_to_parquet_file("late.parquet", "SELECT * FROM late")  # doctest: +SKIP
        """
        fields = self._fields(query, ref, max_rows, namespace, memory, (cache, args, priority))

        def write(part: Path, batches: RowStream) -> None:
            import pyarrow as pa
            import pyarrow.parquet

            with pyarrow.parquet.ParquetWriter(part, batches.schema, **options) as writer:
                for group in _gathered(batches, row_group_size):
                    writer.write_table(pa.Table.from_batches(group, batches.schema), row_group_size)

        return self._into_file(path, fields, client_timeout, write)

    def query_to_csv_file(
        self,
        path: PathArg,
        query: str,
        *,
        ref: RefArg | None = None,
        max_rows: int | None = None,
        cache: CacheArg = None,
        namespace: NamespaceArg | None = None,
        args: Mapping[str, str] | None = None,
        priority: int | None = None,
        memory: MemoryArg = None,
        client_timeout: float | None = None,
        **options: Any,
    ) -> Path:
        """Like `query`, into a CSV file, as rows come. `options` go to `pyarrow.csv.WriteOptions`. Returns the path.

        Example:
            >>> client.query_to_csv_file("late.csv", "SELECT * FROM late", delimiter=";")  # doctest: +SKIP
        """
        import pyarrow.csv

        settings = pyarrow.csv.WriteOptions(**options)
        fields = self._fields(query, ref, max_rows, namespace, memory, (cache, args, priority))

        def write(part: Path, batches: RowStream) -> None:
            with pyarrow.csv.CSVWriter(part, batches.schema, write_options=settings) as writer:
                for batch in batches:
                    writer.write_batch(batch)

        return self._into_file(path, fields, client_timeout, write)

    def query_to_json_file(
        self,
        path: PathArg,
        query: str,
        *,
        file_format: Literal["json", "jsonl"] = "json",
        ref: RefArg | None = None,
        max_rows: int | None = None,
        cache: CacheArg = None,
        namespace: NamespaceArg | None = None,
        args: Mapping[str, str] | None = None,
        priority: int | None = None,
        memory: MemoryArg = None,
        client_timeout: float | None = None,
    ) -> Path:
        """Like `query`, into a JSON file, as rows come: one array (`json`), or one object a line (`jsonl`). Returns the path.

        Dates and times are ISO 8601 text, decimals text, binary values hexadecimal, NaN and infinities null.

        Raises:
            ValueError: for another `file_format`.

        Example:
            >>> client.query_to_json_file("late.jsonl", "SELECT * FROM late", file_format="jsonl")  # doctest: +SKIP
        """
        if file_format not in ("json", "jsonl"):
            raise ValueError(f"file_format is 'json' or 'jsonl', not {file_format!r}")
        fields = self._fields(query, ref, max_rows, namespace, memory, (cache, args, priority))
        return self._into_file(
            path, fields, client_timeout, lambda part, batches: _write_json(part, _rows(batches), file_format == "json")
        )

    def scan(
        self,
        table: TableArg,
        *,
        ref: RefArg | None = None,
        columns: Sequence[str] | None = None,
        filters: str | None = None,
        limit: int | None = None,
        cache: CacheArg = None,
        namespace: NamespaceArg | None = None,
        args: Mapping[str, str] | None = None,
        priority: int | None = None,
        memory: MemoryArg = None,
        client_timeout: float | None = None,
    ) -> pa.Table:
        """Reads columns and rows of one table. Safe with values from outside: nothing given here becomes other SQL.

        Args:
            table: The table.
            ref: Default: the active branch.
            columns: Names of columns; default: all.
            filters: One SQL boolean expression without subqueries; may hold bare dates (`day < 2013-02-01`).
            limit: At most so many rows.
            cache: Accepted; query results are not cached yet.
            namespace: Default: `default`.
            args: As in `query`.
            priority: As in `query`.
            memory: As in `query`.
            client_timeout: Seconds.

        Raises:
            ValueError: for an empty column list, or a filter that is not one boolean expression.
            ForebayQueryError: if the query fails, for instance because there is no such column.

        Example:
            >>> client.scan("flights", columns=["carrier"], filters="month = 1", limit=5)  # doctest: +SKIP
        """
        name, space = table_name(table, namespace)
        statement = scan_statement(name, space, columns, filters, limit)
        return self.query(
            statement, ref=ref, cache=cache, args=args, priority=priority, memory=memory, client_timeout=client_timeout
        )

    def _fields(
        self,
        query: str,
        ref: RefArg | None,
        max_rows: int | None,
        namespace: NamespaceArg | None,
        memory: MemoryArg,
        accepted: tuple[object, object, object],
    ) -> dict[str, Any]:
        """The request; what is only accepted is checked all the same."""
        cache, args, priority = accepted
        _check_cache(cache)
        if args is not None and not isinstance(args, Mapping):
            raise ValueError(f"args is a mapping of texts, not {args!r}")
        if priority is not None and (isinstance(priority, bool) or not isinstance(priority, int) or not 1 <= priority <= 10):
            raise ValueError(f"priority is a number from 1 to 10, not {priority!r}")
        return {
            "sql": query,
            "ref": self._at(ref),
            "namespace": namespace_name(namespace),
            "max_rows": max_rows,
            "memory_bytes": _bytes(memory),
        }

    def _into_file(
        self,
        path: PathArg,
        fields: Mapping[str, Any],
        client_timeout: float | None,
        write: Callable[[Path, RowStream], None],
    ) -> Path:
        """Writes beside the path and moves the file there, so that a failure leaves no half file."""
        wanted = Path(path)
        part = wanted.with_name(f".{wanted.name}.{os.getpid()}.part")
        with self._connection.stream("query", fields, client_timeout=client_timeout) as batches:
            try:
                write(part, batches)
                part.replace(wanted)
            finally:
                part.unlink() if part.exists() else None
        return wanted


def _rows(batches: RowStream) -> Iterator[dict[str, Any]]:
    with batches:
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS_PER_STEP):
                yield from batch.slice(start, _ROWS_PER_STEP).to_pylist()


def _gathered(batches: RowStream, rows: int) -> Iterator[list[pa.RecordBatch]]:
    """Runs of batches with at least so many rows each, but for the last."""
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        if sum(one.num_rows for one in group) >= rows:
            yield group
            group = []
    if group:
        yield group


def _bytes(memory: MemoryArg) -> int | None:
    if memory is None:
        return None
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?\s*", memory.lower())
        if found:
            unit = found[2] or ("" if found[3] else "m")
            memory = int(float(found[1]) * 1024 ** " kmgt".index(unit or " "))
    if isinstance(memory, bool) or not isinstance(memory, int) or not 0 < memory < 2**60:
        raise ValueError(f"memory is a number of bytes, or text like '512M' or '2GiB', not {memory!r}")
    return memory


def _check_cache(cache: object) -> None:
    if cache not in (None, True, False, "on", "off"):
        raise ValueError(f"cache is 'on', 'off' or a bool, not {cache!r}")


def _write_json(path: Path, rows: Iterator[dict[str, Any]], array: bool) -> None:
    with path.open("w", encoding="utf-8") as file:
        if not array:
            for row in rows:
                file.write(_json(row) + "\n")
            return
        separator = "[\n"
        for row in rows:
            file.write(separator + _json(row))
            separator = ",\n"
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def _json(row: dict[str, Any]) -> str:
    return json.dumps(_json_value(row), ensure_ascii=False, allow_nan=False)


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
