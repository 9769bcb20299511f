"""What Celery's application has of canvas: `app.signature`, `app.chain`, `app.GroupResult` and so on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from dbqueue.result import GroupResult, ResultSet

if TYPE_CHECKING:
    from dbqueue.app import DBQueue


class CanvasNames:
    """Signatures and results for one application."""

    def GroupResult(  # noqa: N802 - Celery's name
        self, id: str | None = None, results: Iterable[Any] | None = None, parent: Any = None
    ) -> GroupResult:
        """The results of a group."""
        return GroupResult(id, results, parent=parent, app=cast("DBQueue", self))

    def ResultSet(self, results: Iterable[Any] | None = None) -> ResultSet:  # noqa: N802 - Celery's name
        """A set of results."""
        return ResultSet(results, app=cast("DBQueue", self))

    def signature(self, varies: Any, *args: Any, **kwargs: Any) -> Any:
        """A signature for this application; see `dbqueue.canvas.signatures`."""
        from dbqueue.canvas import signature

        made = signature(varies, *args, **kwargs)
        made._app = self
        return made

    def chain(self, *tasks: Any, **options: Any) -> Any:
        """A chain for this application."""
        return self._canvas("chain", tasks, options)

    def group(self, *tasks: Any, **options: Any) -> Any:
        """A group for this application."""
        return self._canvas("group", tasks, options)

    def chord(self, *tasks: Any, **options: Any) -> Any:
        """A chord for this application."""
        return self._canvas("chord", tasks, options)

    def xmap(self, *args: Any, **options: Any) -> Any:
        """A map for this application."""
        return self._canvas("xmap", args, options)

    def xstarmap(self, *args: Any, **options: Any) -> Any:
        """A starmap for this application."""
        return self._canvas("xstarmap", args, options)

    def chunks(self, *args: Any, **options: Any) -> Any:
        """Chunks for this application."""
        return self._canvas("chunks", args, options)

    def _canvas(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        from dbqueue import canvas

        made = getattr(canvas, name)(*args, **options)
        made._app = self
        return made

    @property
    def canvas(self) -> Any:
        """The module of signatures, as Celery's `app.canvas`."""
        from dbqueue import canvas

        return canvas
