# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A camera with an HTTP server, as cheap ones have: motion JPEG without an end."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
from support.camera import picture

STATUS = {"/gone": 404, "/locked": 401}
PERIOD_S = 0.02


class MjpegServer(ThreadingHTTPServer):
    """Serves `url` on the loopback until the context is left."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.file = cv2.imencode(".jpg", picture(64, 48))[1].tobytes()
        self.broken_off, self.closed = threading.Event(), threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.url = f"{self.address}/stream"

    def __enter__(self) -> MjpegServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closed.set()
        self.shutdown()
        self.server_close()

    def break_off(self) -> None:
        """End the streams that run; new ones are served."""
        self.broken_off.set()
        self.broken_off = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go as they like."""


class _Handler(BaseHTTPRequestHandler):
    server: MjpegServer

    def do_GET(self) -> None:
        if self.path != "/stream":
            self.send_response(STATUS.get(self.path, 200))
            self.end_headers()
            self.wfile.write(b"nothing to see here\n" * 20)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        file = self.server.file
        head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(file)}\r\n\r\n"
        broken_off = self.server.broken_off
        while not broken_off.wait(PERIOD_S) and not self.server.closed.is_set():
            self.wfile.write(head.encode() + file + b"\r\n")

    def log_message(self, *arguments: object) -> None:
        pass
