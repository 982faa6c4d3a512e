"""Unknown keyword arguments fail where the user wrote them, with the nearest known name as a suggestion."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    Callee = TypeVar("Callee", bound=Callable[..., Any])


def checked(function: Callee) -> Callee:
    """Wraps `function` so that a keyword it does not know raises a `TypeError` that suggests one it knows."""
    code = function.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    shown = function.__qualname__.replace(".__init__", "")

    def wrapper(*args: Any, **options: Any) -> Any:
        for name in options:
            if name not in known:
                raise TypeError(_complaint(shown, name, [word for word in known if word != "self"]))
        return function(*args, **options)

    for attribute in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
        setattr(wrapper, attribute, getattr(function, attribute))
    wrapper.__wrapped__ = function  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


def _complaint(function: str, name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known) or 'no arguments'}"
    return f"forebay.{function}() got an unexpected keyword argument {name!r}: {hint}"
