# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are read as they are published, or refused with the remedy, never half read."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import make_checkpoint, make_tokenizer, set_config, write_spec

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.load import load_checkpoint
from vlm_perception.deploy.export.export import export_bundle

Change = Callable[[Path], None]


def test_a_clip_of_openai_names_the_end_token_that_its_texts_are_read_at(
    clip_checkpoint: Path, tmp_path: Path
) -> None:
    """All of them say eos_token_id 2; those that transformers writes today say the true one."""
    config = json.loads((clip_checkpoint / "dual/config.json").read_text())
    assert config["text_config"]["eos_token_id"] == 2
    source = load_checkpoint(clip_checkpoint, "same")
    end = source.dual_tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert source.dual.config.text_config.eos_token_id == end == len(source.dual_tokenizer) - 1
    today = shutil.copytree(clip_checkpoint, tmp_path / "today")
    set_config(today / "dual/config.json", text_config__eos_token_id=end)
    assert load_checkpoint(today, "same").dual.config.text_config.eos_token_id == end


def test_a_clip_whose_end_is_not_the_highest_id_is_refused(tmp_path: Path) -> None:
    """The test's own tokenizer ends texts with 2, and transformers would read them anywhere."""
    tokenizer = make_tokenizer()
    make_checkpoint(tmp_path, family="clip", language=None, dual_tokenizer=tokenizer)
    with pytest.raises(ExportError, match=r"at its highest id, .* ends a text with 2; take the"):
        load_checkpoint(tmp_path, "same")


def test_a_template_with_a_token_that_the_tokenizer_lacks_is_refused(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    """LLaVA's begins with `<s>`, which is three letters to SmolVLM."""
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "template")
    for caption, token in (
        ({"template": "<s>USER: {image}\n{text} ASSISTANT:"}, "<s>"),
        ({"template": "<bos>{image}{text}<|im_end|>"}, r"<\|im_end\|>"),
        ({"template": "<bos>{image}{text}", "answer_separator": "</s>"}, "</s>"),
    ):
        write_spec(checkpoint, caption=caption)
        message = rf"caption in bundle.yaml holds {token}, .* among its own are .*<bos>"
        with pytest.raises(ExportError, match=message):
            export_bundle(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["template"]


def test_a_language_model_without_a_template_is_told_of_once(
    siglip_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "bare")
    with caplog.at_level(logging.WARNING):
        export_bundle(checkpoint, tmp_path / "worded")
    assert "caption.template" not in caplog.text
    write_spec(checkpoint, caption={"prompt": "what is there"})
    with caplog.at_level(logging.WARNING):
        export_bundle(checkpoint, tmp_path / "out")
    assert caplog.text.count("has no caption.template: the language model is prompted") == 1
