# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a checkpoint as it is published, and what in them no export can use."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from vlm_perception.bundle.files import file_sha256
from vlm_perception.common.export_error import ExportError
from vlm_perception.modeling.pixel_scaling import read_json

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
CONFIG_NAME = "config.json"
ADAPTER_NAME = "adapter_config.json"
STEPS_NAME = "quantization.safetensors"
"""Beside dual/: the steps of quantization that its tower was trained with."""
_SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
"""What is read beside the weights: settings, chat templates, and what tokenizers are made of."""
# The first bytes of what `git clone` leaves of a large file where Git LFS is not installed.
_POINTER = b"version https://git-lfs"
_CLASSES = {"dual": "AutoModel", "vlm": "AutoModelForImageTextToText"}


def require_plain_weights(directory: Path) -> None:
    """Refuse a directory whose weights are not those of a whole model in safetensors.

    Raises:
        ExportError: it holds an adapter, quantized weights, another format or a part of the files;
            the message says what to do.
    """
    refuse_adapter(directory, str(directory))
    refuse_quantized(directory, str(directory))
    for file in weight_files(directory):
        if not file.is_file():
            raise ExportError(
                f"{directory} lacks {file.name}, which belongs to its weights; download it again "
                "until all of its files are there"
            )
        with file.open("rb") as content:
            pointer = content.read(len(_POINTER)) == _POINTER
        if pointer:
            raise ExportError(
                f"{file} is the Git LFS pointer to a file and not the file; run `git lfs pull` "
                "there, or download it again"
            )


def weight_files(directory: Path) -> list[Path]:
    """The files that transformers reads a model's weights from: one, or the shards of an index.

    Raises:
        ExportError: there are none.
    """
    whole, index = directory / WEIGHTS_NAME, directory / INDEX_NAME
    # In a hub cache it is a link, and may lead nowhere.
    if whole.exists() or whole.is_symlink():
        return [whole]
    if not index.is_file():
        _refuse_other_formats(directory)
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ExportError(f"{index} names no files; download it again")
    return [directory / name for name in sorted(set(map(str, shards.values())))]


def checkpoint_digest(directory: Path) -> str:
    """The SHA-256 of all that a model's answers depend on: weights, settings and tokenizer.

    Args:
        directory: with the weights in safetensors.

    Raises:
        ExportError: it has no weights.
        OSError: a file cannot be read.
    """
    settings = (file for pattern in _SETTINGS for file in directory.glob(pattern))
    files = {*filter(Path.is_file, settings), *weight_files(directory)}
    lines = [f"{file.name} {file_sha256(file)}\n" for file in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def refuse_adapter(directory: Path, name: str) -> None:
    """Refuse an adapter; only its configuration is read.

    Args:
        directory: where it is.
        name: of the model, for people.

    Raises:
        ExportError: it is one, or is next to a model.
    """
    if not (directory / ADAPTER_NAME).is_file():
        return
    base = read_json(directory / ADAPTER_NAME).get("base_model_name_or_path") or "its base model"
    beside = " beside a model, which would not be applied" if _has_model(directory) else ""
    raise ExportError(
        f"{name} holds an adapter{beside} ({ADAPTER_NAME}, for {base}); merge it into the "
        "base model (peft: PeftModel.from_pretrained, merge_and_unload, save_pretrained) and "
        "export the result"
    )


def _has_model(directory: Path) -> bool:
    return (directory / WEIGHTS_NAME).exists() or (directory / INDEX_NAME).exists()


def refuse_quantized(directory: Path, name: str) -> None:
    """Refuse a model with quantized weights; only its configuration is read, if there is one.

    Args:
        directory: where it is.
        name: of the model, for people.

    Raises:
        ExportError: its config.json says so.
    """
    config = directory / CONFIG_NAME
    for settings in _quantizations(read_json(config) if config.is_file() else {}):
        method = settings.get("quant_method", "by an unnamed method")
        raise ExportError(
            f"{name} holds quantized weights ({method}, by quantization_config in its "
            "config.json), which cannot be exported; take the checkpoint that it was quantized "
            "from, and let --precision int8-mixed quantize the bundle"
        )


def _quantizations(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Settings of quantization, of the whole model or of a part of it."""
    for name, value in config.items():
        if not isinstance(value, dict) or not value:
            continue
        if name in ("quantization_config", "compression_config"):
            yield value
        else:
            yield from _quantizations(value)


def _refuse_other_formats(directory: Path) -> NoReturn:
    """Refuse weights that are no model.safetensors, with the way to make one."""
    names = sorted(path.name for path in directory.glob("*"))
    torch = [name for name in names if name.startswith("pytorch_model") and ".bin" in name]
    if torch:
        kind = _CLASSES.get(directory.name, "AutoModel")
        raise ExportError(
            f"{directory} holds its weights as {torch[0]} only, a format that can run foreign code "
            'when it is read; convert them where you trust their origin: python3 -c "from '
            f"transformers import {kind} as M; d = '{directory.resolve()}'; "
            'M.from_pretrained(d).save_pretrained(d)"'
        )
    raise ExportError(
        f"{directory} holds no {WEIGHTS_NAME} with weights; download it, or save the model there "
        "with save_pretrained"
    )


def copy_checkpoint(source: Path, folder: Path, weights: bool = True) -> None:
    """Copy the files of a checkpoint, with its weights or without."""
    skipped = set() if weights else {file.name for file in weight_files(source)}
    for file in source.iterdir():
        index = not weights and ".safetensors" in file.name
        if file.is_file() and file.name not in skipped and not index:
            shutil.copy(file, folder)
