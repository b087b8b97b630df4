# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How fast devices can compute and move bytes: by their datasheets, or measured here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from pydantic import BaseModel, ConfigDict, Field

from vlm_perception.common.export_error import ExportError
from vlm_perception.common.machine import cpu_count, cpu_model
from vlm_perception.deploy.profiling.cost import Cost
from vlm_perception.deploy.tables import read_table

THIS = "this"
# Side of the matrices, and bytes that are copied, to find this machine's limits; the copy must not
# fit into a cache.
SIDE = 1024
COPIED_BYTES = 1 << 27
TRIALS = 5


class Source(BaseModel):
    """The source of a figure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    url: str


class Datasheet(BaseModel):
    """One entry of tables/devices.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    power_mode: str
    int8_tops: float = Field(gt=0)
    fp16_tflops: float = Field(gt=0)
    bandwidth_gb_s: float = Field(gt=0)
    derivation: str
    sources: tuple[Source, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Device:
    """Limits of a device: FLOPs and bytes per second."""

    name: str
    float_flops: float
    int8_flops: float
    bandwidth: float
    float_bytes: int
    """Bytes of a float on this device: 2 for the FP16 stream of a GPU, 4 on a CPU."""
    origin: Literal["datasheet", "measured"]
    remarks: tuple[str, ...]

    def compute_seconds(self, cost: Cost) -> float:
        """Time that the FLOPs take at the peak rate."""
        return cost.float_flops / self.float_flops + cost.int8_flops / self.int8_flops

    def memory_seconds(self, cost: Cost) -> float:
        """Time that the bytes take at the full bandwidth."""
        return cost.bytes / self.bandwidth

    def roofline_seconds(self, cost: Cost) -> float:
        """The least time possible (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785)."""
        return max(self.compute_seconds(cost), self.memory_seconds(cost))

    def bound(self, cost: Cost) -> Literal["memory", "compute"]:
        """What limits this work on this device."""
        slow = self.memory_seconds(cost) > self.compute_seconds(cost)
        return "memory" if slow else "compute"


def datasheets() -> dict[str, Datasheet]:
    """The devices whose datasheet figures are known."""
    return {name: Datasheet.model_validate(entry) for name, entry in read_table("devices").items()}


def find_device(name: str, *, threads: int) -> Device:
    """A device by its name; `this` is measured, with `threads` threads.

    Raises:
        ExportError: its figures are unknown.
    """
    if name == THIS:
        return _measure_this(threads)
    known = datasheets()
    if name not in known:
        raise ExportError(
            f"there are no datasheet figures for {name!r}; choose one of "
            f"{', '.join([THIS, *known])}"
        )
    sheet = known[name]
    return Device(
        name=sheet.name,
        float_flops=sheet.fp16_tflops * 1e12,
        int8_flops=sheet.int8_tops * 1e12,
        bandwidth=sheet.bandwidth_gb_s * 1e9,
        float_bytes=2,
        origin="datasheet",
        remarks=(
            f"power mode {sheet.power_mode}",
            sheet.derivation,
            *(f"{source.title}, {source.url}" for source in sheet.sources),
        ),
    )


def _measure_this(threads: int) -> Device:
    """The rates of ONNX Runtime's own matrix multiplications and of a copy in memory."""
    load = os.getloadavg()[0]
    block = np.ones(COPIED_BYTES // 8)
    target = np.empty_like(block)
    # A copy reads and writes.
    bandwidth = 2 * COPIED_BYTES / _best_seconds(lambda: np.copyto(target, block))
    return Device(
        name=f"{cpu_model()}, ONNX Runtime {onnxruntime.__version__}, threads: {threads}",
        float_flops=_product_rate(np.float32, np.float32, threads),
        # Processors differ in whether they like signed or unsigned inputs.
        int8_flops=max(_product_rate(each, np.int8, threads) for each in (np.int8, np.uint8)),
        bandwidth=bandwidth,
        float_bytes=4,
        origin="measured",
        remarks=(
            f"rates: the best of {TRIALS} multiplications of {SIDE}x{SIDE} matrices, FP32 and INT8",
            f"bandwidth: the best of {TRIALS} copies of {COPIED_BYTES >> 20} MiB in one thread",
            f"load before: {load:.2f} on {cpu_count()} cores; times are longer on a loaded machine",
        ),
    )


def _product_rate(
    input_type: type[np.generic], weight_type: type[np.generic], threads: int
) -> float:
    """FLOP a second of a square product."""
    integer = np.issubdtype(weight_type, np.integer)
    element, result = (
        helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        for dtype in (input_type, np.int32 if integer else weight_type)
    )
    shape = [SIDE, SIDE]
    values = np.random.default_rng(0).integers(0, 100, shape)
    inputs, weights = values.astype(input_type), values.astype(weight_type)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if integer else "MatMul", ["a", "b"], ["c"])],
        "rate",
        [helper.make_tensor_value_info("a", element, shape)],
        [helper.make_tensor_value_info("c", result, shape)],
        [onnx.numpy_helper.from_array(weights, "b")],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=onnx.IR_VERSION_2024_3_25
    )
    session = make_session(model.SerializeToString(), threads)
    return float(2 * SIDE**3 / _best_seconds(lambda: session.run(None, {"a": inputs})))


def make_session(
    model: bytes | str,
    threads: int,
    options: onnxruntime.SessionOptions | None = None,
) -> onnxruntime.InferenceSession:
    """A session on the CPU as the nodes run it."""
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _best_seconds(work: Callable[[], object]) -> float:
    """Shortest of some trials, after one that is not counted."""
    work()
    times = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
