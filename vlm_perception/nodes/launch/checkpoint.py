# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The checkpoint that a model server is started with: where it is, and how large."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_perception.nodes.launch.edgellm import DOWNLOADS
from vlm_perception.nodes.process.errors import ArgumentError

CONFIG = "config.json"
WEIGHTS = ("*.safetensors", "*.bin")
LANGUAGE_CONFIGS = ("text_config", "llm_config", "language_config")
"""Where a vision-language model's config has that of its language model."""
KV_VALUE_BYTES = 2
KEYS_AND_VALUES = 2


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in a directory, or on the hub."""

    source: str
    """The absolute directory, or the id on the hub."""
    folder: Path | None
    """Its files; None while it has not been downloaded."""

    @property
    def name(self) -> str:
        """What the model is called: the id on the hub, or the name of the directory."""
        return Path(self.source).name if Path(self.source).is_absolute() else self.source

    def weight_bytes(self) -> int | None:
        """Size of the weights; None while they have not been downloaded."""
        if self.folder is None:
            return None
        found = ([*self.folder.glob(pattern)] for pattern in WEIGHTS)
        return sum(file.stat().st_size for file in next(filter(None, found), []))

    def kv_bytes_per_token(self) -> int | None:
        """Size of a token's keys and values in 16 bits; None where the config does not say."""
        if self.folder is None:
            return None
        config = _read_config(self.folder)
        inner = next((config[name] for name in LANGUAGE_CONFIGS if name in config), config)
        try:
            heads = inner["num_attention_heads"]
            width = inner.get("head_dim") or inner["hidden_size"] // heads
            layers = inner["num_hidden_layers"]
            values = layers * (inner.get("num_key_value_heads") or heads) * width
            return int(values) * KEYS_AND_VALUES * KV_VALUE_BYTES
        except (KeyError, TypeError, AttributeError, ZeroDivisionError):
            return None


def checkpoint(text: str) -> Checkpoint:
    """Read the directory of a checkpoint, or an id on the hub."""
    try:
        folder = Path(text).expanduser().absolute()
    # For an unknown user.
    except RuntimeError as error:
        raise ArgumentError(f"{error}; give a full path") from error
    if folder.is_dir():
        _read_config(folder)
        if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
            raise ArgumentError(f"{folder} has no weights ({', '.join(WEIGHTS)}); fetch it again")
        return Checkpoint(str(folder), folder)
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is None:
        raise ArgumentError(
            f"{folder} does not exist; give the directory of a checkpoint, or an id on the hub "
            "such as Qwen/Qwen3-VL-2B-Instruct"
        )
    return Checkpoint(text, _downloaded(text))


def _downloaded(name: str) -> Path | None:
    entry = DOWNLOADS.expanduser() / f"models--{name.replace('/', '--')}"
    try:
        commit = (entry / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    folder = entry / "snapshots" / commit
    return folder if (folder / CONFIG).is_file() else None


def _read_config(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(
            f"{folder / CONFIG} cannot be read ({reason}); give the directory of a Hugging Face "
            "checkpoint, not one of engines or of ONNX models"
        ) from error
    if not isinstance(config, dict):
        raise ArgumentError(f"{folder / CONFIG} is no model's configuration; fetch it again")
    return config
