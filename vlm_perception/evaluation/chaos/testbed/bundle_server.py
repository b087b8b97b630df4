# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server that runs a bundle's own language model, and fails as it is told to.

Usage: python -m vlm_perception.evaluation.chaos.testbed.bundle_server BUNDLE PORT MANNER

It streams chat completions about an image with log-probabilities, keeps an answer to a JSON schema
of choices, and keeps what it has read of the newest image. Its texts are those of the bundle.
MANNER is the JSON of a `Manner`; another one can be sent to /manner with PUT, and /health says how
many requests are at work.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import simplejpeg

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.perception.language.kv_cache import Prefix
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

MODEL = "roadworld/nano-vlm"
ROOM = 1024
"""Tokens of a prompt and its answer."""
KEPT = 200
"""Requests, with a picture each."""
NICENESS = 10
"""Of a process of its own: it takes the place of a GPU or of another machine."""
LOOK_S = 0.02
"""Within which a new manner is heeded."""
Chunk = dict[str, Any]


@dataclass(frozen=True)
class Manner:
    """How a server behaves, from the next request on."""

    log_probabilities: bool = True
    """Whether it gives them when it is asked to."""
    guided: bool = True
    """Whether it heeds a schema."""
    reading_s: float = 0.0
    """How much longer than others it takes to read a new image."""
    piece_s: float = 0.0
    """How long each piece of an answer is held back, those in hand included."""
    status: int = 200
    """Of HTTP; with another one there is no answer."""
    model: str = MODEL
    """Which model it says has answered."""
    software: str = "vlm-perception"
    """What it calls itself."""
    cut: bool = False
    """Whether the connection ends within each answer."""
    garbled: bool = False
    """Whether its events hold no JSON."""


class BundleServer:
    """Serves on a free port of this machine while it is entered."""

    def __init__(self, bundle: ModelBundle, manner: Manner | None = None, *, port: int = 0) -> None:
        """Load the model.

        Args:
            bundle: has a language model.
            manner: how to behave; well by default.
            port: to serve on; 0: a free one.
        """
        self._encoder, self._language = VisionEncoder(bundle), LanguageModel(bundle, room=ROOM)
        self.manner = manner or Manner()
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._read: tuple[str, Prefix] | None = None
        self.looks = 0
        """Images that it has read; a clock of these tells a prefix cache from none."""
        self.bodies: list[dict[str, Any]] = []
        """What was asked, of the newest requests."""
        self.headers: list[dict[str, str]] = []
        self.unfinished = 0
        """Answers that nobody read to their end."""
        self.at_work = 0
        """Requests that have come and are neither answered nor given up."""
        self.closing = threading.Event()
        self._http: ThreadingHTTPServer | None = None
        self._port = port

    @property
    def url(self) -> str:
        """What clients take as the endpoint."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> BundleServer:
        """Serve, on the same port as before if there was one."""
        owner = self

        class Handler(_Handler):
            server_of = owner

        self.closing.clear()
        http = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        # Answers end before the model that writes them goes.
        http.daemon_threads = False
        self._http, self._port = http, http.server_address[1]
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Serve no more."""
        if self._http is not None:
            self.closing.set()
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a request as one at work."""
        with self._lock:
            self.at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self.at_work -= 1

    def hold_back(self) -> None:
        """Wait for as long as the manner of the moment holds back a piece."""
        began = time.monotonic()
        while (left_s := began + self.manner.piece_s - time.monotonic()) > 0.0:
            if self.closing.wait(min(left_s, LOOK_S)):
                break

    def answer(self, body: dict[str, Any]) -> Iterator[Chunk]:
        """The choices of the chunks that answer a request."""
        picture, text = _parts(body)
        with self._turn:
            prefix = self._prefix(picture)
            schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
            if self.manner.guided and schema is not None:
                yield {"delta": {"content": self._fill_in(prefix, text, schema)}}
                yield {"delta": {}, "finish_reason": "stop"}
            else:
                yield from self._write(prefix, text, body)

    def _prefix(self, picture: str) -> Prefix:
        if self._read is None or self._read[0] != picture:
            self.closing.wait(self.manner.reading_s)
            self.looks += 1
            file = base64.b64decode(picture.partition(",")[2])
            pixels = simplejpeg.decode_jpeg(file, colorspace="RGB")
            embedding = self._encoder.encode(Frame(pixels, 1), 0)
            self._read = picture, self._language.read(embedding)
        return self._read[1]

    def _write(self, prefix: Prefix, text: str, body: dict[str, Any]) -> Iterator[Chunk]:
        ids: list[int] = []
        shown = ""
        for token in self._language.stream(prefix, text, max_tokens=body["max_tokens"]):
            if token.stops:
                yield {"delta": {}, "finish_reason": "stop"}
                return
            ids.append(token.index)
            whole = self._language.decode(ids)
            choice: Chunk = {"delta": {"content": whole[len(shown) :]}}
            shown = whole
            if self.manner.log_probabilities and body.get("logprobs"):
                told = self._told(token.logits, token.index, body["top_logprobs"])
                choice["logprobs"] = {"content": [told]}
            yield choice
        yield {"delta": {}, "finish_reason": "length"}

    def _told(self, logits: Any, index: int, most: int) -> dict[str, Any]:
        scores = logits.astype(np.float64) - logits.max()
        scores -= np.log(np.exp(scores).sum())

        def one(token: int) -> dict[str, Any]:
            return {"token": self._language.decode([token]), "logprob": float(scores[token])}

        best = np.argsort(-scores)[:most]
        return {**one(index), "top_logprobs": [one(int(each)) for each in best]}

    def _fill_in(self, prefix: Prefix, text: str, schema: dict[str, Any]) -> str:
        """The likeliest value of each property, one by one."""
        filled = {}
        for name, content in schema["properties"].items():
            choices = tuple(content["enum"])
            if len(choices) > 1:
                asked = re.search(rf"^{re.escape(name)}: (.*) \(.*\)$", text, re.MULTILINE)
                question = QuestionSpec(
                    name=name, question=asked[1] if asked else name, choices=choices
                )
                packed = self._language.pack([question])
                filled[name] = self._language.answer(prefix, packed)[0].value
            else:
                filled[name] = choices[0]
        return json.dumps(filled)


class _Handler(BaseHTTPRequestHandler):
    server_of: BundleServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            software = self.server_of.manner.software
            model = {"id": MODEL, "object": "model", "owned_by": software}
            self._send({"object": "list", "data": [model]})
        elif self.path == "/health":
            self._send({"status": "ok", "active_requests": self.server_of.at_work})
        else:
            self._send({"error": {"message": "no such page"}}, 404)

    def do_PUT(self) -> None:
        if self.path != "/manner":
            self._send({"error": {"message": "no such page"}}, 404)
            return
        self.server_of.manner = Manner(**json.loads(self._data()))
        self._send({})

    def do_POST(self) -> None:
        server = self.server_of
        self.close_connection = True
        data = self._data()
        try:
            body = json.loads(data)
        except ValueError:  # The client has gone within its request.
            return
        server.bodies.append(body)
        server.headers.append(dict(self.headers))
        del server.bodies[:-KEPT], server.headers[:-KEPT]
        manner = server.manner
        if manner.status != 200:
            self._send({"error": {"message": "as it was told to"}}, manner.status)
        elif body["model"] != MODEL:
            self._send({"error": {"message": f"The model {body['model']} does not exist."}}, 404)
        else:
            with server.working():
                self._answer(body, manner)

    def _answer(self, body: dict[str, Any], manner: Manner) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for choice in self.server_of.answer(body):
                self.server_of.hold_back()
                chunk = json.dumps({"model": manner.model, "choices": [{"index": 0, **choice}]})
                self._event(chunk[::-1] if manner.garbled else chunk)
                if manner.cut:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
            self._event("[DONE]")
        except OSError:
            self.server_of.unfinished += 1

    def _event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _data(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _send(self, content: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _parts(body: dict[str, Any]) -> tuple[str, str]:
    """The newest message's image, as a data URL, and its text."""
    content = body["messages"][-1]["content"]
    picture = next(part["image_url"]["url"] for part in content if part["type"] == "image_url")
    return picture, next(part["text"] for part in content if part["type"] == "text")


def main() -> None:
    """Serve until the process is ended."""
    bundle, port, manner = sys.argv[1:]
    os.nice(NICENESS)
    loaded = ModelBundle.load(bundle)
    with BundleServer(loaded, Manner(**json.loads(manner)), port=int(port)):
        signal.pause()


if __name__ == "__main__":
    main()
