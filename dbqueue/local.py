"""Objects that stand for another one, which is asked for anew at each use: Celery's `celery.local`.

`from dbqueue import current_task` is read once, when its module is imported, and must mean the task that runs when
it is used. The same holds for `current_app`, and for what `@shared_task` leaves in a module.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Proxy"]


class Proxy:
    """Stands for what `local(*args, **kwargs)` returns: its attributes, its class, calls of it, comparisons.

    `is` tells the two apart.
    `name` and `doc` are what its `__name__` and `__doc__` are; by default those of the object.
    """

    __slots__ = ("__args", "__doc", "__kwargs", "__local", "__name", "__weakref__")

    def __init__(
        self,
        local: Callable[..., Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        doc: str | None = None,
    ) -> None:
        for slot, value in (("local", local), ("args", args or ()), ("kwargs", kwargs or {}), ("name", name)):
            object.__setattr__(self, f"_Proxy__{slot}", value)
        object.__setattr__(self, "_Proxy__doc", doc)

    def _get_current_object(self) -> Any:
        """The object itself."""
        return self.__local(*self.__args, **self.__kwargs)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._get_current_object().__class__

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__doc or self._get_current_object().__doc__  # type: ignore[no-any-return]

    @property
    def __module__(self) -> str:  # type: ignore[override]
        return self._get_current_object().__module__  # type: ignore[no-any-return]

    @property
    def __name__(self) -> str:
        return self.__name or self._get_current_object().__name__  # type: ignore[no-any-return]

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return self._get_current_object().__dict__  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __dir__(self) -> list[str]:
        return dir(self._get_current_object())

    def __repr__(self) -> str:
        return repr(self._get_current_object())

    def __str__(self) -> str:
        return str(self._get_current_object())

    def __bool__(self) -> bool:
        return bool(self._get_current_object())

    def __eq__(self, other: object) -> bool:
        return bool(self._get_current_object() == _itself(other))

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get_current_object()(*args, **kwargs)

    def __or__(self, other: Any) -> Any:
        return operator.or_(self._get_current_object(), _itself(other))

    def __enter__(self) -> Any:
        return self._get_current_object().__enter__()

    def __exit__(self, *exc_info: object) -> Any:
        return self._get_current_object().__exit__(*exc_info)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._get_current_object().__reduce_ex__(protocol)


def _itself(value: Any) -> Any:
    """What a proxy stands for; anything else as it is."""
    return value._get_current_object() if type(value) is Proxy else value
