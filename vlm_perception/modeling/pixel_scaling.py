# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads how a checkpoint scales the pixels that it takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_perception.common.export_error import ExportError


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of a checkpoint's processor, for pixels of 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def read_normalisation(directory: Path) -> Normalisation:
    """Read the normalisation from the processor that was saved beside a model.

    Raises:
        ExportError: there is none, or it does not scale by 1/255 first.
    """
    settings: dict[str, Any] = {}
    if (directory / "preprocessor_config.json").is_file():
        settings = read_json(directory / "preprocessor_config.json")
    elif (directory / "processor_config.json").is_file():
        settings = read_json(directory / "processor_config.json").get("image_processor", {})
    mean, std = _colours(settings.get("image_mean")), _colours(settings.get("image_std"))
    if mean is None or std is None:
        raise ExportError(
            f"{directory} contains no preprocessor_config.json with image_mean and image_std for "
            "three colours; save the processor next to the model"
        )
    factor = settings.get("rescale_factor", 1 / 255)
    if not settings.get("do_rescale", True) or abs(factor - 1 / 255) > 1e-9:
        raise ExportError(
            f"{directory}: only processors that rescale by 1/255 are supported; set rescale_factor "
            "in preprocessor_config.json"
        )
    if not settings.get("do_normalize", True):
        return Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Normalisation(mean, std)


def _colours(values: Any) -> tuple[float, float, float] | None:
    try:
        red, green, blue = map(float, values)
    except (TypeError, ValueError):
        return None
    return red, green, blue


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ExportError: the file is missing or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"{path} is missing; is this a Hugging Face checkpoint?") from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path} does not contain a JSON object; download it again")
    return content
