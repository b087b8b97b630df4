# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face hub on this machine with one data set: what the library `datasets` asks of it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "5a1ce0fd5a1ce0fd5a1ce0fd5a1ce0fd5a1ce0fd"


@contextmanager
def dataset_hub(name: str, folder: Path) -> Iterator[str]:
    """Serve the files of a folder as a data set; gives the hub's address."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    listed = [
        {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for file, data in files.items()
    ]

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """The test's output is not for this."""

        def respond(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith(f"/api/datasets/{name}/tree/"):
                self.send(json.dumps(listed).encode())
            elif path == f"/api/datasets/{name}" or "/revision/" in path:
                self.send(json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
            elif (file := path.rpartition("/")[2]) in files and f"/{name}/resolve/" in path:
                self.send(files[file])
            else:
                self.send(b"", 404)

        def send(self, data: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_GET = do_HEAD = respond  # noqa: N815 - names of http.server

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
