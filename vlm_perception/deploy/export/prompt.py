# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the words of bundle.yaml around a prompt are those of the language model."""

from __future__ import annotations

import logging
import re
from typing import Any

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.bundle_yaml import CaptionSpec

# Tokenizers of transformers carry no types.
Tokenizer = Any

_TOKEN = re.compile(r"<[^<>{}\s]+>")
_SHOWN = 8

_log = logging.getLogger(__name__)


def check_template(caption: CaptionSpec, tokenizer: Tokenizer) -> None:
    """Refuse a template with a token that the language model's tokenizer does not have.

    Raises:
        ExportError: the model would read it letter by letter.
    """
    if "template" not in caption.model_fields_set:
        _log.warning(
            "bundle.yaml has no caption.template: the language model is prompted with the image "
            "and the bare text (%s), without the tokens and words that a chat model was trained "
            "with; chat_template in vlm/ shows them",
            caption.template,
        )
    known = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    names = {token.content for token in known}
    for token in _TOKEN.findall(caption.template + caption.answer_separator):
        if token not in names:
            has = ", ".join(sorted(tokenizer.all_special_tokens)[:_SHOWN])
            raise ExportError(
                f"caption in bundle.yaml contains {token}, which is not a token of vlm/'s "
                f"tokenizer: the model would read it letter by letter; its own tokens include {has}"
            )
