# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's graphs on a GPU, as calls that end when their results are there.

ONNX Runtime is given the very graphs that TensorRT is built of. In both engines the encoder and the
language path have a stream each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime

from vlm_perception.bundle.bundle import DECODER_GRAPH, VISION_GRAPH, ModelBundle
from vlm_perception.deploy.onnx.tensorrt_graphs import Shapes, TensorRtGraph, tensorrt_graphs
from vlm_perception.engines.base import Array, EngineError
from vlm_perception.engines.registry import load_engine
from vlm_perception.engines.tensorrt.backend import TENSORRT
from vlm_perception.engines.tensorrt.fixed_cache import Piece, causal_scores

CUDA = "CUDAExecutionProvider"
Call = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """What a robot's GPU does for a frame."""

    engine: str
    """Engine, version and device."""
    encode: Call
    """An image goes up, and all outputs of the vision tower come down."""
    language: Mapping[str, Call]
    """Of the decoder: `image` (prefill), `text` (questions) and `token` (one step of decoding)."""


def open_work(bundle: ModelBundle, engine: str, *, priority: bool, on_cpu: bool) -> Work:
    """Load a bundle's vision tower and decoder.

    Args:
        bundle: the model; it must have a language part.
        engine: `onnxruntime` or `tensorrt`.
        priority: whether the encoder's stream goes before that of the language path.
        on_cpu: no GPU and no streams, to try this out; for ONNX Runtime.

    Raises:
        EngineError: the engine or the GPU is missing, or there are no plans.
        ExportError: a graph cannot be read.
    """
    if bundle.manifest.language is None:
        raise EngineError(f"bundle {bundle.manifest.name} has no language model; use one that does")
    graphs = {graph.name: graph for graph in tensorrt_graphs(bundle)}
    image = bundle.golden_inputs(VISION_GRAPH)
    if engine == TENSORRT:
        return _tensorrt(bundle, graphs[DECODER_GRAPH], image, priority=priority)
    return _onnxruntime(bundle, graphs, image, priority=priority, on_cpu=on_cpu)


def _tensorrt(
    bundle: ModelBundle, decoder: TensorRtGraph, image: dict[str, Array], *, priority: bool
) -> Work:
    vision = replace(bundle.graph_file(VISION_GRAPH), urgent=priority)
    encoder = load_engine(TENSORRT, vision, threads=1)
    language: Any = load_engine(TENSORRT, bundle.graph_file(DECODER_GRAPH), threads=1)
    pieces = {name: _embeds(shapes) for name, shapes in decoder.profiles}
    prefix = language.prefill(pieces["image"])

    def ask() -> None:
        text = pieces["text"]
        positions = np.arange(prefix.length, prefix.length + len(text))
        language.read(prefix, text, positions, causal_scores(len(text)), np.arange(len(text)))

    return Work(
        encoder.name,
        partial(encoder.run, image),
        {
            "image": partial(language.prefill, pieces["image"]),
            "text": ask,
            "token": lambda: language.append(language.branch(prefix, 1), pieces["token"]),
        },
    )


def _onnxruntime(
    bundle: ModelBundle,
    graphs: Mapping[str, TensorRtGraph],
    image: dict[str, Array],
    *,
    priority: bool,
    on_cpu: bool,
) -> Work:
    streams: list[Any] = [None, None]
    name = f"onnxruntime {onnxruntime.__version__} on the CPU"
    if not on_cpu:
        if CUDA not in onnxruntime.get_available_providers():
            raise EngineError(
                "this ONNX Runtime has no CUDA: `pip install onnxruntime-gpu` instead of "
                "onnxruntime, or use --engine tensorrt; --on-cpu tests the command here"
            )
        device = _module_of_cuda().open_device()
        with device.entered():
            streams = [device.stream(urgent=priority), device.stream(urgent=False)]
        name = f"onnxruntime {onnxruntime.__version__} on {device.name}"
    vision, decoder = graphs[VISION_GRAPH], graphs[DECODER_GRAPH]
    (_, shapes), *_ = vision.profiles
    encode = _Session(bundle, vision, shapes, streams[0]).call(image, keep=())
    language = {
        profile: _Session(bundle, decoder, shapes, streams[1]).call(
            _decoder_inputs(shapes), keep=("new_kv",)
        )
        for profile, shapes in decoder.profiles
    }
    return Work(name, encode, language)


def _module_of_cuda() -> Any:
    """engines/tensorrt/cuda.py; TensorRT itself need not be there.

    Raises:
        EngineError: pycuda or the driver is missing.
    """
    try:
        from vlm_perception.engines.tensorrt import cuda  # noqa: PLC0415
    except ImportError as error:
        raise EngineError(
            f"CUDA cannot be used ({error}): install the driver, `pip install pycuda cuda-python`"
        ) from error
    return cuda


class _Session:
    """A graph at one set of shapes in ONNX Runtime, on a stream of its own or on the CPU."""

    def __init__(
        self, bundle: ModelBundle, graph: TensorRtGraph, shapes: Shapes, stream: Any
    ) -> None:
        self._stream = stream
        self._place = "cpu" if stream is None else "cuda"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        providers: list[Any] = ["CPUExecutionProvider"]
        if stream is not None:
            providers.insert(0, (CUDA, {"user_compute_stream": str(stream.handle)}))
        with TemporaryDirectory(prefix="vlm_perception.") as folder:
            path = Path(folder) / graph.name
            onnx.save(graph.bound(shapes).model, path)
            for beside in bundle.path.glob(f"{graph.source}.data"):
                (path.parent / beside.name).symlink_to(beside)
            self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        if stream is not None and self._session.get_providers()[0] != CUDA:
            raise EngineError(
                "ONNX Runtime cannot start its CUDA provider, and would use the CPU: install the "
                "CUDA and cuDNN versions that match it"
            )

    def call(self, inputs: Mapping[str, Array], *, keep: tuple[str, ...]) -> Call:
        """What runs it: the inputs go up, and all outputs but those to be kept come down."""
        binding = self._session.io_binding()
        for output in self._session.get_outputs():
            binding.bind_output(output.name, self._place if output.name in keep else "cpu")
        # The cache lives on the device.
        cached = {name: value for name, value in inputs.items() if name == "past"}
        for name, value in cached.items():
            binding.bind_ortvalue_input(
                name, onnxruntime.OrtValue.ortvalue_from_numpy(value, self._place, 0)
            )

        def run() -> None:
            for name in inputs.keys() - cached.keys():
                binding.bind_cpu_input(name, inputs[name])
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run


def _embeds(shapes: Shapes) -> Array:
    """Tokens as a program reads them; their values do not matter."""
    _, tokens, width = shapes["inputs_embeds"]
    return np.random.default_rng(0).normal(0, 0.05, (tokens, width)).astype(np.float32)


def _decoder_inputs(shapes: Shapes) -> dict[str, Array]:
    """Inputs of the decoder after a cache that is full but for the tokens themselves."""
    tokens, places = shapes["inputs_embeds"][1], shapes["logit_rows"][0]
    capacity = shapes["past"][4]
    seen = max(capacity - tokens, 0)
    scores = np.concatenate([np.zeros((tokens, seen), np.float32), causal_scores(tokens)], axis=1)
    rows = np.arange(tokens - places, tokens)
    piece = Piece(_embeds(shapes), np.arange(seen, seen + tokens), scores, rows)
    cache = np.zeros(shapes["past"], np.float16)
    return {**piece.padded(tokens, capacity, seen, places), "past": cache}
