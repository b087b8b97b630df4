# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the projector and the decoder on the features of the finished, frozen vision tower.

The caption and all questions of a scene are packed after one image prefix with a block mask, so
that each sees the image and itself only: just as they are answered on the robot, and at the price
of one prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast, SiglipModel

from vlm_perception.bundle.manifest import KeepStep
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
from vlm_perception.training.locations import FORMAT, TokenTable, encode, spread_loss
from vlm_perception.training.student import PROMPT, WIDTH
from vlm_perception.training.tower import see

CAPTION, ANSWER, INSTRUCTION, LOCATION = range(4)
"""What a segment teaches: each has a loss of its own."""


@dataclass(frozen=True)
class Segment:
    """One question to a scene with its answer."""

    prompt: list[int]
    answer: list[int]
    """Ends with the stop token."""
    group: int
    weight: float = 1.0


TYPED_QUESTIONS, PRESENCE_QUESTIONS, SCENE_INSTRUCTIONS, PLACES = 4, 2, 4, 9
"""How many of a scene's questions, of all instructions and of what can be asked for its place are
drawn for one step."""
CAPTION_WEIGHT = 0.5
NOTHING_WEIGHT = 0.1
"""Of the answer that there is no such thing: one token, against which a box can only put the share
of its likeliest coordinate, less than a tenth."""
PACKED_LENGTH = 416
"""Tokens after the image: one length for all steps, so that they share one compiled graph."""
_BLOCKED = float(torch.finfo(torch.float32).min)


@torch.no_grad()
def cache_features(
    model: SiglipModel, shards: Sequence[Shard], path: Path, keep: Sequence[KeepStep] = ()
) -> NDArray[np.float16]:
    """What LLaVA reads, [N, tokens, D], of every scene, kept at `path`."""
    if path.exists():
        stored: NDArray[np.float16] = np.load(path, mmap_mode="r")
        return stored
    tower = model.vision_model.train(False)
    chunks = [
        shard.images[i : i + 100] for shard in shards for i in range(0, len(shard.labels), 100)
    ]
    features = []
    for images in track(chunks, "Features of the vision tower"):
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
        pixels = pixels.div_(127.5).sub_(1.0).to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            seen = see(tower, pixels, keep)
        features.append(seen.features.to("cpu", torch.float16).numpy())
    partial = path.with_suffix(".partial.npy")
    np.save(partial, np.concatenate(features))
    partial.rename(path)
    result: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return result


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
    """[B, T] CAPTION, ANSWER, INSTRUCTION or LOCATION."""

    def to(self, device: torch.device) -> Packed:
        """The same dialogues on `device`."""
        return Packed(*(getattr(self, field.name).to(device) for field in fields(self)))


class Dialogues:
    """Turns scenes into token segments; prompts are tokenized once."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, weights: Sequence[NDArray[np.float64]]
    ) -> None:
        """Use `tokenizer` for prompts and answers alike, and one weight a choice and question."""
        self._weights = weights
        self._tokenizer = tokenizer
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
        prompt = PROMPT.split("<image>")[1].format(text=question)
        return Segment(self._ids(prompt), [*self._ids(" " + answer), self._eos], group, weight)

    def location(self, asked: Asked) -> Segment:
        """The segment of a phrase: the boxes of what it means, or the bare end of an answer."""
        boxes = [
            PictureBox(x, y, x + width, y + height)
            for x, y, width, height in (thing.box for thing in asked.objects)
        ]
        prompt = PROMPT.split("<image>")[1].format(text=FORMAT.prompt(asked.phrase))
        answer = encode(self._tokenizer, FORMAT.write(boxes, asked.name, RENDER_SIZE))
        weight = 1.0 if boxes else NOTHING_WEIGHT
        return Segment(self._ids(prompt), [*answer, self._eos], LOCATION, weight)

    def scene(self, shard: Shard, index: int, rng: np.random.Generator) -> list[Segment]:
        """The caption, then some questions, instructions and phrases to be found."""
        caption = self.segment(CAPTION_PROMPT, shard.captions[index][0], CAPTION, CAPTION_WEIGHT)
        segments = []
        typed = list(QUESTIONS.values())
        for column in rng.permutation(len(typed))[:TYPED_QUESTIONS]:
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
        width, _ = RENDER_SIZE
        segments += [self.location(one) for one in ask(shard.truths[index], width, rng)[:PLACES]]
        return [caption, *(segments[i] for i in rng.permutation(len(segments)))]

    def pack(self, scenes: Sequence[list[Segment]], prefix: int) -> Packed:
        """Place segments one after another; `prefix` tokens precede them.

        A question that no longer fits after a long caption is left for another step.
        """
        shape = (len(scenes), PACKED_LENGTH)
        ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        segments, targets = np.zeros(shape, np.int64), np.full(shape, -100, np.int64)
        weights, groups = np.zeros(shape, np.float32), np.zeros(shape, np.int64)
        for row, scene in enumerate(scenes):
            at = 0
            for number, segment in enumerate(scene, start=1):
                tokens = [*segment.prompt, *segment.answer[:-1]]
                end, first = at + len(tokens), at + len(segment.prompt) - 1
                if end > PACKED_LENGTH:
                    break
                ids[row, at:end] = tokens
                positions[row, at:end] = np.arange(prefix, prefix + len(tokens))
                segments[row, at:end] = number
                targets[row, first:end] = segment.answer
                weights[row, first:end] = segment.weight
                groups[row, first:end] = segment.group
                at = end
        arrays = (ids, positions, segments, targets, weights, groups)
        return Packed(*map(torch.from_numpy, arrays))


def block_mask(segments: Tensor, prefix: int) -> Tensor:
    """Additive mask [B, 1, P + T, P + T]: causal, and blind to other segments."""
    batch, length = segments.shape
    total = prefix + length
    whole = torch.cat((segments.new_zeros(batch, prefix), segments), dim=1)
    in_prefix = torch.arange(total, device=segments.device) < prefix
    same = (whole[:, :, None] == whole[:, None, :]) | in_prefix
    causal = torch.ones(total, total, dtype=torch.bool, device=segments.device).tril()
    return torch.where(same & causal, 0.0, _BLOCKED)[:, None]


class LanguageObjective(nn.Module):
    """Projector and decoder with their losses."""

    def __init__(self, model: LlavaForConditionalGeneration, bos: int) -> None:
        """Wrap `model`; its vision tower takes no part."""
        super().__init__()
        self.projector = model.model.multi_modal_projector
        self.decoder = model.model.language_model
        self.table = TokenTable(model.lm_head.weight)
        self._bos = bos
        model.set_attn_implementation("sdpa")
        self.decoder.compile()

    def forward(self, features: Tensor, packed: Packed) -> dict[str, Tensor]:
        """Losses by name from features [B, tokens, D], one for each group of segments."""
        prefix = features.shape[1] + 1
        device = self.table.words.device
        features, packed = features.to(device), packed.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            table = self.table()
            bos = table[self._bos].expand(len(features), 1, -1)
            image = self.projector(features)
            inputs = torch.cat((bos, image.to(bos.dtype), table[packed.ids]), dim=1)
            places = torch.cat(
                (torch.arange(prefix, device=device).expand(len(features), -1), packed.positions), 1
            )
            hidden = self.decoder(
                inputs_embeds=inputs,
                attention_mask=block_mask(packed.segments, prefix),
                position_ids=places,
                use_cache=False,
            ).last_hidden_state[:, prefix:]
            asked = packed.targets >= 0
            logits = F.linear(hidden[asked], table).float()
        loss = spread_loss(logits, packed.targets[asked], self.table.first)
        loss = loss * packed.weights[asked]
        groups = packed.groups[asked]
        return {
            "caption": loss[groups == CAPTION].sum() / len(features) / 10,
            "answers": loss[groups == ANSWER].mean(),
            "instructions": loss[groups == INSTRUCTION].sum() / len(features) / 10,
            "locations": loss[groups == LOCATION].sum() / len(features) / 50,
        }


def balancing_weights(shards: Sequence[Shard]) -> list[NDArray[np.float64]]:
    """For each question, weights of its choices that make a rare one count as a frequent one."""
    attributes = np.concatenate([shard.attributes for shard in shards])
    weights = []
    for column, (_, choices) in enumerate(QUESTIONS.values()):
        counts = np.bincount(attributes[:, column], minlength=len(choices))
        weights.append(len(attributes) / (len(choices) * np.maximum(counts, 1)))
    return weights


class FeatureScenes:
    """Shards beside the cached features of their scenes."""

    def __init__(
        self,
        shards: Sequence[Shard],
        features: NDArray[np.float16],
        tokenizer: PreTrainedTokenizerFast,
    ) -> None:
        """Pair scene i of the concatenated shards with `features[i]`."""
        self._features = features
        self._places = [(s, i) for s in shards for i in range(len(s.labels))]
        self._dialogues = Dialogues(tokenizer, balancing_weights(shards))

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self._places)

    def _scene(self, index: int, rng: np.random.Generator) -> list[Segment]:
        shard, place = self._places[index]
        return self._dialogues.scene(shard, place, rng)

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Packed]:
        """Features [B, tokens, D] and packed dialogues."""
        scenes = [self._scene(i, rng) for i in indices]
        features = torch.from_numpy(np.stack([self._features[i] for i in indices])).float()
        assert features.shape[-1] == WIDTH
        return features, self._dialogues.pack(scenes, features.shape[1] + 1)
