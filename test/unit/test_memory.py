# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the nodes will take for a bundle, and the parameters that fit it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import LanguageSpec
from vlm_perception.bundle.memory import (
    KEPT_FRAMES_BYTES,
    PROCESS_BYTES,
    encoder_bytes,
    language_bytes,
    text_process_bytes,
)
from vlm_perception.cli import app
from vlm_perception.evaluation.bench.encoder_memory import peak_rss_mb


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.load("roadworld-nano")


def test_show_says_what_an_image_and_the_nodes_take(bundle: ModelBundle) -> None:
    shown = CliRunner().invoke(app, ["bundle", "show", "roadworld-nano"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    language = bundle.manifest.language
    assert language is not None
    assert f"{language.image_tokens} tokens of {language.max_positions}" in shown.output
    assert f"{language.kv_bytes_per_image / 1e6:.2f} MB of keys and values" in shown.output
    assert "images per prompt: 1, and more is an error" in shown.output
    assert f"vision_encoder {encoder_bytes(bundle.manifest) / 1e6:.0f} MB" in shown.output
    assert "language_reasoner" in shown.output


def test_weights_in_int8_are_held_as_they_are_and_others_twice(bundle: ModelBundle) -> None:
    manifest = bundle.manifest
    language = manifest.language
    assert language is not None
    files = manifest.files
    assert set(manifest.golden.cosine) == {"vision.onnx"}
    least = PROCESS_BYTES + files["vision.onnx"].bytes + KEPT_FRAMES_BYTES
    assert least < encoder_bytes(manifest) < least + 3e6
    assert text_process_bytes(manifest) == PROCESS_BYTES + 2 * files["text.onnx"].bytes
    assert language_bytes(manifest, language) > PROCESS_BYTES + 2 * files["decoder.onnx"].bytes


@pytest.mark.slow
def test_the_encoder_takes_no_more_than_is_said(bundle: ModelBundle) -> None:
    # That process has no ROS, and a node has.
    measured = peak_rss_mb(bundle, engine="onnxruntime", threads=1)
    assert 0.5 * measured < encoder_bytes(bundle.manifest) / 1e6


@pytest.mark.parametrize("prompt", ["{image}{image}{text}", "{image}{text}{text}", "{text}{image}"])
def test_a_prompt_takes_one_image_and_one_text(bundle: ModelBundle, prompt: str) -> None:
    language = bundle.manifest.language
    assert language is not None
    with pytest.raises(ValidationError, match="the prompt"):
        LanguageSpec.model_validate(language.model_dump() | {"prompt": prompt})
