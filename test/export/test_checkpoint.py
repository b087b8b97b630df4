# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The shipped checkpoint runs in transformers as it lies there, and says what the bundle says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.places import ROOT

pytest.importorskip("torch")

import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import AutoModel, AutoProcessor, LlavaForConditionalGeneration

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

CHECKPOINT = ROOT / "checkpoints" / "roadworld-nano"


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.load("roadworld-nano")


@pytest.fixture(scope="module")
def streets() -> list[NDArray[np.uint8]]:
    # Of these the bundle, which is pruned, says the same as its checkpoint.
    return [render(sample_scene(20_000_000 + seed), 0.0, 1280, 720).image for seed in (0, 2, 3)]


@pytest.fixture(scope="module")
def captions(bundle: ModelBundle, streets: list[NDArray[np.uint8]]) -> list[str]:
    """What the bundle says of the streets."""
    encoder, language = VisionEncoder(bundle, temporal=False), LanguageModel(bundle)
    prefixes = [language.prefill(encoder.encode(Frame(image, 1), 0).tokens) for image in streets]
    prompt = language.spec.caption_prompt
    said = [language.generate(prefix, prompt, max_tokens=80).text for prefix in prefixes]
    assert len(set(said)) == len(said), "they read the image"
    return said


def test_the_documented_lines_print_the_bundles_caption(
    streets: list[NDArray[np.uint8]],
    captions: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = (ROOT / "docs" / "roadworld.md").read_text(encoding="utf-8")
    (lines,) = (
        block for block in re.findall(r"```python\n(.*?)```", document, re.S) if "Auto" in block
    )
    (tmp_path / "checkpoints").symlink_to(CHECKPOINT.parent)
    Image.fromarray(streets[1]).save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, "docs/roadworld.md", "exec"), {})
    assert capsys.readouterr().out.strip() == captions[1]


def test_a_batch_of_streets_is_captioned_as_the_bundle_does(
    bundle: ModelBundle, streets: list[NDArray[np.uint8]], captions: list[str]
) -> None:
    processor = AutoProcessor.from_pretrained(CHECKPOINT / "vlm")
    model = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT / "vlm")
    language = bundle.manifest.language
    assert language is not None
    template = language.prompt.replace("{image}", "<image>")
    # The last one is longer, so that the others are padded.
    asked = [language.caption_prompt] * 2 + ["what does the traffic light show"]
    inputs = processor(
        images=[Image.fromarray(image) for image in streets],
        text=[template.replace("{text}", text) for text in asked],
        padding=True,
        return_tensors="pt",
    )
    assert (inputs["input_ids"] == model.config.image_token_id).sum(dim=1).tolist() == [144] * 3
    written = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    said = processor.batch_decode(written, skip_special_tokens=True)
    assert [text.strip() for text in said[:2]] == captions[:2]


def test_a_chat_is_worded_as_the_bundle_words_its_prompt(bundle: ModelBundle) -> None:
    processor = AutoProcessor.from_pretrained(CHECKPOINT / "vlm")
    image, text = {"type": "image"}, {"type": "text", "text": "is it night"}
    question = {"role": "user", "content": [image, text]}
    language = bundle.manifest.language
    assert language is not None
    prompt = language.prompt.format(image="<image>", text="is it night")
    assert processor.apply_chat_template([question], add_generation_prompt=True) == prompt
    answer = [question, {"role": "assistant", "content": "yes"}]
    assert processor.apply_chat_template(answer) == f"{prompt} yes<eos>"
    for messages, sentence in (
        ([{"role": "system", "content": "be brief"}, question], "without a system message"),
        ([{"role": "user", "content": "is it night"}], "one image"),
        ([{"role": "user", "content": [image, image, text]}], "one image"),
    ):
        with pytest.raises(TemplateError, match=sentence):
            processor.apply_chat_template(messages)


@torch.no_grad()
def test_the_dual_encoder_embeds_as_the_bundle_does(
    bundle: ModelBundle, streets: list[NDArray[np.uint8]]
) -> None:
    processor = AutoProcessor.from_pretrained(CHECKPOINT / "dual")
    model = AutoModel.from_pretrained(CHECKPOINT / "dual", dtype=torch.float32)
    encoder = VisionEncoder(bundle, temporal=False)
    encoder.set_vocabulary(["a dragon", "car", "speed-limit sign"])
    labels = {spec.label: spec for spec in bundle.manifest.vocabulary.labels}
    defaults = bundle.manifest.vocabulary.templates
    for label, ours in zip(encoder.vocabulary.labels, encoder.vocabulary.embeddings, strict=True):
        templates = labels[label].templates if label in labels else defaults
        texts = [template.replace("{label}", label) for template in templates]
        inputs = processor(text=texts, images=Image.fromarray(streets[0]), return_tensors="pt")
        outputs = model(**inputs)
        mean = outputs.text_embeds.mean(dim=0)
        np.testing.assert_allclose(mean / mean.norm(), ours, atol=1e-3)
    pooled = encoder.encode(Frame(streets[0], 1), 0).pooled
    assert float(outputs.image_embeds[0].numpy() @ pooled) > 0.95, "the bundle's tower is pruned"
