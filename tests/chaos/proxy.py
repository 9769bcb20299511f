"""A TCP proxy before PostgreSQL that delays, halts and cuts; it knows where a message of the protocol ends.

So it can lose the reply to a COMMIT that the server has done, or deliver one after its sender has gone.
(PostgreSQL's manual, "Frontend/Backend Protocol": after the start-up each message is a type, a length
and its content; a client's request ends with Query or Sync, and the rows of a COPY with CopyDone; its reply
with ReadyForQuery.)
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import sqlalchemy as sa

from tests.waiting import wait_until

LATE_SECONDS = 0.3
REQUEST_ENDS = (b"Q", b"S", b"c", b"f")
FLUSH = b"H"
"""The client waits for what the server has to say so far, and goes on with the same request."""
REPLY_END = b"Z"
COPY_BEGINS = b"G"
"""The server waits for the rows: no end of its reply comes before they have."""


@dataclass
class Weather:
    """How the network is; changed while it runs."""

    lost_replies: float = 0.0
    """The part of all requests that the server does, and whose sender is cut off instead of being told."""
    lost_requests: float = 0.0
    """The part of which the server hears nothing."""
    late_requests: float = 0.0
    """The part that the server does a little later, when their sender has been cut off."""
    delay_seconds: tuple[float, float] = (0.0, 0.0)
    refusing: bool = False
    """Whether new connections are closed at once."""

    def worse(self, times: float) -> Weather:
        """Cuts that come so many times as often."""
        cuts = (self.lost_replies * times, self.lost_requests * times, self.late_requests * times)
        return Weather(*cuts, self.delay_seconds, self.refusing)


class Proxy:
    """Listens on `port`; `on_fault` is told of each connection that `weather` cuts."""

    def __init__(self, url: str, on_fault: Callable[[str], None] = lambda what: None) -> None:
        self._target = sa.make_url(url)
        self.on_fault = on_fault
        self.weather = Weather()
        self.faults = 0
        self._pass = {"up": threading.Event(), "down": threading.Event()}
        for gate in self._pass.values():
            gate.set()
        self._to_lose = 0
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The database's URL, by way of this proxy."""
        port = self._listener.getsockname()[1]
        # Without encryption, whose start has messages of another form.
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        url = self._target.set(host="127.0.0.1", port=port).update_query_dict(plain)
        return url.render_as_string(hide_password=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.resume()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def wait_faults(self, count: int) -> None:
        """Until it has cut so many connections."""
        wait_until(lambda: self.faults >= count, what=f"{count} faults of the network")

    def calm(self) -> None:
        """Good weather again."""
        self.weather = Weather()
        self.resume()

    def lose_reply(self, number: int) -> None:
        """Lose the reply to the request that is so far ahead, and no other: 1 is the next one."""
        with self._lock:
            self._to_lose = number

    def halt(self, *directions: str) -> None:
        """Let nothing through any more, and keep all connections: `up` is towards the server."""
        for direction in directions:
            self._pass[direction].clear()

    def resume(self) -> None:
        for gate in self._pass.values():
            gate.set()

    def cut(self) -> int:
        """End all connections; how many."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            _shut(*pair)
        return len(pairs)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._closed or self.weather.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection((self._target.host, self._target.port or 5432))
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.add((client, server))
            _Connection(self, client, server).start()

    # used by connections

    def wait_for(self, direction: str, *, whole: bool = True) -> None:
        """Until the way is free; the last part of a request or a reply takes its time on it."""
        self._pass[direction].wait()
        least, most = self.weather.delay_seconds
        if most > 0 and whole:
            time.sleep(random.uniform(least, most))

    def is_to_lose(self) -> bool:
        """Whether the reply to this request is the one that is to be lost."""
        with self._lock:
            self._to_lose -= 1
            return self._to_lose == 0

    def fault(self, what: str) -> None:
        self.faults += 1
        self.on_fault(what)

    def end(self, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            self._pairs.discard((client, server))
        _shut(client, server)


class _Connection:
    """Two threads that carry messages; `_losing` is set while a reply is on its way that will not arrive."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._losing = False
        self._ready = False

    def start(self) -> None:
        for target in (self._up, self._down):
            threading.Thread(target=target, daemon=True).start()

    def _up(self) -> None:
        request = b""
        for kind, message in _messages(self._client, starts=True):
            request += message
            if kind not in (b"", FLUSH, *REQUEST_ENDS):
                continue
            self._proxy.wait_for("up")
            if kind == FLUSH:  # no end of a request: nothing is lost here
                with contextlib.suppress(OSError):
                    self._server.sendall(request)
                request = b""
                continue
            if not self._send_request(request, kind):
                break
            request = b""
        self._proxy.end(self._client, self._server)

    def _send_request(self, request: bytes, kind: bytes) -> bool:
        """Whether the connection goes on."""
        weather = self._proxy.weather
        chance = random.random() if self._ready and kind else 1.0
        if chance < weather.lost_requests:
            self._proxy.fault("a request was lost")
            return False
        if chance < weather.lost_requests + weather.late_requests:
            self._proxy.fault("a request came late")
            _shut(self._client)
            time.sleep(LATE_SECONDS)
            with contextlib.suppress(OSError):
                self._server.sendall(request)
                time.sleep(LATE_SECONDS)
            return False
        if chance < weather.lost_requests + weather.late_requests + weather.lost_replies:
            self._losing = True
        if self._ready and kind and self._proxy.is_to_lose():
            self._losing = True
        with contextlib.suppress(OSError):
            self._server.sendall(request)
            return True
        return False

    def _down(self) -> None:
        for kind, message in _messages(self._server, starts=False):
            if kind == REPLY_END:
                self._ready = True
            if self._losing and kind != COPY_BEGINS:
                if kind == REPLY_END:  # the server has done it
                    self._proxy.fault("a reply was lost")
                    break
                continue
            self._proxy.wait_for("down", whole=kind == REPLY_END)
            try:
                self._client.sendall(message)
            except OSError:
                break
        self._proxy.end(self._client, self._server)


def _messages(source: socket.socket, *, starts: bool) -> Iterator[tuple[bytes, bytes]]:
    """The messages of one side, each with its type; that of the start-up has none."""
    buffer = b""
    started = not starts
    while True:
        while True:
            head = 1 if started else 0
            if len(buffer) < head + 4:
                break
            (length,) = struct.unpack_from("!i", buffer, head)
            if len(buffer) < head + length:
                break
            message, buffer = buffer[: head + length], buffer[head + length :]
            started = True
            yield message[:head], message
        try:
            data = source.recv(65536)
        except OSError:
            return
        if not data:
            return
        buffer += data


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
