# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whether there is memory enough to build a plan: a Jetson without any hangs, or starts again."""

from __future__ import annotations

from vlm_perception.common.export_error import ExportError

MEBIBYTE = 1 << 20
LIBRARIES = 1024 * MEBIBYTE
"""For CUDA's context and TensorRT's libraries while they build: an estimate, on the safe side."""
COPIES = 3
"""Of the weights, at once: as they are parsed, as a kernel wants them, and in the plan."""


def needed(weights: int, workspace: int) -> tuple[int, int]:
    """Bytes of the host's and of the GPU's memory that a build may take, by estimate."""
    return LIBRARIES + COPIES * weights, workspace + COPIES * weights


def require_memory(
    graph: str, weights: int, workspace: int, *, host_free: int, gpu_free: int | None
) -> None:
    """Refuse to build a plan where it may end in a lack of memory.

    Args:
        graph: its name.
        weights: bytes of the graph's file and its external data.
        workspace: the most that a kernel may work with, in bytes.
        host_free: bytes that the host can give.
        gpu_free: bytes that the GPU can give; None: it uses the host's memory.

    Raises:
        ExportError: there is too little; with how much is needed.
    """
    host, gpu = needed(weights, workspace)
    if gpu_free is None:
        _require(graph, "memory", host + gpu, host_free)
    else:
        _require(graph, "main memory", host, host_free)
        _require(graph, "GPU memory", gpu, gpu_free)


def _require(graph: str, what: str, wanted: int, free: int) -> None:
    if free < wanted:
        raise ExportError(
            f"building {graph} may take {wanted / MEBIBYTE:.0f} MiB of {what}, but only "
            f"{free / MEBIBYTE:.0f} MiB are free: close other programs (on a Jetson also the "
            "desktop, `sudo init 3`), or lower --workspace-mib"
        )
