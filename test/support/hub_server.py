# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face hub on this machine: the part of its HTTP interface that downloads use.

As the real one: information and file lists below /api, files below ID/resolve/REVISION, large ones
by way of another host, errors with a code in a header. A gated model's files, and nothing else of
it, need a token whose account has been given access.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

GRANTED, STRANGER = "hf_granted", "hf_stranger"
"""Tokens: of an account with access to gated and private models, and of one without."""


@dataclass
class Repository:
    """A model: its commits, and what else the hub says of it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    claimed_bytes: int | None = None
    """What the list of files says of the weights' size, in place of the truth."""

    def push(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Add a commit and let a branch or tag name it."""
        digest = hashlib.sha1()
        for name in sorted(files):
            digest.update(name.encode() + files[name])
        commit = digest.hexdigest()
        self.commits[commit] = files
        self.refs[ref] = commit
        return commit


class HubServer:
    """The hub; `requests` are the method and the path of all that was asked of it."""

    def __init__(self) -> None:
        """Start to serve, with no model yet."""
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.tokens_at_storage: list[str] = []
        """Tokens that came to the other host, where they have no business."""
        self.stored_bytes = 0
        """How much came from the other host."""
        self.breaks = 0
        """How many of the next transfers from storage break off..."""
        self.breaks_after = 0
        """... after so many bytes."""
        self.status: int | None = None
        """What every request is answered with, when the hub is down."""
        self.blocked = threading.Event()
        """Set once a transfer has begun that waits for `released`."""
        self.released = threading.Event()
        self.released.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def storage(self) -> str:
        """The host of large files, another one to the client."""
        return f"http://localhost:{self._server.server_address[1]}"

    def add(self, name: str, folder: Path, **more: bytes) -> Repository:
        """Publish a folder under an id."""
        files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file()
        }
        self.repositories[name] = Repository()
        self.repositories[name].push({**files, **more})
        return self.repositories[name]

    def downloads(self) -> list[str]:
        """The content that was asked for, as paths."""
        asked = [request[4:] for request in self.requests if request.startswith("GET ")]
        return [path for path in asked if "/resolve/" in path or path.startswith("/storage/")]

    def close(self) -> None:
        """Stop; the port is free then."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def _is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._serve()

        def do_GET(self) -> None:
            self._serve()

        def _serve(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if hub.status is not None:
                self._refuse(hub.status, "", "at work on it")
            elif path.startswith("/storage/"):
                hub.tokens_at_storage += [token] if token else []
                self._send_stored(path.removeprefix("/storage/"))
            elif token not in ("", GRANTED, STRANGER):
                self._refuse(401, "", "Invalid credentials in Authorization header")
            else:
                self._serve_model(path, token)

        def _serve_model(self, path: str, token: str) -> None:
            api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/(.+)", path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+|refs/pr/\d+)/(.+)", path)
            found = api or file
            name = found[1] if found else ""
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and token != GRANTED):
                # To strangers a private model and none at all are the same.
                message = "Repository not found" if token else "Invalid username or password."
                self._refuse(404 if token else 401, "RepoNotFound", message)
                return
            revision = api[3] if api else file[2] if file else ""
            commit = repository.refs.get(revision, revision)
            if commit not in repository.commits:
                self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            elif api:
                tree = api[2] == "tree"
                self._send_json(_tree(repository, commit) if tree else _info(name, commit))
            elif repository.gated and token != GRANTED:
                self._refuse(403 if token else 401, "GatedRepo", f"Access to {name} is restricted")
            elif file and file[3] in repository.commits[commit]:
                self._send_file(commit, file[3], repository.commits[commit][file[3]])
            else:
                self._refuse(404, "EntryNotFound", "Entry not found")

        def _send_file(self, commit: str, name: str, content: bytes) -> None:
            headers = {"X-Repo-Commit": commit}
            if not _is_large(name):
                headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
                self._send(200, content, headers)
                return
            digest = hashlib.sha256(content).hexdigest()
            headers["Location"] = f"{hub.storage}/storage/{digest}"
            headers["X-Linked-ETag"] = f'"{digest}"'
            headers["X-Linked-Size"] = str(len(content))
            self._send(302, b"", headers)

        def _send_stored(self, digest: str) -> None:
            content = next(
                content
                for repository in hub.repositories.values()
                for files in repository.commits.values()
                for content in files.values()
                if hashlib.sha256(content).hexdigest() == digest
            )
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            first = int(start[1]) if start else 0
            headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self._send(206 if start else 200, content[first:], headers, from_storage=True)

        def _send(
            self, status: int, body: bytes, headers: dict[str, str], *, from_storage: bool = False
        ) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            # A connection that is kept would be served after the hub is closed.
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command == "HEAD":
                return
            if from_storage and not hub.released.is_set():
                self.wfile.write(body[: len(body) // 2])
                hub.blocked.set()
                hub.released.wait()
                return
            if from_storage and hub.breaks > 0:
                hub.breaks -= 1
                body = body[: hub.breaks_after]
            hub.stored_bytes += len(body) if from_storage else 0
            self.wfile.write(body)

        def _send_json(self, content: Any) -> None:
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _refuse(self, status: int, code: str, message: str) -> None:
            headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
            self._send(status, json.dumps({"error": message}).encode(), headers)

    return Handler


def _info(name: str, commit: str) -> dict[str, Any]:
    return {"id": name, "modelId": name, "sha": commit, "private": False, "tags": []}


def _tree(repository: Repository, commit: str) -> list[dict[str, Any]]:
    entries = []
    for name, content in repository.commits[commit].items():
        entry: dict[str, Any] = {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
        }
        if _is_large(name):
            size = repository.claimed_bytes or len(content)
            digest = hashlib.sha256(content).hexdigest()
            entry |= {"size": size, "lfs": {"oid": digest, "size": size, "pointerSize": 134}}
        entries.append(entry)
    return entries
