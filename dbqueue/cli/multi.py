"""`dbqueue multi`: start, stop and list many workers of one host at once, under Celery's commands.

A node is a detached worker that its pid file stands for; see `nodes` for how nodes and options are
named. Nothing else is kept between two calls: give `stop` and `restart` the nodes of `start`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from dbqueue.cli import exit_codes, hidden_arguments, nodes, pidfile
from dbqueue.cli.nodes import Node
from dbqueue.version import __version__

PIDFILE: Final = "%n.pid"
LOGFILE: Final = "%n%I.log"
"""In the current folder, unless the options say otherwise."""
LOOK_SECONDS: Final = 0.1
SHOW_SECONDS: Final = 1.0
"""How often it is said that nodes are still waited for."""


class _Raw(click.Command):
    """A command that sorts its words itself: `-c:1 3` is no option that click knows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = tuple(args)
        return []


@click.command("multi", cls=_Raw, add_help_option=False)
@click.pass_context
def command(ctx: click.Context, /, words: Sequence[str]) -> None:
    """Start and stop many workers on this host, in the background.

    \b
    dbqueue -A proj multi start 3 -c 2 -l info
    dbqueue -A proj multi start web mail -Q:mail mail --pidfile=/run/%n.pid --logfile=/var/log/%n%I.log
    dbqueue multi stopwait 3
    """
    left = list(words)
    quiet = ctx.find_root().params.get("quiet", False)
    splash = True
    while left and left[0] in ("--quiet", "-q", "--nosplash", "--verbose", "--no-color", "-C"):
        flag = left.pop(0)
        quiet, splash = quiet or flag in ("--quiet", "-q"), splash and flag != "--nosplash"
    name = left.pop(0) if left else "help"
    if name in ("help", "--help", "-h"):
        click.echo(_help())
        return
    if name not in COMMANDS:
        raise click.UsageError(f"there is no command {name!r} of multi: it is one of {', '.join(COMMANDS)}")
    pattern = left.pop(0) if name in ("expand", "get") and left else ""
    cluster = Cluster(ctx, left, quiet=quiet)
    cluster.pattern = pattern
    if splash and not quiet and name in SPLASHED:
        click.echo(f"dbqueue multi v{__version__}")
    raise click.exceptions.Exit(COMMANDS[name][0](cluster))


class Cluster:
    """The nodes of one call, and how to start one."""

    def __init__(self, ctx: click.Context, words: Sequence[str], *, quiet: bool) -> None:
        from dbqueue.cli.root import root
        from dbqueue.cli.worker import command as worker

        self._quiet = quiet
        self.pattern = ""
        """What `expand` prints for each node, or the node that `get` prints."""
        self._of_root = {name: value for name, value in nodes.takes_value(root).items() if name not in ("-h", "--help")}
        known = nodes.takes_value(worker) | self._of_root
        read = nodes.read(words, known)
        self._globals = [*_given(ctx.find_root()), *self._take_globals(read)]
        python = read.own.get("--executable", sys.executable)
        self._own_command = shlex.split(read.own["--cmd"]) if "--cmd" in read.own else None
        self._command = self._own_command or [python, "-m", "dbqueue.cli"]
        self.nodes = nodes.nodes(read, host=socket.gethostname(), pidfile=PIDFILE, logfile=LOGFILE)

    def _take_globals(self, words: nodes.Words) -> list[str]:
        """The options that stand before `worker`: `-A`, `--database`."""
        ours = [each for each in words.common if each[0] in self._of_root and each[0] != "--workdir"]
        words.common = [each for each in words.common if each not in ours]
        return [text for option, value in ours for text in ((option,) if value is None else (option, value))]

    def _arguments(self, node: Node) -> list[str]:
        return [*self._globals, "worker", "--detach", *node.options]

    def shown_line(self, node: Node) -> str:
        """The command line of a node as it may be shown: without the password of a database."""
        return shlex.join([*self._command, *hidden_arguments.masked(self._arguments(node))])

    def say(self, text: str, *, end: bool = True) -> None:
        if not self._quiet:
            click.echo(text, nl=end)

    def start(self, node: Node) -> bool:
        """Start it and wait until it is ready; its own errors have been shown where it is not."""
        Path(node.pidfile).absolute().parent.mkdir(parents=True, exist_ok=True)
        words = self._arguments(node)
        if self._own_command is None:
            environment, words = hidden_arguments.environment(words), hidden_arguments.masked(words)
        else:  # which may have arguments before these: it hides them itself once it runs
            environment = None
        line = [*self._command, *words]
        return subprocess.run(line, check=False, stdout=subprocess.DEVNULL, env=environment).returncode == 0  # noqa: S603


def _given(ctx: click.Context) -> list[str]:
    """The global options that stand before `multi`, as they were typed (or come from the environment)."""
    words: list[str] = []
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "")
        if not isinstance(parameter, click.Option) or parameter.name == "workdir" or not value:
            continue
        words += [parameter.opts[-1]] if parameter.is_flag else [parameter.opts[-1], str(value)]
    return words


# the commands: each returns the exit code


def start(cluster: Cluster) -> int:
    """Start the nodes."""
    cluster.say("> Starting nodes...")
    return _each(cluster, cluster.nodes, cluster.start)


def stop(cluster: Cluster) -> int:
    """Ask the nodes for a warm shutdown."""
    _stop(cluster, signal.SIGTERM)
    return exit_codes.OK


def stopwait(cluster: Cluster) -> int:
    """Stop the nodes, and wait until they have ended."""
    _wait(cluster, _stop(cluster, signal.SIGTERM))
    return exit_codes.OK


def restart(cluster: Cluster) -> int:
    """Stop the nodes, and start each when it has ended."""
    code = exit_codes.OK

    def again(node: Node) -> None:
        nonlocal code
        done = cluster.start(node)
        cluster.say(f"> Restarting node {node.name}: {_word(done)}")
        code = code if done else exit_codes.FAILURE

    _wait(cluster, _stop(cluster, signal.SIGTERM, gone=again), ended=again)
    return code


def kill(cluster: Cluster) -> int:
    """End the nodes with SIGKILL; other workers run their jobs again."""
    for node, pid in _living(cluster):
        cluster.say(f"Killing node {node.name} ({pid}): {_word(_signal(pid, signal.SIGKILL))}")
    return exit_codes.OK


def show(cluster: Cluster) -> int:
    """Print the command lines that would start the nodes; passwords are masked."""
    for node in cluster.nodes:
        click.echo(cluster.shown_line(node))
    return exit_codes.OK


def names(cluster: Cluster) -> int:
    """Print the names of the nodes."""
    for node in cluster.nodes:
        click.echo(node.name)
    return exit_codes.OK


def expand(cluster: Cluster) -> int:
    """Print a pattern, such as %n.log, for each node: `dbqueue multi expand %n.log 3`."""
    from dbqueue.cli.log_options import filled

    for node in cluster.nodes:
        click.echo(filled(cluster.pattern, node.name))
    return exit_codes.OK


def get(cluster: Cluster) -> int:
    """Print the command line that would start one of the nodes: `dbqueue multi get celery2 3 -c 2`."""
    for node in cluster.nodes:
        if cluster.pattern in (node.name, node.name.partition("@")[0]):
            click.echo(cluster.shown_line(node))
            return exit_codes.OK
    return exit_codes.FAILURE


Command = Callable[[Cluster], int]
COMMANDS: Final[dict[str, tuple[Command, str]]] = {
    each.__name__: (each, (each.__doc__ or "").strip())
    for each in (start, stop, stopwait, restart, kill, show, names, expand, get)
}
COMMANDS["stop_verify"] = COMMANDS["stopwait"]
SPLASHED: Final = ("start", "stop", "stopwait", "stop_verify", "restart", "kill")


def _help() -> str:
    about = inspect.cleandoc(command.callback.__doc__ or "").replace("\b\n", "")
    return "\n".join([about, "", "Commands:", *(f"  {name:12}{text}" for name, (_, text) in COMMANDS.items())])


def _each(cluster: Cluster, chosen: Sequence[Node], act: Callable[[Node], bool]) -> int:
    failed = 0
    for node in chosen:
        cluster.say(f"\t> {node.name}: ", end=False)
        done = act(node)
        cluster.say(_word(done))
        failed += not done
    return exit_codes.FAILURE if failed else exit_codes.OK


def _word(done: bool) -> str:
    return click.style("OK", fg="green") if done else click.style("FAILED", fg="red")


def _living(cluster: Cluster) -> list[tuple[Node, int]]:
    found = ((node, pidfile.holder(Path(node.pidfile))) for node in cluster.nodes)
    return [(node, pid) for node, pid in found if pid is not None]


def _stop(
    cluster: Cluster, number: signal.Signals, gone: Callable[[Node], None] | None = None
) -> list[tuple[Node, int]]:
    """Signal the nodes that live; which they are. `gone` is called with the others."""
    living = _living(cluster)
    if living:
        cluster.say("> Stopping nodes...")
    for node, pid in living:
        sent = _signal(pid, number)
        cluster.say(f"\t> {node.name}: {number.name.removeprefix('SIG')} -> {pid}" + ("" if sent else " (gone)"))
    stopped = {node.name for node, _ in living}
    for node in cluster.nodes:
        if node.name not in stopped:
            cluster.say(f"> {node.name}: DOWN")
            if gone is not None:
                gone(node)
    return living


def _signal(pid: int, number: signal.Signals) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def _wait(cluster: Cluster, living: list[tuple[Node, int]], ended: Callable[[Node], Any] = lambda node: None) -> None:
    """Return when they have ended; `ended` is called with each as it does."""
    shown_at = 0.0
    while living:
        if time.monotonic() >= shown_at + SHOW_SECONDS:
            shown_at = time.monotonic()
            cluster.say(f"> Waiting for {len(living)} nodes -> {', '.join(str(pid) for _, pid in living)}...")
        for node, pid in list(living):
            if not pidfile.lives(pid):
                living.remove((node, pid))
                cluster.say(f"\t> {node.name}: OK")
                ended(node)
        if living:
            time.sleep(LOOK_SECONDS)
