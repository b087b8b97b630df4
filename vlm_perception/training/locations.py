# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The location tokens with which the student writes boxes, as PaliGemma does.

A coordinate is one of 1024 tokens and classified like any word (Chen et al., Pix2Seq,
https://arxiv.org/abs/2109.10852). Unlike words, neighbouring tokens mean nearly the same. Both
places where a token stands for its bin say so: its embedding is a smooth function of the bin, and
the target is spread over the neighbours. So each box teaches all of its surroundings.
"""

from __future__ import annotations

import json
import re

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from vlm_perception.perception.locating.formats.paligemma import PaliGemmaTokens
from vlm_perception.training.roadworld_words import dress_tokenizer

FORMAT = PaliGemmaTokens()
BINS = 1024
SPREAD = 5.0
"""Standard deviation of a coordinate's target in bins: 1.6 pixels across and 0.9 down."""
KNOTS = 64
"""Bumps that the embeddings are made of, 16 bins apart."""
_FREQUENCIES = (0.5, 24.0)
"""Of the embeddings that training begins with, in half turns over all bins."""


_TOKEN = "<loc{:04d}>"
LOCATIONS = frozenset(_TOKEN.format(i) for i in range(BINS))
"""All tokens of locations."""


def with_locations(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The student's tokens, then a token for each location.

    They belong to the vocabulary, but no merge leads to them: the model writes them, while a
    user's `<loc0001>` stays nine characters.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    words |= {_TOKEN.format(i): len(words) + i for i in range(BINS)}
    return dress_tokenizer(Tokenizer.from_str(json.dumps(state)))


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of an answer, in which a location is one token."""
    ids: list[int] = []
    first = len(tokenizer) - BINS
    for index, piece in enumerate(re.split(r"<loc(\d{4})>", text)):
        if index % 2:
            ids.append(first + int(piece))
        elif piece:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids


def smooth_basis() -> Tensor:
    """[BINS, KNOTS] weights of Gaussian bumps at equal distances; each row sums to 1."""
    knots = torch.linspace(0, BINS - 1, KNOTS)
    away = (torch.arange(BINS)[:, None] - knots) / (BINS / KNOTS)
    return torch.softmax(-away.square() / 2, dim=1)


class TokenTable(nn.Module):
    """Embeddings of the words, and of the locations as a smooth function of their bin."""

    basis: Tensor

    def __init__(self, table: Tensor) -> None:
        """Begin with the table [W + BINS, D] of a model that `grow` has given room."""
        super().__init__()
        self.register_buffer("basis", smooth_basis(), persistent=False)
        table = table.detach().float()
        self.words = nn.Parameter(table[:-BINS].clone())
        self.bumps = nn.Parameter(torch.linalg.lstsq(self.basis, table[-BINS:]).solution)

    def forward(self) -> Tensor:
        """[W + BINS, D], the words first."""
        return torch.cat((self.words, self.basis @ self.bumps))

    @property
    def first(self) -> int:
        """Id of the first location."""
        return len(self.words)


def _waves(width: int) -> Tensor:
    """[KNOTS, width], waves of all lengths over the bins, with a standard deviation of 1."""
    rng = np.random.default_rng(0)
    low, high = np.log(_FREQUENCIES)
    turns = np.exp(rng.uniform(low, high, width))
    waves = np.cos(np.pi * (np.linspace(0, 1, KNOTS)[:, None] * turns + rng.uniform(0, 2, width)))
    return torch.from_numpy(waves * 2**0.5).float()


def grow(model: LlavaForConditionalGeneration, size: int) -> None:
    """Make room for `size` tokens in a model that may have BINS fewer; the old ids stay."""
    words = model.lm_head.weight.detach()
    if len(words) < size:
        places = smooth_basis() @ _waves(words.shape[1]) * words.std()
        model.resize_token_embeddings(size, mean_resizing=False)
        store(model, torch.cat((words, places)))


@torch.no_grad()
def store(model: LlavaForConditionalGeneration, table: Tensor) -> None:
    """Put a finished table [tokens, D] into the model, whose head is tied to it."""
    model.lm_head.weight.copy_(table)


def spread_loss(logits: Tensor, targets: Tensor, first: int) -> Tensor:
    """Loss [N] of logits [N, tokens] with targets [N].

    The target of a location is spread over its neighbours, and what counts is the divergence from
    that; a word has its cross-entropy.
    """
    loss = F.cross_entropy(logits, targets, reduction="none")
    places = targets >= first
    if not places.any():
        return loss
    bins = torch.arange(BINS, device=logits.device)
    away = (bins - (targets[places] - first)[:, None]) / SPREAD
    spread = torch.softmax(-away.square() / 2, dim=1)
    log_likelihood = F.log_softmax(logits[places], dim=1)[:, first:]
    divergence = F.kl_div(log_likelihood, spread, reduction="none").sum(dim=1)
    return loss.masked_scatter(places, divergence)
