# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Checks a bundle's decoder in the forms that other engines get."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from vlm_perception.bundle.bundle import DECODER_GRAPH, ModelBundle
from vlm_perception.bundle.golden import check_alike
from vlm_perception.deploy.compression.int4_decoder import quantize_decoder
from vlm_perception.deploy.onnx.tensorrt_graphs import tensorrt_graphs
from vlm_perception.deploy.tensorrt.build import require_native
from vlm_perception.deploy.tensorrt.parity import measure_parity
from vlm_perception.engines.onnxruntime import ONNXRUNTIME, OnnxRuntimeEngine


def check_fewer_bits(bundle: ModelBundle, folder: Path) -> None:
    """With weights in INT4 for CPUs, and as TensorRT gets it: MatMuls and KV cache in FP16."""
    with np.load(bundle.file("golden.npz")) as golden:
        inputs, outputs = (
            {name.removeprefix(way): golden[name] for name in golden.files if name.startswith(way)}
            for way in (f"{DECODER_GRAPH}/in/", f"{DECODER_GRAPH}/out/")
        )
    small = Path(shutil.copy(bundle.file(DECODER_GRAPH), folder))
    quantize_decoder(small)
    check_alike(OnnxRuntimeEngine(small).run(inputs), outputs, 0.9)
    graph = next(each for each in tensorrt_graphs(bundle) if each.name == DECODER_GRAPH)
    require_native([graph], dla=False)
    for each in measure_parity(bundle, graph, ONNXRUNTIME):
        assert each.cosine_mean >= 0.9999, each
