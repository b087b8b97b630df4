# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The losses of a language model that reads a finished tower through a bridge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_perception.modeling.bridges import QFormer, SingleTokens
from vlm_perception.training.distillation.language.dialogues import (
    ANSWER,
    CAPTION,
    INSTRUCTION,
    LOCATION,
    TAUGHT_CAPTION,
    Packed,
    block_mask,
)
from vlm_perception.training.distillation.losses.true import POSITIVE_PERCENT
from vlm_perception.training.locations import TokenTable, spread_loss

# Modules of transformers carry no types.
Module = Any


class LanguageObjective(nn.Module):
    """Bridge and decoder with their losses."""

    def __init__(
        self,
        model: Module,
        before: Sequence[int],
        bridge: nn.Module | None = None,
        *,
        places: bool = True,
        shown: int = 0,
        taught: int = 0,
    ) -> None:
        """Wrap a LLaVA; its vision tower takes no part.

        Args:
            model: with a decoder of any kind.
            before: tokens before an image.
            bridge: in the place of its projector.
            places: whether its table ends with the tokens of locations.
            shown: object labels that each patch may show, for the dense loss of a Q-Former.
            taught: width of a teacher's patch embeddings, for the same.
        """
        super().__init__()
        self.bridge = bridge or SingleTokens(model.model.multi_modal_projector)
        self.decoder = model.model.language_model
        self.table: nn.Module = TokenTable(model.lm_head.weight) if places else _Tables(model)
        self.shows = self.teaches = None
        if isinstance(self.bridge, QFormer):
            read = 2 * len(self.bridge.layers) * self.bridge.queries.shape[1]
            self.shows = nn.Linear(read, shown) if shown else None
            self.teaches = nn.Linear(read, taught) if taught else None
        self._before = tuple(before)
        model.set_attn_implementation("sdpa")
        self.decoder.compile()

    def forward(
        self,
        features: Tensor,
        packed: Packed,
        index: Tensor | None = None,
        coverage: Tensor | None = None,
        patches: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses by name, one for each group of segments and for what patches show.

        Args:
            features: [B, tokens, D].
            packed: the dialogues; their positions begin after the decoder's prefix.
            index: [B, tokens], places of the features where some are missing.
            coverage: [B, tokens, labels], percent of each patch that shows a label.
            patches: [B, tokens, W], a teacher's embeddings of them, of length 1.
        """
        device = self.table_weight.device
        features, packed = features.to(device), packed.to(device)
        index = None if index is None else index.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            table = self.table()
            image, memory = self._bridged(features, index)
            begin = table[torch.tensor(self._before, device=device, dtype=torch.int64)]
            begin = begin.expand(len(features), -1, -1)
            inputs = torch.cat((begin, image.to(table.dtype), table[packed.ids]), dim=1)
            prefix = inputs.shape[1] - packed.ids.shape[1]
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
            logits = F.linear(hidden[asked], self._scores(table)).float()
        found = self._of_words(logits, packed, asked)
        if memory is not None:
            known = None if index is None else index >= 0
            found |= self._of_patches(memory, coverage, patches, known)
        return found

    @property
    def table_weight(self) -> Tensor:
        """A weight of the table of tokens."""
        return next(self.table.parameters())

    def _bridged(self, features: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.shows is None and self.teaches is None:
            embeds: Tensor = self.bridge(features, index)
            return embeds, None
        assert isinstance(self.bridge, QFormer)
        return self.bridge.read(features, index)

    def _scores(self, table: Tensor) -> Tensor:
        return self.table.scores if isinstance(self.table, _Tables) else table

    def _of_words(self, logits: Tensor, packed: Packed, asked: Tensor) -> dict[str, Tensor]:
        count, targets = len(packed.ids), packed.targets[asked]
        if isinstance(self.table, TokenTable):
            loss = spread_loss(logits, targets, self.table.first)
        else:
            loss = F.cross_entropy(logits, targets, reduction="none")
        shares = packed.shares[asked]
        taught_answers = choice_loss(-loss, packed, asked)
        # What a teacher leaves to all other tokens, the student is to leave them, too.
        others = torch.log(-torch.expm1(-loss.clamp(min=1e-4)))
        loss = shares * loss - torch.where(shares < 1, (1 - shares) * others, 0.0)
        numbers = packed.segments[asked] - 1
        rows = torch.arange(count, device=loss.device)[:, None].expand_as(packed.ids)[asked]
        chosen = packed.questions[rows, numbers] == 0
        loss = loss * packed.weights[asked] * chosen
        groups = packed.groups[asked]
        answers = (groups == ANSWER) & chosen
        return {
            "caption": loss[groups == CAPTION].sum() / count / 10,
            "taught_caption": loss[groups == TAUGHT_CAPTION].sum() / count / 10,
            "taught_answers": taught_answers,
            "answers": loss[answers].mean() if answers.any() else loss.sum() * 0.0,
            "instructions": loss[groups == INSTRUCTION].sum() / count / 10,
            "locations": loss[groups == LOCATION].sum() / count / 50,
        }

    def _of_patches(
        self,
        memory: Tensor,
        coverage: Tensor | None,
        patches: Tensor | None,
        known: Tensor | None,
    ) -> dict[str, Tensor]:
        """What keys and values of a Q-Former say of each patch; fused tokens have no place."""
        found = {}
        if self.shows is not None and coverage is not None:
            share = coverage.to(memory.device)
            sure = (share == 0) | (share >= POSITIVE_PERCENT)
            each = F.binary_cross_entropy_with_logits(
                self.shows(memory.float()), (share > 0).float(), reduction="none"
            )
            found["patches"] = (each * sure).sum() / sure.sum()
        if self.teaches is not None and patches is not None:
            said = F.normalize(self.teaches(memory.float()), dim=-1)
            apart = 1 - (said * patches.to(memory.device)).sum(dim=-1)
            found["taught_patches"] = (apart if known is None else apart[known]).mean()
        return found


class _Tables(nn.Module):
    """The tables of a decoder as they are: of what it reads, and of what it scores by."""

    def __init__(self, model: Module) -> None:
        super().__init__()
        self.read, self.head = model.get_input_embeddings(), model.lm_head

    def forward(self) -> Tensor:
        weight: Tensor = self.read.weight
        return weight

    @property
    def scores(self) -> Tensor:
        weight: Tensor = self.head.weight
        return weight


def choice_loss(log_likelihood: Tensor, packed: Packed, asked: Tensor) -> Tensor:
    """Cross-entropy of the choices' probabilities with a teacher's, the mean over typed questions.

    A choice scores as on the robot: by the mean log-likelihood of its tokens, the stop token
    included, and by the softmax over the question's choices.

    Args:
        log_likelihood: [N], of each target.
        packed: the dialogues.
        asked: [B, T], where the N targets are.
    """
    count, most = packed.questions.shape
    rows = torch.arange(count, device=asked.device)[:, None].expand_as(asked)[asked]
    place = rows * most + packed.segments[asked] - 1
    sums = log_likelihood.new_zeros(count * most).index_add(0, place, log_likelihood)
    ones = torch.ones_like(log_likelihood)
    lengths = log_likelihood.new_zeros(count * most).index_add(0, place, ones)
    means = (sums / lengths.clamp(min=1)).reshape(count, most)
    losses = []
    for number in filter(None, packed.questions.unique().tolist()):
        here = packed.questions == number
        there = here.any(dim=1)
        scores = means.masked_fill(~here, -torch.inf)[there].log_softmax(dim=1)
        truth = (packed.likely * here)[there]
        truth = truth / truth.sum(dim=1, keepdim=True)
        losses.append(-(truth * scores.masked_fill(~here[there], 0.0)).sum(dim=1))
    return torch.cat(losses).mean() if losses else log_likelihood.sum() * 0.0
