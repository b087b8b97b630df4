# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Stores the weights of a decoder in INT4; it computes with floats, as before.

A decoder reads all its weights for every token: where it is large, their size is its speed. ONNX
Runtime has an operator for such products (MatMulNBits), which TensorRT does not read.
"""

from __future__ import annotations

import logging
from pathlib import Path

import onnx

from vlm_perception.deploy.onnx.writer import layer_of, restore_float, save_graph

# Weights that share a step and a zero point.
BLOCK = 16
# The layer that gives the logits: an error there goes into every answer.
OUTPUT_LAYER = "head"


def quantize_decoder(path: Path) -> None:
    """Replace a decoder's graph by one whose layers, all but the last, hold INT4 weights."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    # This module sets up the log of the whole program when it is imported.
    from onnxruntime.quantization import matmul_nbits_quantizer  # noqa: PLC0415

    root.setLevel(level)
    root.handlers[:] = handlers
    matmul_nbits_quantizer.logger.setLevel(logging.WARNING)
    model = onnx.load(path)
    restore_float(model)
    kept = [node.name for node in model.graph.node if layer_of(node) == OUTPUT_LAYER]
    settings = matmul_nbits_quantizer.DefaultWeightOnlyQuantConfig(block_size=BLOCK)
    quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(
        model, nodes_to_exclude=kept, algo_config=settings
    )
    quantizer.process()
    save_graph(quantizer.model.model, path)
