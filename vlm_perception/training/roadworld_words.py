# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The words of the road world's students: a tokenizer, the prompt, and phrases of what is true."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from vlm_perception.datasets.roadworld.truth import (
    CAPTION_PROMPT,
    QUESTIONS,
    ObjectTruth,
    SceneTruth,
    captions,
    presence_question,
)
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS

INPUT_SIZE = (320, 180)
MAX_POSITIONS = 512
"""Of `roadworld-nano`'s decoder: the image, a question and its answer."""
VOCABULARY_SIZE = 1024
IMAGE_TOKEN = "<image>"
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>", IMAGE_TOKEN)
CLIP_TOKENS = ("<pad>", "<bos>", "<unk>", "<eos>", IMAGE_TOKEN)
"""transformers reads a text of a CLIP whose end token is 2 at its highest token instead."""
PROMPT = "<bos><image>question: {text} answer:"

LABEL_TEMPLATES = (
    "{label}",
    "a photo of a {label}",
    "a street with a {label}",
    "there is a {label}",
)
SCENE_TEMPLATES = ("{label}", "a photo of {label}", "a street with {label}", "there is {label}")
ATTRIBUTE_PHRASES: dict[tuple[str, str], str] = {
    ("time_of_day", "day"): "daylight",
    ("time_of_day", "dusk"): "dusk",
    ("weather", "clear"): "clear weather",
    ("road", "straight"): "a straight road",
    ("road", "curve"): "a curved road",
    ("road", "intersection"): "an intersection",
    ("traffic_light", "none"): "no traffic light",
    ("pedestrian_in_path", "yes"): "a pedestrian in the path",
    ("lead_vehicle", "none"): "a free lane ahead",
    ("lead_vehicle", "near"): "a vehicle near ahead in the lane",
    ("lead_vehicle", "far"): "a vehicle far ahead in the lane",
    ("construction", "yes"): "a construction zone",
    ("traffic", "none"): "no traffic",
    ("traffic", "heavy"): "heavy traffic",
}


def templates(label: str) -> tuple[str, ...]:
    """Wordings around one label."""
    return LABEL_TEMPLATES if label in OBJECT_LABELS else SCENE_TEMPLATES


def _corpus() -> list[str]:
    rng = np.random.default_rng(0)
    lines = [CAPTION_PROMPT, *ATTRIBUTE_PHRASES.values()]
    lines += [PROMPT.replace("<bos><image>", "").format(text=q) for q, _ in QUESTIONS.values()]
    lines += [choice for _, choices in QUESTIONS.values() for choice in choices]
    lines += [template.format(label=label) for label in LABELS for template in templates(label)]
    lines += [presence_question(label) for label in LABELS]
    for _ in range(2000):
        chosen = [label for label in OBJECT_LABELS if rng.random() < 0.35]
        objects = tuple(
            ObjectTruth(label, (0, 0, 1, 1), 0.01, 1.0, 10.0, 0.0)
            for label in chosen
            for _ in range(int(rng.integers(1, 3)))
        )
        attributes = {name: str(rng.choice(choices)) for name, (_, choices) in QUESTIONS.items()}
        lines += captions(SceneTruth(objects, dict.fromkeys(chosen, 0.01), attributes), rng)
    return lines


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the world's captions and questions; it can spell any text."""
    return dress_tokenizer(Tokenizer.from_str(_trained_tokens(SPECIAL_TOKENS)))


def build_clip_tokenizer() -> PreTrainedTokenizerFast:
    """The same with a token at the end of each text, where CLIP reads it."""
    tokenizer = Tokenizer.from_str(_trained_tokens(CLIP_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        special_tokens=[(name, CLIP_TOKENS.index(name)) for name in ("<bos>", "<eos>")],
    )
    return dress_tokenizer(tokenizer)


@functools.cache
def _trained_tokens(special: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    written: str = tokenizer.to_str()
    return written


def dress_tokenizer(tokenizer: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    """The student's tokens as transformers uses them.

    Args:
        tokenizer: what `build_tokenizer` trains.
        options: of PreTrainedTokenizerFast, in place of these.
    """
    usual = {"model_max_length": MAX_POSITIONS, "padding_side": "right"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=[IMAGE_TOKEN],
        **usual | options,
    )
