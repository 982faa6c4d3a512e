"""The decorators of a project. They are inert: each returns the function it decorates, unchanged.

The planner reads the same source text without executing it and checks every argument, so these check only what
helps while the user types: names of arguments and, for closed sets, their values.
"""

from __future__ import annotations

from ._checked import checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Literal, Mapping, Sequence, TypeVar, Union

    Function = TypeVar("Function", bound=Callable[..., Any])
    Strategy = Literal["NONE", "REPLACE", "APPEND", "OVERWRITE_PARTITIONS", "MERGE"]

_STRATEGIES = ("NONE", "REPLACE", "APPEND", "OVERWRITE_PARTITIONS", "MERGE")
_CACHES = ("NONE", "DEFAULT")


@checked
def model(
    name: str | None = None,
    columns: Sequence[str] | None = None,
    partitioned_by: Union[str, Sequence[str], None] = None,
    materialization_strategy: Strategy | None = None,
    cache_strategy: Literal["NONE", "DEFAULT"] | None = None,
    internet_access: bool | None = None,
    overwrite_filter: str | None = None,
    materialize: bool | None = None,
    sorted_by: Union[str, Sequence[str], None] = None,
    merge_keys: Union[str, Sequence[str], None] = None,
    delete_when: str | None = None,
) -> Callable[[Function], Function]:
    """Makes a function a model: tables in, exactly one table out.

    Args:
        name: Name of the model and of its table, `table` or `namespace.table`. Default: the function's name.
        columns: Columns the result must have; `["*"]` allows any.
        partitioned_by: `"day(ts), country"` or a list of such fields: columns, `year month day hour` of one,
            `bucket(16, column)` or `truncate(4, column)`.
        materialization_strategy: What a run does with the lake's table of that name. `NONE` (default) writes nothing,
            `REPLACE` writes it anew, `APPEND` adds rows, `OVERWRITE_PARTITIONS` deletes what `overwrite_filter`
            matches and then adds all rows, `MERGE` puts each row in the place of the one with the same key.
        cache_strategy: `NONE` opts this model out of reuse of results.
        internet_access: Whether the function may use the network. Default: no.
        overwrite_filter: For `OVERWRITE_PARTITIONS`: SQL over partition columns; may hold `$parameter`.
        materialize: `True` is another way to say `materialization_strategy="REPLACE"`.
        sorted_by: `"country, ts desc"` or a list of such fields: the order of the rows of each file of the table.
        merge_keys: For `MERGE`: the columns that identify a row.
        delete_when: For `MERGE`: SQL over the model's columns; rows for which it is true delete the row with their key.
            The name of a boolean column alone is a mark that is not stored. May hold `$parameter`.

    Raises:
        TypeError: for an unknown argument, with a suggestion.
        ValueError: for a strategy that does not exist.

    Example:
        >>> import forebay
        >>> @forebay.model(materialization_strategy="REPLACE")
        ... def late(flights=forebay.Model("flights")):
        ...     return flights
    """
    if name is not None and not isinstance(name, str):
        raise TypeError("forebay.model() takes the name as text; the decorator needs its parentheses: `@forebay.model()`")
    _one_of("materialization_strategy", materialization_strategy, _STRATEGIES)
    _one_of("cache_strategy", cache_strategy, _CACHES)
    return _inert("model")


@checked
def expectation() -> Callable[[Function], Function]:
    """Makes a function an expectation: tables in, `True` or `False` out; `False` fails a strict run.

    Raises:
        TypeError: for any argument; an expectation takes none.

    Example:
        >>> import forebay
        >>> @forebay.expectation()
        ... def has_rows(late=forebay.Model("late")):
        ...     return late.num_rows > 0
    """
    return _inert("expectation")


@checked
def python(version: str | None = None, pip: Mapping[str, str] | None = None) -> Callable[[Function], Function]:
    """Chooses the interpreter and the packages of one function.

    Args:
        version: `"3.11"`. Default: the project's.
        pip: Package to version: exact (`"2.2.0"`), a prefix (`"2.2"` is the newest 2.2.x), a PEP 440 specifier
            (`">=2,<3"`), or `""` for any.

    Raises:
        TypeError: for an unknown argument, or for a version that is not text (`3.10` would be 3.1).

    Example:
        >>> import forebay
        >>> @forebay.model()
        ... @forebay.python("3.11", pip={"pandas": "2.2"})
        ... def late(flights=forebay.Model("flights")):
        ...     return flights.to_pandas()
    """
    if version is not None and not isinstance(version, str):
        raise TypeError(f"forebay.python() takes the version as text, not {type(version).__name__}: `@forebay.python(\"3.11\")`")
    return _inert("python")


@checked
def resources(
    cpus: Union[int, float, None] = None,
    memory: Union[int, str, None] = None,
    memory_swap: Union[int, str, None] = None,
    timeout: int | None = None,
) -> Callable[[Function], Function]:
    """Says what one function needs and may use.

    Args:
        cpus: Processors, fractions allowed.
        memory: Text with a unit (`"512M"`, `"2G"`), or a number of mebibytes.
        memory_swap: Ignored: functions do not swap.
        timeout: Seconds after which the function is stopped.

    Raises:
        TypeError: for an unknown argument, with a suggestion.

    Example:
        >>> import forebay
        >>> @forebay.model()
        ... @forebay.resources(cpus=2, memory="2G", timeout=60)
        ... def late(flights=forebay.Model("flights")):
        ...     return flights
    """
    return _inert("resources")


def extras(*names: str) -> Callable[[Function], Function]:
    """Ignored, and accepted so that older projects move over: name the packages in `forebay.python(pip={…})`."""
    return _inert("extras")


def _inert(name: str) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        if not callable(function):
            raise TypeError(f"@forebay.{name}() decorates a function, not {type(function).__name__}")
        return function

    return decorate


def _one_of(argument: str, value: object, allowed: tuple[str, ...]) -> None:
    if value is not None and str(value).upper() not in allowed:
        raise ValueError(f"forebay.model() got {argument}={value!r}: it is one of {', '.join(allowed)}")
