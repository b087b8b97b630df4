# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Options of an export, besides bundle.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.views import AUTO, WHOLE, parse_tiles

GEOMETRIES = ("bundle", "checkpoint", "checkpoint-fast")
PRECISIONS = ("float16-weights", "int8-mixed")


@dataclass(frozen=True)
class ExportOptions:
    """How the networks are laid out, thinned out and quantized; the default changes nothing."""

    geometry: str = "bundle"
    """`checkpoint`: resize and crop as the checkpoint's own processor does; `checkpoint-fast`: the
    same size and crop with area averages in place of its filter."""
    aspect: str | None = None
    """Aspect of the camera, `16:9`: patches that would be padding only are never computed."""
    tiles: str = WHOLE
    """What a language model's own tower sees: the image as a whole (`1`), tiles beside it (`3x2+1`:
    columns and rows), or what its own processor makes of the camera's aspect (`auto`)."""
    image_tokens: int | None = None
    """Most tokens of an image, for a language model whose own tower takes any size."""
    keep: str | None = None
    """Token pruning: `0.7@3,6,9` (share kept at each of these layers), `auto`, or none."""
    budget_ms: float | None = None
    """What `keep="auto"` has to stay below on this machine, in milliseconds."""
    random_tokens: bool = False
    """Keep as many tokens as `keep` says, but random ones: the baseline that a selection must
    beat."""
    heads: float = 1.0
    """Share of the vision tower's attention heads that stay."""
    precision: str = "float16-weights"
    """`int8-mixed`: layers of the vision tower, and of a language model's own, in INT8."""
    calibration: Path | None = None
    """Folder of images to calibrate and validate with."""
    precision_config: Path | None = None
    """An edited precision config to use instead of the default."""
    adapt: bool = False
    """Also write the graph that adapts learned prompts to the labels of a site."""
    accept_drop: bool = False
    """Keep the bundle even when the validation finds a larger accuracy drop than tolerated."""
    validate: bool = True
    """Compare the bundle with its references at the end; off where something else evaluates it."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ExportError: with the option and what it may be.
        """
        for name, value, allowed in (
            ("--geometry", self.geometry, GEOMETRIES),
            ("--precision", self.precision, PRECISIONS),
        ):
            if value not in allowed:
                raise ExportError(f"{name} is {value!r}; choose one of: {', '.join(allowed)}")
        if self.aspect is not None and self.geometry != "bundle":
            raise ExportError(
                f"--aspect and --geometry {self.geometry} are mutually exclusive; give one"
            )
        if self.tiles != AUTO:
            parse_tiles(self.tiles)
        if self.image_tokens is not None and self.image_tokens < 1:
            raise ExportError(f"--image-tokens is {self.image_tokens}; give a number above 0")
        if not 0.0 < self.heads <= 1.0:
            raise ExportError(f"--heads is {self.heads:g}; give the share to keep, up to 1")
        if (self.keep == "auto") != (self.budget_ms is not None):
            raise ExportError("--keep auto and --budget-ms X belong together; give both or neither")
        if self.budget_ms is not None and self.budget_ms <= 0:
            raise ExportError(f"--budget-ms is {self.budget_ms:g}; give milliseconds above 0")
        if self.precision_config is not None and self.precision != "int8-mixed":
            raise ExportError(
                "--precision-config configures --precision int8-mixed; give that option as well"
            )
        if self.lossy and self.calibration is None:
            raise ExportError(
                "--keep, --heads and --precision int8-mixed change the model's outputs: give "
                "--calibration IMAGES, a folder of about 600 images, to measure by how much"
            )

    def without_losses(self) -> ExportOptions:
        """The same geometry with all tokens and heads and in FP32."""
        return ExportOptions(
            geometry=self.geometry,
            aspect=self.aspect,
            tiles=self.tiles,
            image_tokens=self.image_tokens,
        )

    @property
    def lossy(self) -> bool:
        """Whether the network computes something else than the checkpoint does."""
        return self.keep is not None or self.heads < 1.0 or self.precision != "float16-weights"
