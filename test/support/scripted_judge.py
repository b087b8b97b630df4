# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server whose answers a test writes, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "scripted-judge"


@dataclass
class ScriptedJudge:
    """Streams chat completions; `answer` may be exchanged between requests."""

    answer: Callable[[str], str | int]
    """Gives the text of the answer to a prompt, or the HTTP status of a refusal."""
    prompts: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of the requests that were answered or refused."""
    keys: set[str | None] = field(default_factory=set)
    """The authorizations that were given."""

    def __post_init__(self) -> None:
        """Start to serve."""
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        """Of its interface."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        """Stop; the port is free then."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is none."""


def _handler(judge: ScriptedJudge) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self._send(200, "application/json", json.dumps({"data": [{"id": MODEL}]}))

        def do_POST(self) -> None:
            judge.keys.add(self.headers["Authorization"])
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            image, text = body["messages"][-1]["content"]
            assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")
            judge.prompts.append(text["text"])
            judge.asked.append(body)
            answer = judge.answer(text["text"])
            if isinstance(answer, int):
                self._send(answer, "application/json", "{}")
                return
            half = len(answer) // 2
            pieces = [{"delta": {"content": part}} for part in (answer[:half], answer[half:])]
            events = [*pieces, {"delta": {}, "finish_reason": "stop"}]
            lines = [json.dumps({"model": MODEL, "choices": [event]}) for event in events]
            stream = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
            self._send(200, "text/event-stream", stream)

        def _send(self, status: int, kind: str, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
