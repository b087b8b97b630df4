# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A prompt that bundle.yaml does not give is the one that transformers' processor makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.checkpoints import image_processor, make_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    GotOcr2ImageProcessorPil,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SmolVLMImageProcessorPil,
)
from transformers.models.smolvlm import processing_smolvlm

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.families import LANGUAGE_FAMILIES
from vlm_perception.deploy.checkpoints.views import Idefics3View, TilesWish
from vlm_perception.deploy.export.chat_template import prompt_template
from vlm_perception.perception.tokenizer import TextTokenizer

WORDS = "describe the scene"
# As published with llava-interleave-qwen and with SmolVLM.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<global-img>",
    "<img>",
    "</img>",
    "<video>",
]
# As published with InternVL, whose processor asks for them by name.
NAMES = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<image>",
    "video_token": "<video>",
}


def tokenizer() -> Any:
    """One that begins a text, as Llama's does."""
    made = make_tokenizer()
    begin = [("<bos>", made.bos_token_id)]
    made.backend_tokenizer.post_processor = TemplateProcessing("<bos> $A", special_tokens=begin)
    made.add_special_tokens({"additional_special_tokens": [*TOKENS, "<image>"]})
    return PreTrainedTokenizerFast(
        tokenizer_object=made.backend_tokenizer, bos_token="<bos>", extra_special_tokens=NAMES
    )


def processor(kind: str) -> Any:
    """As it is saved with such a model; those that read videos need torchvision for that."""
    if kind == "llava":
        return LlavaProcessor(
            image_processor("siglip"),
            tokenizer(),
            patch_size=4,
            vision_feature_select_strategy="full",
            chat_template=CHATML,
        )
    if kind == "internvl":
        fitted = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448})
        adds = LANGUAGE_FAMILIES[kind].processor
        return adds(fitted, tokenizer(), image_seq_length=9, chat_template=CHATML)
    square = {"longest_edge": 48}
    images = SmolVLMImageProcessorPil if kind == "smolvlm" else Idefics3ImageProcessorPil
    fitted = images(size=square, max_image_size=square, do_image_splitting=False)
    return Idefics3Processor(fitted, tokenizer(), image_seq_len=9, chat_template=SMOL)


def theirs(made: Any, kind: str, words: str) -> list[int]:
    """Ids of an image and a question by transformers."""
    image = {"type": "image", "image": Image.new("RGB", (96, 54))}
    chat = [{"role": "user", "content": [image, {"type": "text", "text": words}]}]
    if kind != "smolvlm":
        read = made.apply_chat_template(
            chat, tokenize=True, add_generation_prompt=True, return_dict=True
        )
        return list(read["input_ids"][0])
    text = made.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    around = processing_smolvlm._prompt_single_image(
        9, "<fake_token_around_image>", "<image>", "<global-img>"
    )
    ids: list[int] = made.tokenizer(text.replace("<image>", around))["input_ids"]
    return ids


@pytest.mark.parametrize("kind", ["llava", "smolvlm", "idefics3", "internvl"])
@pytest.mark.parametrize("place", ["chat_template.jinja", "chat_template.json", "tokenizer"])
def test_the_prompt_has_the_ids_that_transformers_gives(
    tmp_path: Path, kind: str, place: str
) -> None:
    own = processor(kind)
    for part in (own.image_processor, own.tokenizer):
        part.save_pretrained(tmp_path)
    jinja = tmp_path / "chat_template.jinja"
    jinja.write_text(own.chat_template)
    if place != jinja.name:
        template = jinja.read_text()
        jinja.unlink()
        file = tmp_path / ("tokenizer_config.json" if place == "tokenizer" else place)
        content = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps(content | {"chat_template": template}))
    read = type(tokenizer()).from_pretrained(tmp_path)
    image = read.convert_tokens_to_ids("<image>")
    adds = LANGUAGE_FAMILIES[kind].processor
    made = prompt_template(tmp_path, read, image, WORDS, adds)
    assert made is not None
    expected = theirs(own, kind, "is it wet")
    reader = TextTokenizer(tmp_path / "tokenizer.json")
    before, after = made.split("{image}")
    images = [image] * expected.count(image)
    assert len(images) > 1
    ids = reader.encode_template(before) + images + reader.encode_template(after, "is it wet")
    assert ids == expected
    assert before.startswith("<bos>")
    end = {"llava": "", "internvl": "<img>"}.get(kind, "<global-img>")
    assert before.endswith(end or "user ")


def test_what_stands_between_tiles_is_no_part_of_the_prompt(tmp_path: Path) -> None:
    """Prompt and tiles together have the ids that transformers gives for such an image."""
    own = processor("idefics3")
    own.image_processor.size = {"longest_edge": 96}
    own.image_processor.do_image_splitting = True
    own.save_pretrained(tmp_path)
    read = type(tokenizer()).from_pretrained(tmp_path)
    image = read.convert_tokens_to_ids("<image>")
    view = Idefics3View(tmp_path, TilesWish("2x2+1", (1280, 720)))
    adds = LANGUAGE_FAMILIES["idefics3"].processor
    made = prompt_template(tmp_path, read, image, WORDS, adds, view)
    assert made is not None
    before, after = made.split("{image}")
    assert before.endswith("<fake_token_around_image><row_1_col_1>")
    reader = TextTokenizer(tmp_path / "tokenizer.json")
    expected = theirs(own, "idefics3", "is it wet")
    ids = reader.encode_template(before) + view.span(read, image, expected.count(image))
    assert ids + reader.encode_template(after, "is it wet") == expected


def test_a_model_without_a_chat_template_has_none(tmp_path: Path) -> None:
    assert prompt_template(tmp_path, make_tokenizer(), 3, WORDS) is None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content'][1]['text'] }}", "no single image"),
        ("<image>{{ messages[0]['content'][1]['text'] }}<image>", "no single image"),
        ("{{ messages[0]['content'][1]['text'] }}<image>", "once after the image"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ],
)
def test_a_template_of_another_kind_is_refused(tmp_path: Path, template: str, message: str) -> None:
    made = make_tokenizer()
    made.chat_template = template
    image = made.convert_tokens_to_ids("<image>")
    with pytest.raises(ExportError, match=f"{message}.*give caption.template"):
        prompt_template(tmp_path, made, image, WORDS)
