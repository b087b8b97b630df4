# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server that runs a bundle's own language model.

It streams chat completions about an image with log-probabilities, keeps an answer to a JSON schema
of choices, and keeps what it has read of the newest image; each of these can be switched off, as
servers differ in them. Its texts are those of the bundle.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
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
Chunk = dict[str, Any]


class BundleServer:
    """Serves on a free port of this machine while it is entered."""

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        log_probabilities: bool = True,
        guided: bool = True,
        reading_s: float = 0.0,
    ) -> None:
        """Load the model.

        Args:
            bundle: has a language model.
            log_probabilities: whether it gives them when it is asked to.
            guided: whether it heeds a schema.
            reading_s: how much longer than others it takes to read a new image.
        """
        self._encoder, self._language = VisionEncoder(bundle), LanguageModel(bundle, room=ROOM)
        self._log_probabilities, self._guided = log_probabilities, guided
        self.reading_s = reading_s
        self._turn = threading.Lock()
        self._read: tuple[str, Prefix] | None = None
        self.looks = 0
        """Images that it has read; a clock of these tells a prefix cache from none."""
        self.bodies: list[dict[str, Any]] = []
        """What was asked."""
        self.headers: list[dict[str, str]] = []
        self.unfinished = 0
        """Answers that nobody read to their end."""
        self._http: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """What clients take as the endpoint."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> BundleServer:
        """Serve, on the same port as before if there was one."""
        owner = self

        class Handler(_Handler):
            server_of = owner

        http = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._http, self._port = http, http.server_address[1]
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Serve no more."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def answer(self, body: dict[str, Any]) -> Iterator[Chunk]:
        """The choices of the chunks that answer a request."""
        picture, text = _parts(body)
        with self._turn:
            prefix = self._prefix(picture)
            schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
            if self._guided and schema is not None:
                yield {"delta": {"content": self._fill_in(prefix, text, schema)}}
                yield {"delta": {}, "finish_reason": "stop"}
            else:
                yield from self._write(prefix, text, body)

    def _prefix(self, picture: str) -> Prefix:
        if self._read is None or self._read[0] != picture:
            time.sleep(self.reading_s)
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
            if self._log_probabilities and body.get("logprobs"):
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
            self._send({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        elif self.path == "/health":
            self._send({"status": "ok"})
        else:
            self._send({"error": {"message": "no such page"}}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server_of.bodies.append(body)
        self.server_of.headers.append(dict(self.headers))
        if body["model"] != MODEL:
            self._send({"error": {"message": f"The model {body['model']} does not exist."}}, 404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for choice in self.server_of.answer(body):
                self._event({"model": MODEL, "choices": [{"index": 0, **choice}]})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server_of.unfinished += 1

    def _event(self, content: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()

    def _send(self, content: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _parts(body: dict[str, Any]) -> tuple[str, str]:
    """The newest message's image, as a data URL, and its text."""
    content = body["messages"][-1]["content"]
    picture = next(part["image_url"]["url"] for part in content if part["type"] == "image_url")
    return picture, next(part["text"] for part in content if part["type"] == "text")
