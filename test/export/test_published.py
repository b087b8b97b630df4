# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are read as they are published, or refused with the remedy, never half read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import make_checkpoint, make_tokenizer, set_config

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.load import load_checkpoint

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
