# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The prompt that a chat model was trained to answer to, from the chat template beside it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.views import View

TEMPLATE_FILE = "chat_template.json"
"""Where processors kept it before chat_template.jinja, which tokenizers read themselves."""

_REMEDY = "give caption.template in bundle.yaml"

# Tokenizers and processors of transformers carry no types.
Model = Any


def prompt_template(
    directory: Path,
    tokenizer: Model,
    image: int,
    words: str,
    processor: Model = None,
    view: View | None = None,
) -> str | None:
    """The text around one image and one question, with `{image}` and `{text}` in their places.

    What surrounds the image is taken from the ids that a processor makes for one: some add tokens
    in code that no template shows.

    Args:
        directory: the language model's.
        tokenizer: its own.
        image: id of an image token.
        words: a question as it may be asked; it takes part in the template.
        processor: transformers' class, where it adds tokens around an image.
        view: how the model's own tower sees an image; what stands between tiles is no part of the
            prompt.

    Returns:
        None where the model has no chat template.

    Raises:
        ExportError: the template makes no prompt with one image before one text.
    """
    template = _chat_template(directory, tokenizer)
    if template is None:
        return None
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}]
    try:
        text: str = tokenizer.apply_chat_template(
            chat, chat_template=template, tokenize=False, add_generation_prompt=True
        )
    # Templates are programs, and raise what they like.
    except Exception as error:
        raise ExportError(
            f"the chat template of {directory} takes no image with a text ({error}); {_REMEDY}"
        ) from error
    ids = _ids(directory, tokenizer, text, processor, view)
    places = [place for place, index in enumerate(ids) if index == image]
    tiled = view is not None and view.tiles is not None
    if not places or not (tiled or places == list(range(places[0], places[-1] + 1))):
        raise ExportError(f"the chat template of {directory} shows no single image; {_REMEDY}")
    around = (ids[: places[0]], ids[places[-1] + 1 :])
    before, after = (_text(tokenizer, each) for each in around)
    if words in before or after.count(words) != 1:
        raise ExportError(
            f"the chat template of {directory} does not put the text once after the image; "
            f"{_REMEDY}"
        )
    # As the robot will encode them: apart from each other.
    if tuple(_encoded(tokenizer, each) for each in (before, after)) != around:
        raise ExportError(
            f"the tokenizer of {directory} does not give the prompt of its chat template back; "
            f"{_REMEDY}"
        )
    return f"{before}{{image}}{after.replace(words, '{text}')}"


def _chat_template(directory: Path, tokenizer: Model) -> str | None:
    if tokenizer.chat_template is not None:
        template: str = tokenizer.get_chat_template()
        return template
    file = directory / TEMPLATE_FILE
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["chat_template"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{file} holds no chat template ({error}); restore it") from error


def _ids(
    directory: Path, tokenizer: Model, text: str, processor: Model, view: View | None
) -> list[int]:
    """Ids of a prompt with one image, which is tiled only as the view says."""
    # As transformers decides it: many templates begin with what a tokenizer would add.
    framed = not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
    if processor is None:
        return _encoded(tokenizer, text, framed=framed)
    try:
        if view is not None:
            fit, size = copy.deepcopy(view.processor), view.camera
            fit.do_image_splitting = view.tiles is not None
        else:
            size = (64, 64)
            fit = AutoImageProcessor.from_pretrained(
                directory, backend="pil", local_files_only=True
            )
            fit.do_image_splitting = False
        # It adds tokens to the tokenizer that it is given.
        whole = processor(fit, copy.deepcopy(tokenizer))
        made = whole(text=[text], images=[[Image.new("RGB", size)]], add_special_tokens=framed)
    # transformers raises many kinds here.
    except Exception as error:
        raise ExportError(
            f"the processor of {directory} makes no prompt ({error}); {_REMEDY}"
        ) from error
    ids: list[int] = list(made["input_ids"][0])
    return ids


def _encoded(tokenizer: Model, text: str, *, framed: bool = False) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=framed)["input_ids"]
    return ids


def _text(tokenizer: Model, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
