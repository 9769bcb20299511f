"""Small functions that programs import of `celery.utils.functional`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")


def noop(*args: Any, **kwargs: Any) -> None:
    """Nothing, whatever it is given."""


def pass1(arg: T, *args: Any, **kwargs: Any) -> T:
    """Its first argument."""
    return arg


def chunks(it: Iterator[T], n: int) -> Iterator[list[T]]:
    """The items of an iterator in lists of `n`; the last one may be shorter."""
    return iter(lambda: list(islice(it, n)), [])


def first(predicate: Callable[[T], Any] | None, it: Iterable[T]) -> T | None:
    """The first item that the predicate is true of (by default the first that is not None); None without one."""
    return next((item for item in it if (item is not None if predicate is None else predicate(item))), None)


def uniq(it: Iterable[T]) -> Iterator[T]:
    """Each item once, in the order of its first place."""
    return iter(dict.fromkeys(it))


def padlist(container: Sequence[T], size: int, default: T | None = None) -> list[T | None]:
    """The first `size` items, and `default` for those that are missing."""
    return [*container[:size], *[default] * (size - len(container))]


def lookahead(it: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Each item with the one that follows it; None follows the last."""
    items = list(it)
    return zip(items, [*items[1:], None], strict=True)


def is_list(value: Any, scalars: tuple[type, ...] = (Mapping, str), iters: tuple[type, ...] = (Iterable,)) -> bool:
    """Whether a value is many: neither a text nor a mapping."""
    return isinstance(value, iters) and not isinstance(value, scalars)


def maybe_list(value: Any, scalars: tuple[type, ...] = (Mapping, str)) -> Any:
    """A value alone as a list of one; None and what is many as it is."""
    return value if value is None or is_list(value, scalars) else [value]


def dictfilter(d: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The items whose value is not None."""
    return {name: value for name, value in {**(d or {}), **more}.items() if value is not None}


def fun_accepts_kwargs(fun: Callable[..., Any]) -> bool:
    """Whether a function has `**kwargs`."""
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in inspect.signature(fun).parameters.values())


def memoize(maxsize: int | None = None) -> Callable[[Callable[..., T]], Any]:
    """A decorator that keeps what a function returned: `functools.lru_cache`."""
    return lru_cache(maxsize=maxsize)
