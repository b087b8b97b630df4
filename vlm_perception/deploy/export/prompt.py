# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How the language model is prompted, and whether those words are its own."""

from __future__ import annotations

import logging
import re
from typing import Any

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.bundle_yaml import CaptionSpec
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.deploy.export.chat_template import prompt_template

# Tokenizers of transformers carry no types.
Tokenizer = Any

_TOKEN = re.compile(r"<[^<>{}\s]+>")
_SHOWN = 8

_log = logging.getLogger(__name__)


def choose_prompt(caption: CaptionSpec, source: Checkpoint) -> CaptionSpec:
    """How the language model is prompted: as bundle.yaml says, else as its own chat template does.

    Raises:
        ExportError: bundle.yaml names a token that the model would read letter by letter, or the
            chat template makes no prompt of an image and a text.
    """
    if "template" in caption.model_fields_set:
        _check_template(caption, source.vlm_tokenizer)
        return caption
    assert source.vlm is not None
    assert source.vlm_family is not None
    found = prompt_template(
        source.path / "vlm",
        source.vlm_tokenizer,
        source.vlm.config.image_token_id,
        caption.prompt,
        source.vlm_family.processor,
        source.view,
    )
    if found is None:
        _log.warning(
            "bundle.yaml has no caption.template and vlm/ no chat template: the language model is "
            "prompted with the image and the bare text (%s), without the tokens and words that a "
            "chat model was trained with",
            caption.template,
        )
        return caption
    _log.info("the prompt is that of vlm/'s chat template: %r", found)
    changes = {"template": found}
    if found[-1].isspace() and "answer_separator" not in caption.model_fields_set:
        changes["answer_separator"] = ""
    return caption.model_copy(update=changes)


def _check_template(caption: CaptionSpec, tokenizer: Tokenizer) -> None:
    """Refuse a template with a token that the language model's tokenizer does not have."""
    known = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    names = {token.content for token in known}
    for token in _TOKEN.findall(caption.template + caption.answer_separator):
        if token not in names:
            has = ", ".join(sorted(tokenizer.all_special_tokens)[:_SHOWN])
            raise ExportError(
                f"caption in bundle.yaml contains {token}, which is not a token of vlm/'s "
                f"tokenizer: the model would read it letter by letter; its own tokens include {has}"
            )
