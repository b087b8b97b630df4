# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Adapts learned prompts to labels by their names alone, in the bundle's own graph.

The second stage of Self-TPT (https://arxiv.org/abs/2408.05775): the contrast of the labels moves
the soft prompts; no image is seen. It needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ADAPT_GRAPH, ModelBundle
from vlm_perception.engines.base import Engine
from vlm_perception.perception.tokenizer import TextTokenizer
from vlm_perception.perception.vision.learned_prompts import LearnedPrompts, PromptsError
from vlm_perception.perception.vision.prompt_sequences import (
    END,
    PromptSequences,
    prompt_sequences,
)
from vlm_perception.perception.vision.text_tower import TextTower

Array = NDArray[np.float32]

FEWEST_CLASSES = 4
"""Of a step: half of them must still be a contrast."""
DECAYS, STEADY = (0.9, 0.999), 1e-8
"""Of Adam (https://arxiv.org/abs/1412.6980)."""


@dataclass(frozen=True)
class AdaptationSettings:
    """How prompts are adapted."""

    steps: int = 20
    rate: float = 1e-3
    classes: int = 64
    """Labels that a step looks at, at most: what memory and time of a step grow with."""
    seed: int = 0


@dataclass(frozen=True)
class Adapted:
    """What adaptation has given."""

    embeddings: Array
    """[labels, D], L2-normalised."""
    context: Array
    """[n, W], the soft prompts after it."""
    loss_before: float
    loss_after: float
    """Of the contrast, over all labels."""


class PromptAdapter:
    """A bundle's graph of adaptation with learned prompts."""

    def __init__(self, bundle: ModelBundle, prompts: LearnedPrompts, *, threads: int = 1) -> None:
        """Load the graph and compare it with its stored outputs.

        Args:
            bundle: exported with `--adapt`.
            prompts: of the same checkpoint.
            threads: of the engine.

        Raises:
            PromptsError: the bundle has no such graph, or the prompts are another checkpoint's.
            BundleError: a file is missing or altered, or the outputs are others.
            EngineError: the engine does not take the graph.
        """
        if ADAPT_GRAPH not in bundle.manifest.files:
            raise PromptsError(
                f"bundle {bundle.path} has no {ADAPT_GRAPH}; export it again with --adapt"
            )
        prompts.require_of(bundle)
        self._prompts, self._text = prompts, bundle.manifest.text
        self._tokenizer = TextTokenizer(bundle.file(self._text.tokenizer))
        self._tower = TextTower.load(bundle, threads=threads)
        self._engine: Engine = bundle.engine(ADAPT_GRAPH, threads=threads)
        bundle.verify_golden({ADAPT_GRAPH: self._engine})

    def adapt(
        self,
        labels: Sequence[str],
        settings: AdaptationSettings,
        tell: Callable[[int], None] = lambda step: None,
    ) -> Adapted:
        """Move the soft prompts so that labels differ, and embed the labels with them.

        Args:
            labels: two or more, no two alike.
            settings: how.
            tell: called with the number of steps that are done.

        Raises:
            VocabularyError: a label is too long for the text tower.
            PromptsError: there is one label only.
        """
        if len(labels) < 2:
            raise PromptsError(
                "one label has nothing to differ from; give two or more, or leave out --prompts"
            )
        laid = self._laid_out(labels)
        written = self._tower.embed(
            {
                label: [t.replace("{label}", label) for t in self._prompts.spec.templates]
                for label in labels
            }
        )
        context = self._prompts.context.copy()
        before, _ = self._look(context, laid, written, settings.classes)
        adam = _Adam(context, settings.rate)
        for step, chosen in enumerate(_batches(len(labels), settings)):
            found = self._run(context, laid.of(chosen), written[chosen])
            context = adam.moved(context, found["gradient"])
            tell(step + 1)
        after, rows = self._look(context, laid, written, settings.classes)
        return Adapted(rows, context, before, after)

    def _laid_out(self, labels: Sequence[str]) -> PromptSequences:
        length = self._engine.inputs["input_ids"].shape[2]
        return prompt_sequences(
            self._tokenizer,
            self._text,
            labels,
            len(self._prompts.context),
            whole=isinstance(length, int),
        )

    def _look(
        self, context: Array, laid: PromptSequences, written: Array, most: int
    ) -> tuple[float, Array]:
        """The contrast over all labels, and their embeddings."""
        parts = _parts(np.arange(len(written)), most)
        found = [self._run(context, laid.of(part), written[part]) for part in parts]
        sizes = [len(part) for part in parts]
        loss = np.average([float(each["loss"]) for each in found], weights=sizes)
        rows = np.concatenate([each["features"][END] for each in found])
        return float(loss), rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def _run(self, context: Array, laid: PromptSequences, written: Array) -> dict[str, Array]:
        return self._engine.run(
            {
                "context": context,
                **self._prompts.head,
                "temperature": np.array(self._prompts.spec.temperature, np.float32),
                "input_ids": laid.input_ids,
                "placement": laid.placement,
                "written": written,
            }
        )


def _batches(labels: int, settings: AdaptationSettings) -> list[NDArray[np.intp]]:
    """The labels of each step: all, or parts of them in an order that changes."""
    rng = np.random.default_rng(settings.seed)
    batches: list[NDArray[np.intp]] = []
    while len(batches) < settings.steps:
        order = np.arange(labels)
        if labels > settings.classes:
            rng.shuffle(order)
        batches += _parts(order, settings.classes)
    return batches[: settings.steps]


def _parts(order: NDArray[np.intp], most: int) -> list[NDArray[np.intp]]:
    """Parts of nearly equal sizes, none larger than `most`, none of a single label."""
    return np.array_split(order, -(-len(order) // max(most, FEWEST_CLASSES)))


class _Adam:
    """Adam's means for one array."""

    def __init__(self, array: Array, rate: float) -> None:
        self._rate, self._steps = rate, 0
        self._first = np.zeros_like(array, np.float64)
        self._second = np.zeros_like(array, np.float64)

    def moved(self, array: Array, gradient: Array) -> Array:
        """The array after one step more."""
        self._steps += 1
        self._first += (1.0 - DECAYS[0]) * (gradient - self._first)
        self._second += (1.0 - DECAYS[1]) * (gradient.astype(np.float64) ** 2 - self._second)
        first = self._first / (1.0 - DECAYS[0] ** self._steps)
        second = self._second / (1.0 - DECAYS[1] ** self._steps)
        return np.asarray(array - self._rate * first / (np.sqrt(second) + STEADY), np.float32)
