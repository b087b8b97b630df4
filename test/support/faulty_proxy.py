# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A proxy before a real HTTP server that spoils its answers as servers and networks do."""

from __future__ import annotations

import json
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

LONGEST_S = 60.0


class Fault:
    """Passes everything on."""

    def spoil(self, parts: Iterator[bytes], proxy: FaultyProxy) -> Iterator[bytes]:
        """What is sent to the client of the server's answer; the connection ends after it."""
        yield from parts


@dataclass(frozen=True)
class Reply(Fault):
    """Answers in the server's place."""

    status: int
    body: bytes = b"{}"
    kind: str = "application/json"
    headers: tuple[str, ...] = ()

    def spoil(self, parts: Iterator[bytes], proxy: FaultyProxy) -> Iterator[bytes]:
        head = [
            f"HTTP/1.1 {self.status} Status",
            f"Content-Type: {self.kind}",
            f"Content-Length: {len(self.body)}",
            "Connection: close",
            *self.headers,
        ]
        yield "\r\n".join([*head, "", ""]).encode() + self.body


@dataclass(frozen=True)
class Say(Fault):
    """Sends bytes that may be anything, over and over if so wanted."""

    once: bytes = b""
    repeated: bytes = b""

    def spoil(self, parts: Iterator[bytes], proxy: FaultyProxy) -> Iterator[bytes]:
        yield self.once
        while self.repeated:
            proxy.sent += len(self.repeated)
            yield self.repeated


@dataclass(frozen=True)
class Cut(Fault):
    """Ends the connection after so many parts of the answer."""

    after: int

    def spoil(self, parts: Iterator[bytes], proxy: FaultyProxy) -> Iterator[bytes]:
        for _, part in zip(range(self.after), parts, strict=False):
            yield part


@dataclass(frozen=True)
class Hang(Fault):
    """Sends nothing more than this."""

    once: bytes = b""

    def spoil(self, parts: Iterator[bytes], proxy: FaultyProxy) -> Iterator[bytes]:
        yield self.once
        proxy.released.wait(LONGEST_S)


@dataclass(frozen=True)
class Replace(Fault):
    """Other bytes of the same length in the answer."""

    old: bytes
    new: bytes

    def spoil(self, parts: Iterator[bytes], proxy: FaultyProxy) -> Iterator[bytes]:
        assert len(self.old) == len(self.new)
        for part in parts:
            yield part.replace(self.old, self.new)


@dataclass
class FaultyProxy:
    """The proxy; what is set of it holds for the requests that come later."""

    target: str
    """The server's URL."""
    tls: ssl.SSLContext | None = None
    fault: Fault = field(default_factory=Fault)
    answers: dict[str, Any] = field(default_factory=dict)
    """Path to JSON that is answered in the server's place."""
    requests: list[str] = field(default_factory=list)
    """Method and path of all requests."""
    sent: int = 0
    """Bytes of what is said over and over."""

    def __post_init__(self) -> None:
        """Start to serve."""
        self.released = threading.Event()
        parts = urlsplit(self.target)
        self.server_address = (parts.hostname or "", parts.port or 0)
        self._path = parts.path
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        """In place of the server's."""
        scheme = "https" if self.tls else "http"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}{self._path}"

    def count(self, request: str) -> int:
        """How often it was asked, as `POST /v1/chat/completions`."""
        return self.requests.count(request)

    def close(self) -> None:
        """Stop; the port is free then."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """A client that does not want TLS, or goes away, is none."""


def _handler(proxy: FaultyProxy) -> type[socketserver.BaseRequestHandler]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client = self.request
            if proxy.tls is not None:
                client = proxy.tls.wrap_socket(client, server_side=True)
            with suppress(OSError), client:
                request = _read_request(client)
                if request:
                    self._answer(client, request)

        def _answer(self, client: socket.socket, request: bytes) -> None:
            method, path, _ = request.split(b" ", 2)
            proxy.requests.append(f"{method.decode()} {path.decode()}")
            if path.decode() in proxy.answers:
                content = json.dumps(proxy.answers[path.decode()]).encode()
                parts = Reply(200, content).spoil(iter(()), proxy)
            else:
                parts = proxy.fault.spoil(_ask(proxy.server_address, request, client), proxy)
            for part in parts:
                client.sendall(part)

    return Handler


def _read_request(client: socket.socket) -> bytes:
    """One request as it came; empty if the client goes away."""
    request = b""
    while b"\r\n\r\n" not in request:
        part = client.recv(1 << 16)
        if not part:
            return b""
        request += part
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [
        line.partition(b":")[2]
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    ]
    missing = int(lengths[0]) - len(body) if lengths else 0
    while missing > 0:
        part = client.recv(1 << 16)
        if not part:
            return b""
        request += part
        missing -= len(part)
    return request


def _ask(address: tuple[str, int], request: bytes, client: socket.socket) -> Iterator[bytes]:
    """The server's answer, part by part, until it ends or the client goes away."""
    with socket.create_connection(address) as server:
        server.sendall(request)
        while True:
            readable, _, _ = select.select([server, client], [], [], LONGEST_S)
            if server not in readable:
                return
            part = server.recv(1 << 16)
            if not part:
                return
            yield part
