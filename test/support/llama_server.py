# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Run llama.cpp's server with a LLaVA of random weights whose tokens are bytes.

Usage: python llama_server.py FILE NAME PORT

FILE is where the model is written, and beside it its projector; NAME what the server calls it.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

WIDTH, LAYERS, HEADS, INNER, CONTEXT = 64, 2, 4, 128, 8192
SIDE, PATCH, VISION_WIDTH, VISION_HEADS = 56, 14, 32, 2
END = 2
TOKENS = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
ASCII_END = 3 + 128
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_model(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    kinds = gguf.TokenType
    special = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    writer.add_token_types([*special, *[kinds.BYTE] * 256])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_weights(writer: gguf.GGUFWriter) -> None:
    random = np.random.default_rng(0)

    def weights(rows: int, columns: int) -> np.ndarray:
        return (0.5 * random.standard_normal((rows, columns))).astype(np.float32)

    ones = np.ones(WIDTH, np.float32)
    output = weights(len(TOKENS), WIDTH)
    # So that it hardly ever ends by itself, or in the midst of a character.
    output[[END, *range(ASCII_END, len(TOKENS))]] = 0.0
    writer.add_tensor("token_embd.weight", weights(len(TOKENS), WIDTH))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        shapes = {
            **{f"attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
            "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(*shape))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", ones)


def write_projector(path: Path) -> None:
    """A vision tower of CLIP's kind with LLaVA's projector."""
    keys = gguf.Keys.ClipVision
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool(gguf.Keys.Clip.HAS_VISION_ENCODER, True)
    writer.add_string(gguf.Keys.Clip.PROJECTOR_TYPE, "mlp")
    writer.add_uint32(keys.IMAGE_SIZE, SIDE)
    writer.add_uint32(keys.PATCH_SIZE, PATCH)
    writer.add_uint32(keys.EMBEDDING_LENGTH, VISION_WIDTH)
    writer.add_uint32(keys.FEED_FORWARD_LENGTH, 2 * VISION_WIDTH)
    writer.add_uint32(keys.PROJECTION_DIM, WIDTH)
    writer.add_uint32(keys.BLOCK_COUNT, LAYERS)
    writer.add_uint32(keys.Attention.HEAD_COUNT, VISION_HEADS)
    writer.add_float32(keys.Attention.LAYERNORM_EPS, 1e-5)
    writer.add_array(keys.IMAGE_MEAN, [0.5] * 3)
    writer.add_array(keys.IMAGE_STD, [0.5] * 3)
    writer.add_bool(keys.USE_GELU, True)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    random = np.random.default_rng(1)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.standard_normal(shape).astype(np.float32) / 4)

    add("v.class_embd", VISION_WIDTH)
    add("v.patch_embd.weight", VISION_WIDTH, 3, PATCH, PATCH)
    add("v.position_embd.weight", (SIDE // PATCH) ** 2 + 1, VISION_WIDTH)
    for name in ("v.pre_ln", "v.post_ln"):
        add(f"{name}.weight", VISION_WIDTH)
        add(f"{name}.bias", VISION_WIDTH)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_down", "ln1", "ln2"):
            rows = 2 * VISION_WIDTH if name == "ffn_up" else VISION_WIDTH
            columns = 2 * VISION_WIDTH if name == "ffn_down" else VISION_WIDTH
            add(f"v.blk.{layer}.{name}.weight", *((rows,) if name[:2] == "ln" else (rows, columns)))
            add(f"v.blk.{layer}.{name}.bias", rows)
    add("mm.0.weight", WIDTH, VISION_WIDTH)
    add("mm.2.weight", WIDTH, WIDTH)
    for name in ("mm.0", "mm.2"):
        add(f"{name}.bias", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    path, name, port = sys.argv[1:]
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the tests
    projector = f"{path}.mmproj"
    write_model(Path(path))
    write_projector(Path(projector))
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.mmproj.path = projector
    parameters.mmproj_use_gpu = False
    parameters.model_alias = {name}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = int(port)
    parameters.n_ctx = CONTEXT
    parameters.n_parallel = 1
    parameters.endpoint_slots = True
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
