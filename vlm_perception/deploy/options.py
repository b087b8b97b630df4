# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What an export may be asked for besides what bundle.yaml says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["float16-weights", "int8-mixed"]


@dataclass(frozen=True)
class ExportOptions:
    """How the networks are laid out, thinned out and quantized; the default changes nothing."""

    geometry: Literal["bundle", "checkpoint"] = "bundle"
    """`checkpoint`: resize and crop as the checkpoint's own processor does."""
    aspect: str | None = None
    """Aspect of the camera, `16:9`: patches that would be padding only are never computed."""
    keep: str | None = None
    """Token pruning: `0.7@3,6,9` (share kept at each of these layers), `auto`, or none."""
    budget_ms: float | None = None
    """What `keep="auto"` has to stay below on this machine, in milliseconds."""
    heads: float = 1.0
    """Share of the vision tower's attention heads that stay."""
    precision: Precision = "float16-weights"
    calibration: Path | None = None
    """Folder of images to calibrate and validate with."""
    plan: Path | None = None
    """An edited precision plan to use in place of the default."""
    accept_drift: bool = False
    """Keep the bundle even when the validation finds more drift than is tolerated."""
