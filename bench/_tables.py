"""The tables of the hand-off benchmark and how they are scanned. Runs in models, in baselines and in Ray's actors alike.

Ten columns of one kind each, every column one chunk. Built by Arrow kernels from fixed seeds, so that each system hands
over the same bytes and the sum of a scan tells whether it did. Text and lists repeat a tile of rows; nobody looks for that
(a Parquet dictionary does not hold a tile of distinct texts).
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = 10
TILE_ROWS = 1 << 18
KINDS = ("numbers", "low", "high", "nested")


def integers(rows: int, below: int, seed: int) -> pa.Array:
    """Random integers from 0 to `below` - 1."""
    return pc.cast(pc.floor(pc.multiply(pc.random(rows, initializer=seed), float(below))), pa.int64())


def tile(kind: str, column: int, rows: int = TILE_ROWS) -> pa.Array:
    """The rows that a column of text or lists repeats."""
    if kind == "low":
        words = pa.array([f"country {'abcdefgh'[: n % 9]}{n}" for n in range(200)])
        return words.take(integers(rows, 200, column))
    if kind == "high":
        one, two = (pc.cast(integers(rows, 10**15, seed), pa.string()) for seed in (column, column + 100))
        return pc.binary_join_element_wise("https://www.example.org/articles/", one, "?session=", two, "")
    lengths = pc.cast(integers(rows, 8, column), pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
    items = offsets[-1].as_py()
    names = pc.binary_join_element_wise("item ", pc.cast(integers(items, 10**6, column + 200), pa.string()), "")
    struct = pa.StructArray.from_arrays(
        [integers(items, 10**9, column + 300), pc.random(items, initializer=column), names], names=["id", "price", "name"]
    )
    return pa.ListArray.from_arrays(offsets, struct)


def rows_of(kind: str, size: int) -> int:
    """Rows of a table of about `size` bytes."""
    per_row = 8.0 if kind == "numbers" else tile(kind, 0).nbytes / TILE_ROWS
    return int(size / (per_row * COLUMNS))


def build(kind: str, rows: int) -> pa.Table:
    """A table of so many rows."""
    if kind == "numbers":
        random = pc.random(rows, initializer=1)
        whole = pc.cast(pc.multiply(random, 1e9), pa.int64(), safe=False)
        columns = [pc.add(random if column % 2 else whole, column) for column in range(COLUMNS)]
    else:
        columns = [_repeated(tile(kind, column), rows) for column in range(COLUMNS)]
    return pa.table(columns, names=[f"c{column}" for column in range(COLUMNS)])


def _repeated(piece: pa.Array, rows: int) -> pa.Array:
    return pa.concat_arrays([piece] * (rows // TILE_ROWS) + [piece.slice(0, rows % TILE_ROWS)])


def scan(table: pa.Table) -> float:
    """Reads every byte of a table, with as little work per byte as there is; the sum of all numbers and lengths of texts.

    Texts are summed as words of 8 bytes (which go into no result: they depend on where chunks begin) besides their lengths.
    """
    return sum(_scan(column) for column in table.columns)


def _scan(column: pa.ChunkedArray) -> float:
    kind = column.type
    if pa.types.is_list(kind):
        return sum(_scan(pc.struct_field(pc.list_flatten(column), field)) for field in range(kind.value_type.num_fields))
    if pa.types.is_primitive(kind):
        return float(pc.sum(column).as_py())
    for chunk in column.chunks:
        text = chunk.buffers()[2]
        pc.sum(pa.Array.from_buffers(pa.int64(), text.size // 8, [None, text]))
    return float(pc.sum(pc.binary_length(column)).as_py())
