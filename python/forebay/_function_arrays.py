"""Lists and numpy arrays as an Arrow table, without pyarrow: for environments that do without it.

Columns become the structures of the Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html), made with
`ctypes`. Numbers of a numpy array are not copied. Known are: integers, floats, truth values, text, bytes, dates, times with and
without a zone, `None`, and numpy's numbers, truth values, text and `datetime64`; anything else wants pyarrow.
"""

from __future__ import annotations

import array
import ctypes
import datetime
import sys
from typing import Any

from ._function import Failure
from ._native import Stream

_EPOCH = datetime.datetime(1970, 1, 1)
_FLAG_NULLABLE = 2
_TEXT_BYTES_MAX = 2**31 - 1


class _Schema(ctypes.Structure):
    pass


class _Array(ctypes.Structure):
    pass


class _Stream(ctypes.Structure):
    pass


_Release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Get = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_Error = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)

_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_char_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))),
    ("dictionary", ctypes.POINTER(_Schema)),
    ("release", _Release),
    ("private_data", ctypes.c_void_p),
]
_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
    ("dictionary", ctypes.POINTER(_Array)),
    ("release", _Release),
    ("private_data", ctypes.c_void_p),
]
_Stream._fields_ = [
    ("get_schema", _Get),
    ("get_next", _Get),
    ("get_last_error", _Error),
    ("release", _Release),
    ("private_data", ctypes.c_void_p),
]

#: Everything that foreign code may still point at. The process ends soon after its one table.
_kept: list[Any] = []


def stream(columns: dict[str, Any], length: int) -> Stream:
    """The columns, all of `length` values, as a stream of one batch.

    Raises:
        Failure: if a column has values that need pyarrow.
    """
    made = {name: _column(name, values) for name, values in columns.items()}
    schemas = [_schema(kind, name) for name, (kind, _, _) in made.items()]
    arrays = [_array(length, nulls, buffers, []) for _, nulls, buffers in made.values()]
    schema = _schema("+s", "", schemas)
    batch = _array(length, 0, [None], arrays)
    left = [batch]

    def get_schema(_: int, out: int) -> int:
        ctypes.memmove(out, ctypes.byref(schema), ctypes.sizeof(_Schema))
        return 0

    def get_next(_: int, out: int) -> int:
        # A released array says that there is nothing more.
        source = left.pop() if left else _Array()
        ctypes.memmove(out, ctypes.byref(source), ctypes.sizeof(_Array))
        return 0

    given = Stream()
    callbacks = (_Get(get_schema), _Get(get_next), _Error(lambda _: None), _released(_Stream))
    here = _Stream.from_address(given.address)
    here.get_schema, here.get_next, here.get_last_error, here.release = callbacks
    _kept.extend([*callbacks, schema, batch])
    return given


def _released(kind: Any) -> Any:
    def release(address: int) -> None:
        kind.from_address(address).release = _Release()

    callback = _Release(release)
    _kept.append(callback)
    return callback


def _schema(kind: str, name: str, children: list[Any] | None = None) -> Any:
    children = children or []
    made = _Schema(format=kind.encode(), name=name.encode(), flags=_FLAG_NULLABLE if name else 0, n_children=len(children))
    if children:
        made.children = (ctypes.POINTER(_Schema) * len(children))(*map(ctypes.pointer, children))
    made.release = _released(_Schema)
    _kept.append(made)
    return made


def _array(length: int, nulls: int, buffers: list[Any], children: list[Any]) -> Any:
    made = _Array(length=length, null_count=nulls, offset=0, n_buffers=len(buffers), n_children=len(children))
    made.buffers = (ctypes.c_void_p * len(buffers))(*map(_address, buffers))
    if children:
        made.children = (ctypes.POINTER(_Array) * len(children))(*map(ctypes.pointer, children))
    made.release = _released(_Array)
    _kept.extend([made, buffers])
    return made


def _address(buffer: Any) -> int | None:
    if buffer is None:
        return None
    if hasattr(buffer, "__array_interface__"):
        return int(buffer.__array_interface__["data"][0])
    if isinstance(buffer, array.array):
        return buffer.buffer_info()[0]
    return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value


def _column(name: str, values: Any) -> tuple[str, int, list[Any]]:
    """Arrow's word for the type, the number of nulls, and the buffers."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(values, numpy.ndarray):
        return _of_numpy(name, values, numpy)
    return _of_list(name, list(values))


def _of_numpy(name: str, values: Any, numpy: Any) -> tuple[str, int, list[Any]]:
    if values.ndim != 1:
        raise _unknown(name, f"an array of {values.ndim} dimensions")
    kind, size = values.dtype.kind, values.dtype.itemsize
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    words = {("i", 1): "c", ("i", 2): "s", ("i", 4): "i", ("i", 8): "l", ("u", 1): "C", ("u", 2): "S", ("u", 4): "I"}
    words.update({("u", 8): "L", ("f", 2): "e", ("f", 4): "f", ("f", 8): "g"})
    if isinstance(values, numpy.ma.MaskedArray):
        return _of_list(name, values.tolist())
    if (kind, size) in words:
        return words[kind, size], 0, [None, numpy.ascontiguousarray(values)]
    if kind == "b":
        return "b", 0, [None, numpy.packbits(values, bitorder="little")]
    if kind == "M":
        # Arrow knows seconds and their thousandths; whole days become seconds.
        unit = numpy.datetime_data(values.dtype)[0]
        unit = unit if unit in ("s", "ms", "us", "ns") else "s"
        values = numpy.ascontiguousarray(values.astype(f"datetime64[{unit}]"))
        missing = numpy.isnat(values)
        valid = numpy.packbits(~missing, bitorder="little") if missing.any() else None
        return f"ts{unit[0]}:", int(missing.sum()), [valid, values.view("int64")]
    return _of_list(name, values.tolist())


def _of_list(name: str, values: list[Any]) -> tuple[str, int, list[Any]]:
    values = [value.item() if hasattr(value, "dtype") and hasattr(value, "item") else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    nulls = sum(value is None for value in values)
    valid = _bits([value is not None for value in values]) if nulls else None
    if not kinds:
        return "n", len(values), []
    if kinds == {bool}:
        return "b", nulls, [valid, _bits([bool(value) for value in values])]
    if kinds == {int}:
        return "l", nulls, [valid, _numbers(name, "q", values)]
    if kinds <= {int, float}:
        return "g", nulls, [valid, _numbers(name, "d", values)]
    if kinds == {str}:
        return _of_bytes("uU", [value.encode("utf-8", "replace") if value else b"" for value in values], nulls, valid)
    if kinds <= {bytes, bytearray}:
        return _of_bytes("zZ", [value or b"" for value in values], nulls, valid)
    if kinds == {datetime.date}:
        days = [value and (value - _EPOCH.date()).days for value in values]
        return "tdD", nulls, [valid, _numbers(name, "i", days)]
    if kinds == {datetime.datetime}:
        return _of_times(name, values, nulls, valid)
    raise _unknown(name, " and ".join(sorted(f"`{kind.__name__}`" for kind in kinds)))


def _of_times(name: str, values: list[Any], nulls: int, valid: Any) -> tuple[str, int, list[Any]]:
    zones = {value.tzinfo is not None for value in values if value is not None}
    if len(zones) > 1:
        raise _unknown(name, "times with and without a zone")
    epoch = _EPOCH.replace(tzinfo=datetime.timezone.utc) if zones == {True} else _EPOCH
    moments = [value and (value - epoch) // datetime.timedelta(microseconds=1) for value in values]
    return "tsu:UTC" if zones == {True} else "tsu:", nulls, [valid, _numbers(name, "q", moments)]


def _of_bytes(words: str, values: list[Any], nulls: int, valid: Any) -> tuple[str, int, list[Any]]:
    large = sum(map(len, values)) > _TEXT_BYTES_MAX
    offsets = array.array("q" if large else "i", [0])
    at = 0
    for value in values:
        at += len(value)
        offsets.append(at)
    return words[large], nulls, [valid, offsets, b"".join(values)]


def _numbers(name: str, code: str, values: list[Any]) -> Any:
    try:
        return array.array(code, [0 if value is None else value for value in values])
    except OverflowError as error:
        raise _unknown(name, f"a number that is too large ({error})") from error


def _bits(truths: list[bool]) -> bytes:
    packed = bytearray((len(truths) + 7) // 8)
    for at, truth in enumerate(truths):
        if truth:
            packed[at >> 3] |= 1 << (at & 7)
    return bytes(packed)


def _unknown(name: str, what: str) -> Failure:
    return Failure(
        "RUN0103",
        f"could not make a table of the result: its column `{name}` holds {what}",
        "this environment has no pyarrow, which knows more types",
        hint="add `pyarrow` to the model's `@forebay.python(pip=…)`",
    )
