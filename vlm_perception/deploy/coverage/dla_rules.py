# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Checks for the limits of single layers on NVIDIA's deep learning accelerator."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from vlm_perception.deploy.coverage.rules import Found, NodeCheck, Operators
from vlm_perception.deploy.onnx.graph import OnnxGraph, attribute

# Channels and the two spatial dimensions; what comes before them is the batch.
BEHIND_BATCH = 3


def kernel_is_within(
    graph: OnnxGraph, node: NodeProto, operators: Operators, least: int, most: int
) -> Found:
    """Each side of a convolution's kernel is within these limits."""
    kernel = _kernel(graph, node)
    return None if all(least <= side <= most for side in kernel) else f"it is {kernel}"


def padding_is_below_kernel(graph: OnnxGraph, node: NodeProto, operators: Operators) -> Found:
    """Each padding of a convolution is smaller than its kernel there."""
    kernel, pads = _kernel(graph, node), attribute(node, "pads", [])
    if not isinstance(pads, list) or all(
        pad < side for pad, side in zip(pads, kernel * 2, strict=False)
    ):
        return None
    return f"the padding is {pads} and the kernel {kernel}"


def softmax_is_within(
    graph: OnnxGraph, node: NodeProto, operators: Operators, alone: int, among: int
) -> Found:
    """The axis comes after the batch, and not longer than the limit among other dimensions."""
    sizes = _sizes(graph, node.input[0])
    if not sizes:
        return None
    axis = _axis(node, -1, len(sizes))
    if axis < len(sizes) - BEHIND_BATCH:
        return f"axis {axis} of {list(sizes)} is the batch axis"
    inner = list(sizes[-BEHIND_BATCH:])
    limit = alone if math.prod(inner) == sizes[axis] else among
    return None if sizes[axis] <= limit else f"it is {sizes[axis]} of {list(sizes)}"


def concat_is_along_channels(graph: OnnxGraph, node: NodeProto, operators: Operators) -> Found:
    """Tensors with a batch are joined at the channels, the third dimension from the end."""
    known = graph.types.get(node.input[0])
    rank = len(known.shape) if known is not None and known.shape is not None else 0
    axis = _axis(node, 0, rank) if rank else 0
    if rank <= BEHIND_BATCH or axis == rank - BEHIND_BATCH:
        return None
    return f"it is along dimension {axis} of {rank}"


def slice_is_behind_batch(graph: OnnxGraph, node: NodeProto, operators: Operators) -> Found:
    """Only channels and spatial dimensions are cut."""
    known = graph.types.get(node.input[0])
    rank = len(known.shape) if known is not None and known.shape is not None else 0
    if node.op_type == "Split":
        axes = [_axis(node, 0, max(rank, 1))]
    else:
        given = graph.value(node.input[3]) if len(node.input) > 3 and node.input[3] else None
        axes = [0] if given is None else [int(axis) % max(rank, 1) for axis in np.ravel(given)]
    return "it splits the batch" if min(axes) < rank - BEHIND_BATCH else None


def scales_are_whole(
    graph: OnnxGraph, node: NodeProto, operators: Operators, nearest: int, linear: int
) -> Found:
    """Resize enlarges height and width alone, by whole numbers up to a limit."""
    given = graph.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if given is None:
        before, after = _sizes(graph, node.input[0]), _sizes(graph, node.output[0])
        if not before or not after or len(before) != len(after):
            return None
        scales = [new / old for new, old in zip(after, before, strict=True)]
    else:
        scales = [float(scale) for scale in np.ravel(given)]
    limit = nearest if attribute(node, "mode", "nearest") == "nearest" else linear
    whole = all(scale.is_integer() and 1 <= scale <= limit for scale in scales)
    if len(scales) == 4 and whole and scales[:2] == [1.0, 1.0]:
        return None
    return f"the scales are {scales}"


def clip_is_within(
    graph: OnnxGraph, node: NodeProto, operators: Operators, least: float, most: float
) -> Found:
    """Clip is a ReLU that ends at a constant within these limits."""
    low, high = _bounds(graph, node)
    if low == 0.0 and high is not None and least <= high <= most:
        return None
    return f"it is from {low} to {high}"


NODE_CHECKS: dict[str, NodeCheck] = {
    check.__name__: check
    for check in (
        clip_is_within,
        concat_is_along_channels,
        kernel_is_within,
        padding_is_below_kernel,
        scales_are_whole,
        slice_is_behind_batch,
        softmax_is_within,
    )
}


def _bounds(graph: OnnxGraph, node: NodeProto) -> tuple[float | None, float | None]:
    """Clip's two limits, where they are constants."""
    found: list[float | None] = []
    for position in (1, 2):
        name = node.input[position] if position < len(node.input) else ""
        value = graph.value(name) if name else None
        found.append(None if value is None else float(np.ravel(value)[0]))
    return found[0], found[1]


def _kernel(graph: OnnxGraph, node: NodeProto) -> list[int]:
    return list(_sizes(graph, node.input[1])[2:])


def _axis(node: NodeProto, default: int, rank: int) -> int:
    axis = attribute(node, "axis", default)
    return axis % rank if isinstance(axis, int) else 0


def _sizes(graph: OnnxGraph, name: str) -> tuple[int, ...]:
    known = graph.types.get(name)
    return (known.sizes() or ()) if known is not None else ()
