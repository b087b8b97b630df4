# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What transformers needs beside the student's weights to read images and texts by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import (
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipProcessor,
)

from vlm_perception.training.student import (
    IMAGE_TOKEN,
    INPUT_SIZE,
    PATCH,
    PROMPT,
    TEXT_LENGTH,
    dress_tokenizer,
)

_BEGIN, _REST = PROMPT.split(IMAGE_TOKEN)
_QUESTION, _END = _REST.split("{text}")
CHAT_TEMPLATE = (
    f"{{%- set begin, ask, end = '{_BEGIN}{IMAGE_TOKEN}', '{_QUESTION}', '{_END}' -%}}"
    """
{%- for message in messages -%}
{%- if message.content is string -%}
{%- set parts = [{'type': 'text', 'text': message.content}] -%}
{%- else -%}
{%- set parts = message.content -%}
{%- endif -%}
{%- set images = parts | selectattr('type', 'equalto', 'image') | list -%}
{%- if message.role not in ('user', 'assistant') -%}
{{- raise_exception('this model was trained without a system message; send none') -}}
{%- elif images | length != (1 if loop.first else 0) -%}
{{- raise_exception('this model reads one image; send it with the first question') -}}
{%- endif -%}
{%- set text = parts | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') -%}
{%- if message.role == 'assistant' -%}
{{- ' ' + text + eos_token -}}
{%- else -%}
{{- (begin if loop.first else '') + ask + text + end -}}
{%- endif -%}
{%- endfor -%}
"""
)
"""The chat that the student was trained on: an image and one question to it, no system message."""


def save_dual_processor(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write the processor of the dual encoder, which pads each text as its text tower reads it."""
    # The text tower reads all positions and knows no mask.
    text = _fresh(
        tokenizer,
        model_max_length=TEXT_LENGTH,
        padding="max_length",
        model_input_names=["input_ids"],
    )
    SiglipProcessor(_image_processor(), text).save_pretrained(directory)


def save_vlm_processor(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write the processor of the language model, which makes room for the image's tokens."""
    text = _fresh(tokenizer, padding_side="left", model_input_names=["input_ids", "attention_mask"])
    LlavaProcessor(
        _image_processor(),
        text,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(directory)


def _image_processor() -> SiglipImageProcessorPil:
    width, height = INPUT_SIZE
    return SiglipImageProcessorPil(do_resize=True, size={"width": width, "height": height})


def _fresh(tokenizer: PreTrainedTokenizerFast, **options: Any) -> PreTrainedTokenizerFast:
    """The same tokens without the padding and truncation of the calls that trained with them."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    return dress_tokenizer(backend, **options)
