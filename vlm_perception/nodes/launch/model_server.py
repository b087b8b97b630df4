# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The server of a language model that is launched with the nodes."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from typing import Any

from launch.actions import ExecuteProcess, RegisterEventHandler
from launch.event_handlers import OnShutdown
from launch.logging import get_logger

from vlm_perception.bundle.bundle import find_bundle, read_manifest
from vlm_perception.bundle.memory import PROCESS_BYTES, encoder_bytes
from vlm_perception.common.machine import available_memory
from vlm_perception.nodes.base.networks import NetworkSettings
from vlm_perception.nodes.launch.actions import stays_ended
from vlm_perception.nodes.launch.arguments import (
    ENCODER,
    SINGLE,
    full_names,
    node_names,
)
from vlm_perception.nodes.launch.checkpoint import Checkpoint
from vlm_perception.nodes.launch.edgellm import (
    BATCH_SIZE,
    COMMAND,
    HOST,
    INSTALLATION,
    KV_CAPACITY,
    OFFLINE,
    command_line,
    share,
)
from vlm_perception.nodes.process.errors import StartError
from vlm_perception.perception.language.served.settings import SERVED

WRAPPER = [sys.executable, "-m", "vlm_perception.nodes.launch.server_process"]
RESPAWN_DELAY_S = 1.0
SHARING_MACHINE = "aarch64"
"""Of the machines that the server runs on, those whose GPU has no memory of its own."""


def served_with_nodes(values: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Start the server that `serve` asks for, if it does.

    Args:
        values: of the launch arguments.

    Returns:
        The values, with the server's address for language_reasoner, and the actions.

    Raises:
        StartError: the server is not installed.
    """
    checkpoint: Checkpoint | None = values["serve"]
    if checkpoint is None:
        return values, []
    if shutil.which(COMMAND) is None:
        raise StartError(f"serve needs {COMMAND}, which is not installed; run: {INSTALLATION}")
    _tell_memory(checkpoint, values)
    reserved = reserve_port()
    port = reserved.getsockname()[1]
    command = command_line(checkpoint.source, checkpoint.name, port, values["serve_options"])
    address = {"endpoint": f"http://{HOST}:{port}/v1", "model": checkpoint.name}
    return {**values, "language": SERVED, **address}, [
        RegisterEventHandler(OnShutdown(on_shutdown=lambda *_: reserved.close())),
        _process(command, values),
    ]


def reserve_port() -> socket.socket:
    """Take a free port of the loopback that nobody else is given until the socket is closed.

    A server can listen on it all the same, as both set SO_REUSEADDR and this one does not listen.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((HOST, 0))
    return reserved


def _process(command: list[str], values: dict[str, Any]) -> ExecuteProcess:
    respawn = values["respawn"]
    return ExecuteProcess(
        cmd=[*WRAPPER, str(os.getpid()), str(respawn).lower(), *command],
        name="model_server",
        additional_env={} if values["allow_download"] else OFFLINE,
        # Errors are shown; a line for each request is only in the launch's log.
        output="log",
        respawn=respawn,
        respawn_delay=RESPAWN_DELAY_S,
        on_exit=stays_ended,
    )


def _tell_memory(checkpoint: Checkpoint, values: dict[str, Any]) -> None:
    """Say what server and nodes will take, as far as it is known before they do."""
    logger = get_logger("vlm_perception")
    nodes = _node_bytes(values)
    weights, per_token = checkpoint.weight_bytes(), checkpoint.kv_bytes_per_token()
    if weights is None:
        logger.info(
            f"the nodes will take about {nodes / 1e6:.0f} MB of memory; how much {COMMAND} will "
            f"take is not known before {checkpoint.name} has been downloaded"
        )
        return
    sizes = share(values["serve_options"])
    cache = (per_token or 0) * sizes[KV_CAPACITY] * sizes[BATCH_SIZE]
    said = f"{checkpoint.name} will take at least {(weights + cache) / 1e6:.0f} MB of GPU memory"
    said += f" ({weights / 1e6:.0f} MB of weights, {cache / 1e6:.0f} MB of KV cache)"
    said += f", the nodes about {nodes / 1e6:.0f} MB of memory"
    available = available_memory()
    if os.uname().machine == SHARING_MACHINE and weights + cache + nodes > available:
        logger.warning(
            f"{said}, and this machine has {available / 1e6:.0f} MB left for both: stop other "
            "programs, use a smaller or quantized checkpoint, or a smaller cache as with "
            f"serve_options:='{KV_CAPACITY} 4096'"
        )
    else:
        logger.info(said)


def _node_bytes(values: dict[str, Any]) -> int:
    nodes = node_names(values)
    encoders = [name for name in full_names(values) if name.endswith(ENCODER)]
    params = values["params_file"]
    bundles = [
        values["bundle"] or params.text(name, "bundle") or NetworkSettings.bundle
        for name in encoders
    ]
    networks = sum(
        encoder_bytes(read_manifest(find_bundle(bundle))) - PROCESS_BYTES for bundle in bundles
    )
    return networks + PROCESS_BYTES * (1 if values["composition"] == SINGLE else len(nodes))
