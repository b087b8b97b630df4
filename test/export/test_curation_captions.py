# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint captions images as transformers does by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support.qwen_vl import make_qwen
from transformers import AutoProcessor, LlavaForConditionalGeneration

from vlm_perception.common.export_error import ExportError
from vlm_perception.curation.captioning.captioner import open_captioner
from vlm_perception.curation.captioning.of_checkpoint import CheckpointWriter
from vlm_perception.curation.recipe import Captions, CheckpointCaptioner
from vlm_perception.deploy.checkpoints.files import checkpoint_digest
from vlm_perception.perception.language.token_sampling import GREEDY, Sampling

PROMPT = "describe the scene"


def test_a_checkpoint_writes_what_transformers_writes(siglip_checkpoint):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    writer = CheckpointWriter(str(siglip_checkpoint), 12)
    answer = writer.write(image, PROMPT, GREEDY)
    folder = siglip_checkpoint / "vlm"
    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    inputs = processor(
        images=Image.fromarray(image), text=f"<image>\n{PROMPT}", return_tensors="pt"
    )
    ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)[
        0, inputs["input_ids"].shape[1] :
    ]
    assert answer.text == processor.decode(ids, skip_special_tokens=True)
    assert answer.ended == (int(ids[-1]) == model.generation_config.eos_token_id)
    # Sampled texts depend on the seed alone.
    drawn = [writer.write(image, PROMPT, Sampling(0.7, 0.9, seed)).text for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] and len({answer.text, *drawn}) == 3


def test_a_chat_model_sees_image_and_prompt(tmp_path):
    writer = CheckpointWriter(str(make_qwen(tmp_path, "qwen3_vl")), 4)
    one, other = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    asked = [(one, PROMPT), (other, PROMPT), (one, "What is it?"), (one, PROMPT)]
    texts = [writer.write(image, prompt, Sampling(1.0, 1.0, 5)).text for image, prompt in asked]
    assert len(set(texts)) == 3 and texts[0] == texts[3]


def test_what_is_no_such_checkpoint_is_refused(tmp_path, siglip_checkpoint):
    for folder in (siglip_checkpoint / "dual", tmp_path):
        captions = Captions(captioner=CheckpointCaptioner(kind="checkpoint", path=str(folder)))
        with pytest.raises(ExportError, match=folder.name):
            open_captioner(captions, tmp_path)


def test_a_checkpoint_is_another_one_with_other_settings(tmp_path):
    files = ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja")
    for name in (*files, "README.md"):
        (tmp_path / name).write_text("{}")
    digests = [checkpoint_digest(tmp_path)]
    for name in files:
        (tmp_path / name).write_text("{ }")
        digests.append(checkpoint_digest(tmp_path))
    assert len(set(digests)) == len(digests)
    (tmp_path / "README.md").write_text("read me")
    assert checkpoint_digest(tmp_path) == digests[-1]
