"""SELECTs over the lake, into memory or files. Results are mapped from shared memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Literal, Sequence, Union

from ._client_base import Methods
from ._convert import NamespaceArg, RefArg, TableArg, namespace_name, table_name
from ._filters import scan_statement

if TYPE_CHECKING:
    import pyarrow as pa

PathArg = Union[str, "os.PathLike[str]"]
CacheArg = Union[bool, Literal["on", "off"], None]

_ROWS_PER_STEP = 4096


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
        client_timeout: float | None = None,
    ) -> pa.Table:
        """Runs one SELECT and returns its rows. The table's buffers lie in shared memory and are read-only.

        Args:
            query: One SELECT; tables are `table` or `namespace.table`.
            ref: Any ref, so also a tag or an older commit. Default: the active branch.
            max_rows: At most so many rows.
            cache: Accepted; query results are not cached yet.
            namespace: Where tables without namespace are. Default: `default`.
            client_timeout: Seconds; then the query is cancelled.

        Raises:
            ForebayQueryError: if the query is wrong or fails.
            RefNotFoundError: if there is no such ref.
            JobTimeoutError: after `client_timeout`.

        Example:
            >>> client.query("SELECT carrier, count(*) AS n FROM flights GROUP BY carrier")  # doctest: +SKIP
        """
        _check_cache(cache)
        answer = self._connection.call(
            "query",
            {"sql": query, "ref": self._at(ref), "namespace": namespace_name(namespace), "max_rows": max_rows},
            client_timeout=client_timeout,
        )
        import pyarrow as pa

        return pa.table(answer.table)

    def query_to_generator(
        self,
        query: str,
        *,
        ref: RefArg | None = None,
        max_rows: int | None = None,
        cache: CacheArg = None,
        namespace: NamespaceArg | None = None,
        client_timeout: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Like `query`, row by row as dicts. The query runs when this is called, rows are made as they are taken.

        Example:
            >>> for row in client.query_to_generator("SELECT carrier FROM airlines"):  # doctest: +SKIP
            ...     print(row["carrier"])
        """
        table = self.query(
            query, ref=ref, max_rows=max_rows, cache=cache, namespace=namespace, client_timeout=client_timeout
        )
        return (row for batch in table.to_batches(max_chunksize=_ROWS_PER_STEP) for row in batch.to_pylist())

    def query_to_parquet_file(
        self,
        path: PathArg,
        query: str,
        *,
        ref: RefArg | None = None,
        max_rows: int | None = None,
        cache: CacheArg = None,
        namespace: NamespaceArg | None = None,
        client_timeout: float | None = None,
        **options: Any,
    ) -> Path:
        """Like `query`, into a Parquet file. `options` go to `pyarrow.parquet.write_table`. Returns the path.

        Example:
            >>> client.query_to_parquet_file("late.parquet", "SELECT * FROM late")  # doctest: +SKIP
        """
        table = self.query(
            query, ref=ref, max_rows=max_rows, cache=cache, namespace=namespace, client_timeout=client_timeout
        )
        import pyarrow.parquet

        return _written(path, lambda part: pyarrow.parquet.write_table(_plain(table), part, **options))

    def query_to_csv_file(
        self,
        path: PathArg,
        query: str,
        *,
        ref: RefArg | None = None,
        max_rows: int | None = None,
        cache: CacheArg = None,
        namespace: NamespaceArg | None = None,
        client_timeout: float | None = None,
        **options: Any,
    ) -> Path:
        """Like `query`, into a CSV file. `options` go to `pyarrow.csv.WriteOptions`. Returns the path.

        Example:
            >>> client.query_to_csv_file("late.csv", "SELECT * FROM late", delimiter=";")  # doctest: +SKIP
        """
        table = self.query(
            query, ref=ref, max_rows=max_rows, cache=cache, namespace=namespace, client_timeout=client_timeout
        )
        import pyarrow.csv

        settings = pyarrow.csv.WriteOptions(**options)
        return _written(path, lambda part: pyarrow.csv.write_csv(_plain(table), part, settings))

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
        client_timeout: float | None = None,
    ) -> Path:
        """Like `query`, into a JSON file: one array (`json`), or one object a line (`jsonl`). Returns the path.

        Dates and times are ISO 8601 text, decimals text, binary values hexadecimal, NaN and infinities null.

        Raises:
            ValueError: for another `file_format`.

        Example:
            >>> client.query_to_json_file("late.jsonl", "SELECT * FROM late", file_format="jsonl")  # doctest: +SKIP
        """
        if file_format not in ("json", "jsonl"):
            raise ValueError(f"file_format is 'json' or 'jsonl', not {file_format!r}")
        rows = self.query_to_generator(
            query, ref=ref, max_rows=max_rows, cache=cache, namespace=namespace, client_timeout=client_timeout
        )
        return _written(path, lambda part: _write_json(part, rows, file_format == "json"))

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
            client_timeout: Seconds.

        Raises:
            ValueError: for an empty column list, or a filter that is not one boolean expression.
            ForebayQueryError: if the query fails, for instance because there is no such column.

        Example:
            >>> client.scan("flights", columns=["carrier"], filters="month = 1", limit=5)  # doctest: +SKIP
        """
        name, space = table_name(table, namespace)
        statement = scan_statement(name, space, columns, filters, limit)
        return self.query(statement, ref=ref, cache=cache, client_timeout=client_timeout)


def _check_cache(cache: object) -> None:
    if cache not in (None, True, False, "on", "off"):
        raise ValueError(f"cache is 'on', 'off' or a bool, not {cache!r}")


def _written(path: PathArg, write: Any) -> Path:
    """Writes beside the path and moves the file there, so that a failure leaves no half file."""
    wanted = Path(path)
    part = wanted.with_name(f".{wanted.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(wanted)
    finally:
        part.unlink() if part.exists() else None
    return wanted


def _plain(table: pa.Table) -> pa.Table:
    """The table with views as plain strings and binaries, which every writer takes."""
    import pyarrow as pa

    plain = {"string_view": pa.string(), "binary_view": pa.binary()}
    fields = [field.with_type(plain.get(str(field.type), field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, table.schema.metadata))


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
