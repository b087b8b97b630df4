# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What of TensorRT Edge-LLM's server is relied upon; an API of NVIDIA's, as of its version 0.11.0.

`test/unit/nodes/test_edgellm.py` checks it where that version is installed.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_perception.nodes.process.errors import ArgumentError

COMMAND = "tensorrt-edgellm-serve"
INSTALLATION = (
    "python3 -m venv --system-site-packages ~/edgellm && "
    "~/edgellm/bin/pip install 'tensorrt-edgellm[server]==0.11.0' && "
    "export PATH=$PATH:~/edgellm/bin"
)
DOWNLOADS = Path("~/.cache/tensorrt-edgellm/checkpoints")
"""Where it keeps what it has downloaded, in the layout of Hugging Face's cache."""
OFFLINE = {"HF_HUB_OFFLINE": "1"}
"""Environment in which nothing is downloaded."""
HOST = "127.0.0.1"
KV_CAPACITY, BATCH_SIZE = "--max-kv-cache-capacity", "--max-batch-size"
SHARE: Mapping[str, int] = {"--max-input-len": 4096, KV_CAPACITY: 8192, BATCH_SIZE: 1}
"""What decides on its memory beside the weights, with its own defaults: an engine that it has built
when it was started by hand is used."""


def server_options(text: str) -> list[str]:
    """Read further options of the server, as they would be typed.

    Raises:
        ArgumentError: a quotation is not closed, or a size is not a number.
    """
    try:
        options = shlex.split(text)
    except ValueError as error:
        raise ArgumentError(f"{error}; give options as {KV_CAPACITY} 4096") from error
    share(options)
    return options


def share(options: Sequence[str]) -> Mapping[str, int]:
    """Values of SHARE with which a server of these options runs.

    Raises:
        ArgumentError: one is not a number.
    """
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    for name, value in SHARE.items():
        parser.add_argument(name, dest=name, type=int, default=value)
    try:
        return vars(parser.parse_known_args(options)[0])
    except argparse.ArgumentError as error:
        raise ArgumentError(f"{error}; give options as {KV_CAPACITY} 4096") from error


def command_line(source: str, name: str, port: int, options: Sequence[str]) -> list[str]:
    """The command that serves a checkpoint on this machine only.

    Args:
        source: directory of the checkpoint, or its id on the hub.
        name: what the server is to call the model.
        port: that it listens on.
        options: further ones; of two with one name the last counts.
    """
    shares = [word for option, value in SHARE.items() for word in (option, str(value))]
    ours = ["--host", HOST, "--port", str(port), "--served-model-name", name]
    return [COMMAND, source, *shares, *options, *ours]
