# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Measures on images how large the inputs of layers get, with ONNX Runtime's calibrators."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.calibrate import PercentileCalibrater
from rich.progress import track

from vlm_perception.bundle.manifest import ImageSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.validation.images import read_image
from vlm_perception.perception.preprocess import Preprocessor

# The calibrator keeps the observed values of this many images before it counts them: for ViT-B/16,
# 50 MiB per image.
STRIDE = 4


def measure_ranges(
    graph: Path,
    tensors: Sequence[str],
    images: Sequence[Path],
    spec: ImageSpec,
    percentile: float,
) -> dict[str, float]:
    """Magnitude below which lies a share of each tensor's values.

    Args:
        graph: a vision graph in FP32 with inferred shapes.
        tensors: values inside it.
        images: files to put through it.
        spec: how they are preprocessed.
        percentile: the share, in percent.

    Raises:
        ExportError: the graph gives infinite values for an image.
    """
    large = graph.with_name(f"{graph.name}.data").is_file()
    with tempfile.TemporaryDirectory(dir=graph.parent) as scratch, _silence():
        calibrater = _Observer(graph, tensors, Path(scratch) / "observed.onnx", percentile, large)
    preprocessor = Preprocessor(spec)
    for start in track(range(0, len(images), STRIDE), "Calibrating", transient=True):
        batch = images[start : start + STRIDE]
        inputs = [preprocessor.run(read_image(path))[0].copy() for path in batch]
        reader = _Reader(inputs)
        with _silence():
            try:
                calibrater.collect_data(reader)
            # What numpy's histogram raises for a range that is not finite.
            except ValueError as error:
                raise ExportError(
                    f"the vision tower outputs NaN or infinity for one of {batch[0]} to {batch[-1]}"
                ) from error
    with _silence():
        ranges = calibrater.compute_data()
    return {name: float(np.abs(ranges[name].range_value).max()) for name in tensors}


class _Observer(PercentileCalibrater):  # type: ignore[misc]
    """ONNX Runtime's calibrator for chosen tensors; on its own it takes those of all operators."""

    def __init__(
        self, graph: Path, tensors: Sequence[str], observed: Path, percentile: float, large: bool
    ) -> None:
        super().__init__(
            graph,
            augmented_model_path=str(observed),
            use_external_data_format=large,
            percentile=percentile,
        )
        self._chosen = set(tensors)
        self.augment_graph()
        self.create_inference_session()

    def select_tensors_to_calibrate(self, model: onnx.ModelProto) -> tuple[set[str], Any]:
        _, types = super().select_tensors_to_calibrate(model)
        return self._chosen, types


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Sequence[NDArray[np.uint8]]) -> None:
        self._images: Iterator[NDArray[np.uint8]] = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image}


def _silence() -> contextlib.redirect_stdout[io.StringIO]:
    """The calibrator prints what it does."""
    return contextlib.redirect_stdout(io.StringIO())
