# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Measures on images how the inputs of layers are spread, with ONNX Runtime's calibrators."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.calibrate import PercentileCalibrater
from rich.progress import track

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.compression.steps import Spread
from vlm_perception.deploy.validation.images import read_image

Fit = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""How a tower is given an image: RGB [H, W, 3] -> [views, height, width, 3], each run alone."""

# The calibrator keeps the observed values of so many views before it counts them, and of fewer
# where they would take more memory. ViT-B/16 has 50 MiB of them at 224 pixels, 260 at 512.
STRIDE, STRIDE_BYTES = 4, 256 << 20


def measure_spreads(
    graph: Path, tensors: Sequence[str], views: Iterable[tuple[str, NDArray[np.uint8]]]
) -> dict[str, Spread]:
    """How the values of tensors inside a graph are spread.

    Args:
        graph: a vision graph in FP32 with inferred shapes.
        tensors: values inside it.
        views: what goes into it, [height, width, 3] each, and what it is called.

    Raises:
        ExportError: the graph gives infinite values for one.
    """
    large = graph.with_name(f"{graph.name}.data").is_file()
    with tempfile.TemporaryDirectory(dir=graph.parent) as scratch, _silence():
        calibrater = _Observer(graph, tensors, Path(scratch) / "observed.onnx", large)
    views, stride = iter(views), _stride(graph, tensors)
    while batch := list(itertools.islice(views, stride)):
        reader = _Reader([view[np.newaxis] for _, view in batch])
        with _silence():
            try:
                calibrater.collect_data(reader)
            # What numpy's histogram raises for a range that is not finite.
            except ValueError as error:
                raise ExportError(
                    f"{graph.name} outputs NaN or infinity for one of {batch[0][0]} to "
                    f"{batch[-1][0]}"
                ) from error
    found = calibrater.collector.get_histogram_dict()
    return {
        name: Spread(counts, edges, float(least), float(most))
        for name, (counts, edges, least, most, *_) in found.items()
    }


def views_of(images: Sequence[Path], fit: Fit) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """What a tower is given of image files, and the file."""
    for path in track(images, "Calibrating", transient=True):
        for view in fit(read_image(path)).copy():
            yield str(path), view


def _stride(graph: Path, tensors: Sequence[str]) -> int:
    """How many views are observed at once."""
    values = onnx.load(graph, load_external_data=False).graph.value_info
    shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
    floats: int = sum(math.prod(size.dim_value for size in shapes[name]) for name in tensors)
    return max(1, min(STRIDE, STRIDE_BYTES // (4 * floats)))


class _Observer(PercentileCalibrater):  # type: ignore[misc]
    """ONNX Runtime's calibrator for chosen tensors; on its own it takes those of all operators."""

    def __init__(self, graph: Path, tensors: Sequence[str], observed: Path, large: bool) -> None:
        super().__init__(
            graph,
            augmented_model_path=str(observed),
            use_external_data_format=large,
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
