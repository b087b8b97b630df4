# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a server says about itself, and whether it serves a model."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from vlm_perception.perception.served.completions import Request, shown
from vlm_perception.perception.served.endpoint import Endpoint
from vlm_perception.perception.served.errors import Fault, ServedError
from vlm_perception.perception.served.explain import explain_status
from vlm_perception.perception.served.transport import Reply, Transport

CHANGING = ("created", "last_modified", "permission")
"""What a server says of a model differently each time it is started."""
NO_MODEL = "vlm-perception/no-such-model"


@dataclass(frozen=True)
class ServerInfo:
    """A server that serves the model."""

    model: str
    server: str
    """Its software as it names itself; empty where it does not."""
    version: str
    """Of the software; empty where it does not say."""
    fingerprint: str
    """Digest of all that it says of itself and the model: the same after a restart."""


async def ask_server(transport: Transport, endpoint: Endpoint) -> ServerInfo:
    """Ask a server for its health, its version and its models.

    Raises:
        ServedError: it is not ready, or does not serve the model.
    """
    root = endpoint.url.removesuffix("/v1")
    models = await transport.get(f"{endpoint.url}/models")
    if models.status in (401, 403):
        raise explain_status(models.status, {}, b"", endpoint, [])
    # vLLM, SGLang, Edge-LLM and transformers have /health; llama.cpp's says whether it still loads.
    health, version = await asyncio.gather(
        transport.get(f"{root}/health"), transport.get(f"{root}/version")
    )
    if health.status == 503:
        content = json.dumps(health.content).encode()
        raise explain_status(health.status, {}, content, endpoint, [])
    entries = _entries(models)
    entry = next((each for each in entries if each["id"] == endpoint.model), None)
    if entry is None:
        await _try_model(transport, endpoint, [each["id"] for each in entries])
    return _describe(endpoint.model, models, version, entry or {})


def _entries(models: Reply) -> list[dict[str, Any]]:
    content = models.content if models.status == 200 else None
    data = content.get("data") if isinstance(content, dict) else None
    entries = data if isinstance(data, list) else []
    return [each for each in entries if isinstance(each, dict) and isinstance(each.get("id"), str)]


async def _try_model(transport: Transport, endpoint: Endpoint, listed: Sequence[str]) -> None:
    """A model that a server does not list may be there all the same.

    transformers lists its cache, and not the folder that it was started with. Other servers answer
    to any name with the one model that they have: these answer to a name that nobody has, too.
    """
    names = ", ".join(shown(name) for name in listed[:8])
    refused = ServedError(
        Fault.MODEL,
        f"{endpoint.url} does not serve {endpoint.model}, but {names}; set model to one of these, "
        "or start the server with the model",
    )
    try:
        await _say_hello(transport, endpoint.model)
    except ServedError as error:
        if listed and error.fault in (Fault.MODEL, Fault.REQUEST, Fault.SERVER):
            raise refused from None
        if error.fault is Fault.REQUEST:
            raise ServedError(Fault.MODEL, str(error)) from None
        raise
    if not listed:
        return
    try:
        await _say_hello(transport, NO_MODEL)
    except ServedError:
        return
    raise refused


async def _say_hello(transport: Transport, model: str) -> None:
    """Ask for one token about a grey image; some models take no text without one."""
    _, jpeg = cv2.imencode(".jpg", np.full((64, 64, 3), 127, np.uint8))
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is this?"},
    ]
    request = Request([{"role": "user", "content": content}], max_tokens=1)
    async for _ in transport.complete(request, model=model):
        pass


def _describe(model: str, models: Reply, version: Reply, entry: Mapping[str, Any]) -> ServerInfo:
    said = version.content if version.status == 200 and isinstance(version.content, dict) else {}
    software = str(entry.get("owned_by") or models.server)
    lasting = {name: value for name, value in entry.items() if name not in CHANGING}
    parts = json.dumps([model, models.server, said, lasting], sort_keys=True)
    return ServerInfo(
        model=model,
        server=software,
        version=str(said.get("version", "")),
        fingerprint=hashlib.sha256(parts.encode()).hexdigest()[:16],
    )
