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

from vlm_perception.deploy.checkpoints.image_processor import load_any_processor
from vlm_perception.training.roadworld_words import IMAGE_TOKEN, dress_tokenizer

_CHAT = """
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


def chat_template(prompt: str) -> str:
    """The chat that a student was trained on: an image and one question to it, no system message.

    Args:
        prompt: what it was trained on, with `<image>` and `{text}`.
    """
    begin, rest = prompt.split(IMAGE_TOKEN)
    ask, end = rest.split("{text}")
    return f"{{%- set begin, ask, end = '{begin}{IMAGE_TOKEN}', '{ask}', '{end}' -%}}" + _CHAT


def save_processor(
    tokenizer: PreTrainedTokenizerFast, size: tuple[int, int], length: int, directory: Path
) -> None:
    """Write the processor of any dual encoder.

    Args:
        tokenizer: of its text tower.
        size: width and height of its images in pixels.
        length: tokens that its text tower reads.
        directory: of the checkpoint.
    """
    # The text tower reads all positions and knows no mask.
    text = _fresh(
        tokenizer,
        model_max_length=length,
        padding="max_length",
        model_input_names=["input_ids"],
    )
    SiglipProcessor(image_processor(size), text).save_pretrained(directory)


def save_reader_processor(
    dual: Path, tokenizer: PreTrainedTokenizerFast, model: Any, template: str, directory: Path
) -> None:
    """Write the processor of a language model that reads a dual encoder's tower.

    Args:
        dual: directory of the dual encoder, whose image processor it shares.
        tokenizer: of the language model.
        model: the language model, a LLaVA.
        template: of a chat.
        directory: takes the files.
    """
    # What generates goes on from the end of each text of a batch.
    tokenizer.padding_side = "left"
    LlavaProcessor(
        load_any_processor(dual),
        tokenizer,
        patch_size=model.config.vision_config.patch_size,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        num_additional_image_tokens=int(model.config.vision_config.model_type.startswith("clip")),
        chat_template=template,
    ).save_pretrained(directory)


def image_processor(size: tuple[int, int]) -> SiglipImageProcessorPil:
    """Stretches an image to a size (width, height), and scales its pixels to -1 to 1."""
    width, height = size
    return SiglipImageProcessorPil(do_resize=True, size={"width": width, "height": height})


def _fresh(tokenizer: PreTrainedTokenizerFast, **options: Any) -> PreTrainedTokenizerFast:
    """The same tokens without the padding and truncation of the calls that trained with them."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    return dress_tokenizer(backend, **options)
