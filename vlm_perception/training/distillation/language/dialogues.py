# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Dialogues about an image, packed so that they share its prefix.

The caption and all questions of an image are packed after one image prefix with a block mask, so
that each sees the image and itself only: just as they are answered on the robot, and at the price
of one prefix.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vlm_perception.datasets.roadworld.files.shards import RENDER_SIZE, Shard
from vlm_perception.datasets.roadworld.instructions import INSTRUCTIONS, worded
from vlm_perception.datasets.roadworld.location_phrases import Asked, ask
from vlm_perception.datasets.roadworld.truth import (
    CAPTION_PROMPT,
    QUESTIONS,
    presence_question,
)
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.perception.locating.formats.box_format import PictureBox
from vlm_perception.training.locations import FORMAT, encode
from vlm_perception.training.roadworld_words import PROMPT

CAPTION, ANSWER, INSTRUCTION, LOCATION, TAUGHT_CAPTION = range(5)
"""What a segment teaches: each has a loss of its own."""
TRUE = ("caption", "answers", "instructions", "locations")
"""Names of the first ones, which the road world's truth has."""


@dataclass(frozen=True)
class Segment:
    """One question to a scene with its answer."""

    prompt: list[int]
    answer: list[int]
    """Ends with the stop token."""
    group: int
    weight: float = 1.0
    shares: tuple[float, ...] | None = None
    """Of each token of the answer the probability that a teacher gives it; None: 1."""
    among: tuple[int, float] | None = None
    """Number of the typed question that this is a choice of, and the teacher's probability of it;
    its tokens are then no targets, but their likelihood is."""

    @property
    def length(self) -> int:
        """Tokens that the decoder reads: the stop token is only written."""
        return len(self.prompt) + len(self.answer) - 1


TYPED_QUESTIONS, PRESENCE_QUESTIONS, SCENE_INSTRUCTIONS, PLACES = 4, 2, 4, 9
"""How many of a scene's questions, of all instructions and of what can be asked for its place are
drawn for one step."""
CAPTION_WEIGHT = 0.5
NOTHING_WEIGHT = 0.1
"""Of the answer that there is no such thing: one token, against which a box can only put the share
of its likeliest coordinate, less than a tenth."""
PACKED_LENGTH = 416
"""Tokens after the image: one length for all steps, so that they share one compiled graph."""
WITHOUT_PLACES = 224
"""The same where no places are asked for and no instructions given."""
_BLOCKED = float(torch.finfo(torch.float32).min)


@dataclass(frozen=True)
class Packed:
    """Dialogues of one batch after their image prefixes."""

    ids: Tensor
    """[B, T] tokens after the image."""
    positions: Tensor
    """[B, T], each segment beginning where the prefix ends."""
    segments: Tensor
    """[B, T] number of the segment, 0 for padding."""
    targets: Tensor
    """[B, T] the token that follows where an answer is being written, else -100."""
    weights: Tensor
    """[B, T] weight of each target."""
    groups: Tensor
    """[B, T] CAPTION, ANSWER, INSTRUCTION, LOCATION or TAUGHT_CAPTION."""
    shares: Tensor
    """[B, T] probability that a teacher gives each target."""
    questions: Tensor
    """[B, S] number, from 1, of the typed question that each segment is a choice of; 0: of none."""
    likely: Tensor
    """[B, S] the teacher's probability of that choice."""

    def to(self, device: torch.device) -> Packed:
        """The same dialogues on `device`."""
        return Packed(*(getattr(self, field.name).to(device) for field in fields(self)))


class Dialogues:
    """Turns scenes into token segments; prompts are tokenized once."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        weights: Sequence[NDArray[np.float64]],
        groups: Sequence[int] = (CAPTION, ANSWER, INSTRUCTION, LOCATION),
        template: str = PROMPT,
    ) -> None:
        """Word what is asked and answered.

        Args:
            tokenizer: for prompts and answers alike.
            weights: one a choice and question of the road world.
            groups: what is taught.
            template: of a prompt, with `<image>` and, behind it, `{text}`.
        """
        self._weights, self._groups = weights, frozenset(groups)
        self._tokenizer, self._template = tokenizer, template.split("<image>")[1]
        short = self._groups <= {CAPTION, ANSWER}
        self.length = WITHOUT_PLACES if short else PACKED_LENGTH
        self._eos: int = tokenizer.eos_token_id
        self._cache: dict[str, list[int]] = {}

    def _ids(self, text: str) -> list[int]:
        if text not in self._cache:
            ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(self._cache) > 50_000:
                return ids
            self._cache[text] = ids
        return self._cache[text]

    def segment(self, question: str, answer: str, group: int, weight: float = 1.0) -> Segment:
        """Tokenize a question and its answer."""
        return Segment(self.prompt(question), self.answer(answer), group, weight)

    def prompt(self, question: str) -> list[int]:
        """Tokens between the image and an answer."""
        return self._ids(self._template.replace("{text}", question))

    def answer(self, answer: str) -> list[int]:
        """Tokens of an answer and its end."""
        return [*self._ids(" " + answer), self._eos]

    def location(self, asked: Asked) -> Segment:
        """The segment of a phrase: the boxes of what it means, or the bare end of an answer."""
        boxes = [
            PictureBox(x, y, x + width, y + height)
            for x, y, width, height in (thing.box for thing in asked.objects)
        ]
        answer = encode(self._tokenizer, FORMAT.write(boxes, asked.name, RENDER_SIZE))
        weight = 1.0 if boxes else NOTHING_WEIGHT
        prompt = self.prompt(FORMAT.prompt(asked.phrase))
        return Segment(prompt, [*answer, self._eos], LOCATION, weight)

    def scene(self, shard: Shard, index: int, rng: np.random.Generator) -> list[Segment]:
        """The caption, then some questions, instructions and phrases to be found.

        Of what is taught; where questions are, but no instructions, all typed ones are asked.
        """
        caption = self.segment(CAPTION_PROMPT, shard.captions[index][0], CAPTION, CAPTION_WEIGHT)
        segments = []
        typed = list(QUESTIONS.values())
        few = INSTRUCTION in self._groups
        for column in rng.permutation(len(typed))[: TYPED_QUESTIONS if few else None]:
            question, choices = typed[column]
            choice = shard.attributes[index, column]
            weight = self._weights[column][choice]
            segments.append(self.segment(question, choices[choice], ANSWER, weight))
        present = np.flatnonzero(shard.labels[index])
        absent = np.flatnonzero(~shard.labels[index])
        half = PRESENCE_QUESTIONS // 2
        asked = np.concatenate((rng.permutation(present)[:half], rng.permutation(absent)[:half]))
        for label in asked:
            answer = "yes" if shard.labels[index, label] else "no"
            segments.append(self.segment(presence_question(LABELS[label]), answer, ANSWER))
        for kind in rng.permutation(len(INSTRUCTIONS))[:SCENE_INSTRUCTIONS]:
            instruction = INSTRUCTIONS[kind]
            answer = instruction.answer(shard.truths[index])
            segments.append(self.segment(worded(instruction, rng), answer, INSTRUCTION))
        if LOCATION in self._groups:
            width, _ = RENDER_SIZE
            things = ask(shard.truths[index], width, rng)[:PLACES]
            segments += [self.location(one) for one in things]
        whole = [caption, *(segments[i] for i in rng.permutation(len(segments)))]
        return [segment for segment in whole if segment.group in self._groups]

    def pack(self, scenes: Sequence[list[Segment]], prefix: int) -> Packed:
        """Place segments one after another; `prefix` tokens precede them.

        What no longer fits after a long caption is left for another step: a whole segment, or all
        choices of a typed question.
        """
        shape, most = (len(scenes), self.length), max(map(len, scenes))
        ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        segments, targets = np.zeros(shape, np.int64), np.full(shape, -100, np.int64)
        weights, groups = np.zeros(shape, np.float32), np.zeros(shape, np.int64)
        shares = np.ones(shape, np.float32)
        questions = np.zeros((len(scenes), most), np.int64)
        likely = np.zeros((len(scenes), most), np.float32)
        for row, scene in enumerate(scenes):
            at = 0
            for number, segment in enumerate(_fitting(scene, self.length), start=1):
                end, first = at + segment.length, at + len(segment.prompt) - 1
                ids[row, at:end] = [*segment.prompt, *segment.answer[:-1]]
                positions[row, at:end] = np.arange(prefix, prefix + segment.length)
                segments[row, at:end] = number
                targets[row, first:end] = segment.answer
                weights[row, first:end] = segment.weight
                groups[row, first:end] = segment.group
                if segment.shares is not None:
                    shares[row, first:end] = segment.shares
                if segment.among is not None:
                    questions[row, number - 1], likely[row, number - 1] = segment.among
                at = end
        arrays = (ids, positions, segments, targets, weights, groups, shares, questions, likely)
        return Packed(*map(torch.from_numpy, arrays))


def _fitting(scene: Sequence[Segment], length: int) -> Iterator[Segment]:
    """The segments that fit into so many tokens; of a typed question all choices, or none."""
    units: dict[tuple[int, ...], list[Segment]] = defaultdict(list)
    for number, segment in enumerate(scene):
        unit = (0, number) if segment.among is None else (segment.among[0],)
        units[unit].append(segment)
    for together in units.values():
        needed = sum(segment.length for segment in together)
        if needed <= length:
            length -= needed
            yield from together


def block_mask(segments: Tensor, prefix: int) -> Tensor:
    """Additive mask [B, 1, P + T, P + T]: causal, and blind to other segments."""
    batch, length = segments.shape
    total = prefix + length
    whole = torch.cat((segments.new_zeros(batch, prefix), segments), dim=1)
    in_prefix = torch.arange(total, device=segments.device) < prefix
    same = (whole[:, :, None] == whole[:, None, :]) | in_prefix
    causal = torch.ones(total, total, dtype=torch.bool, device=segments.device).tril()
    return torch.where(same & causal, 0.0, _BLOCKED)[:, None]


def balancing_weights(shards: Sequence[Shard]) -> list[NDArray[np.float64]]:
    """For each question, weights of its choices that make a rare one count as a frequent one."""
    attributes = np.concatenate([shard.attributes for shard in shards])
    weights = []
    for column, (_, choices) in enumerate(QUESTIONS.values()):
        counts = np.bincount(attributes[:, column], minlength=len(choices))
        weights.append(len(attributes) / (len(choices) * np.maximum(counts, 1)))
    return weights
