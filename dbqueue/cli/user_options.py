"""Options that the application adds to commands: `app.user_options` of Celery's guide "Extensions and Bootsteps".

They can be known only when the application is loaded, and that is not before the global options are read: so a
command gets them when its own arguments are about to be parsed.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dbqueue.cli.target import Target

KEPT: Final = f"{__name__}.kept"
"""Where a context keeps the values of the application's own options."""
WITHOUT_APP: Final = frozenset({"port-check", "migrate", "multi"})
"""Commands that must run where the application cannot be loaded; `multi` leaves that to the workers that it starts."""
WORKDIR: Final = "--workdir"


def extended(command: click.Command, name: str) -> click.Command:
    """The command, which takes the application's options too."""
    if name in WITHOUT_APP:
        return command
    found = copy.copy(command)
    found.make_context = _make_context(command, name)  # type: ignore[method-assign]
    return found


def own_options(ctx: click.Context) -> dict[str, Any]:
    """What was given for the application's own options of this command."""
    kept: dict[str, Any] = ctx.meta.get(KEPT, {})
    return kept


def _make_context(command: click.Command, name: str) -> Any:
    def make_context(info_name: str, args: list[str], parent: click.Context | None = None, **extra: Any) -> Any:
        target: Target | None = parent.obj if parent is not None else None
        if target is None or not target.names_app:
            return command.make_context(info_name, args, parent, **extra)
        if any(WORKDIR in each.opts for each in command.params):
            args = _in_workdir(args)
        app = target.app
        preload, own = _sorted(app.user_options.get("preload", ())), _sorted(app.user_options.get(name, ()))
        if not preload and not own:
            return command.make_context(info_name, args, parent, **extra)
        wide = copy.copy(command)
        wide.params = [*command.params, *own, *preload]
        ctx = wide.make_context(info_name, args, parent, **extra)
        taken = {str(option.name): ctx.params.pop(str(option.name)) for option in (*own, *preload)}
        ctx.meta[KEPT] = {str(option.name): taken[str(option.name)] for option in own}
        ctx.command = command
        _tell(app, {str(option.name): taken[str(option.name)] for option in preload}, name)
        return ctx

    return make_context


def _in_workdir(args: list[str]) -> list[str]:
    """Change to the folder of `--workdir`, where the application is to be found; the option names it in full then."""
    args = list(args)
    for place, arg in enumerate(args):
        name, is_one, folder = arg.partition("=")
        at = place if is_one else min(place + 1, len(args) - 1)
        folder = folder if is_one else args[at]
        if name == WORKDIR and Path(folder).is_dir():  # what is none is refused when options are read
            folder = str(Path(folder).resolve())
            args[at] = f"{WORKDIR}={folder}" if is_one else folder
            os.chdir(folder)
    return args


def _tell(app: Any, options: dict[str, Any], name: str) -> None:
    from dbqueue import signals

    if options:
        signals.user_preload_options.send(sender=name, app=app, options=options)


def _sorted(options: Iterable[click.Option]) -> list[click.Option]:
    return sorted(options, key=lambda option: str(option.name))
