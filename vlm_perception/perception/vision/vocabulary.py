# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Labels as text embeddings: what the vision encoder looks for, and from which score on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.label_embeddings import own_prompts, prompts_of, read_label_embeddings
from vlm_perception.bundle.manifest import LONGEST_LABEL, MOST_LABELS, LabelSpec
from vlm_perception.bundle.site_vocabulary import read_site_vocabulary
from vlm_perception.perception.tokenizer import TextError, require_text
from vlm_perception.perception.vision.text_process import embed_apart
from vlm_perception.perception.vision.text_tower import Prompts, TextTower, VocabularyError

__all__ = ["Vocabulary", "VocabularyBuilder", "VocabularyError"]

LEAST_PROBABILITY = 1e-30
"""Log-odds are distinguished down to here: SigLIP's bias makes its probabilities this small."""


@dataclass(frozen=True)
class Vocabulary:
    """Labels with all that is needed to score an image embedding against them."""

    version: int
    labels: tuple[str, ...]
    embeddings: NDArray[np.float32]
    """[labels, D], L2-normalised."""
    thresholds: NDArray[np.float32]
    region_thresholds: NDArray[np.float32]
    scales: NDArray[np.float32]
    biases: NDArray[np.float32]
    exclusive: bool
    """Whether the probabilities of the labels add up to one (CLIP) or are independent (SigLIP)."""

    def probabilities(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability of each label for vectors in text space.

        Args:
            vectors: [N, D], L2-normalised.

        Returns:
            [N, labels].
        """
        logits = self._logits(vectors)
        if self.exclusive:
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -60.0, 60.0))), np.float32)

    def log_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds of each label, also where the probability is 0 or 1 but for rounding.

        Args:
            vectors: [N, D], L2-normalised.

        Returns:
            [N, labels].
        """
        logits = self._logits(vectors).astype(np.float64)
        if not self.exclusive:
            return logits
        # Of the likeliest label, 1 - p would round to 0: it is compared with the sum of the others.
        likeliest = np.arange(len(self.labels)) == logits.argmax(axis=1)[:, np.newaxis]
        rest = np.logaddexp.reduce(np.where(likeliest, -np.inf, logits), axis=1, keepdims=True)
        whole = np.logaddexp(rest, logits.max(axis=1, keepdims=True))
        shares = np.exp(np.where(likeliest, -np.inf, logits) - whole)
        return np.asarray(logits - np.where(likeliest, rest, whole + np.log1p(-shares)), np.float64)

    def hold(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which labels reach their thresholds, [..., labels]; one of 1 is never reached."""
        return (probabilities >= self.thresholds) & (self.thresholds < 1.0)

    def margins(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-odds by which probabilities, [..., labels], exceed the labels' thresholds."""
        margins = _log_odds(probabilities) - _log_odds(self.thresholds)
        return np.where(self.thresholds < 1.0, margins, np.float32(-np.inf))

    @property
    def region_log_odds(self) -> NDArray[np.float32]:
        """The thresholds of patches, [labels], as `log_odds` gives scores."""
        return _log_odds(self.region_thresholds)

    def _logits(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(vectors @ self.embeddings.T * self.scales + self.biases, np.float32)


class VocabularyBuilder:
    """Turns labels into a vocabulary.

    Those of the bundle were embedded when it was exported; for others the text tower is loaded in a
    process of its own, unless the newest vocabulary had them. Of a bundle without stored embeddings
    it is loaded here, and stays.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        """Read the embeddings of the bundle's labels, or compute them.

        Raises:
            BundleError: a file is missing, altered or holds something else.
            EngineError: the engine does not take the text tower.
        """
        self._bundle, self._manifest = bundle, bundle.manifest
        self._known = {spec.label: spec for spec in bundle.manifest.vocabulary.labels}
        self._rows = read_label_embeddings(bundle)
        self._newest: dict[str, NDArray[np.float32]] = {}
        self._tower: TextTower | None = None
        if not self._rows:
            self._tower = TextTower.load(bundle)
            own = own_prompts(bundle.manifest.vocabulary)
            self._rows = dict(zip(own, self._tower.embed(own), strict=True))

    def build(self, labels: Sequence[str] | None, version: int) -> Vocabulary:
        """Embed labels; a label that the bundle knows keeps its prompts and thresholds.

        Args:
            labels: what to look for; the bundle's own labels when None.
            version: the number that results will carry.

        Raises:
            VocabularyError: there are none, too many, one is empty, doubled or too long, or the
                text tower cannot be loaded.
        """
        specs = self.specs(list(self._known) if labels is None else labels)
        return self.of_rows(specs, self._embed(specs), version)

    def read(self, file: Path, version: int) -> Vocabulary:
        """Take labels from a vocabulary file, with the embeddings and thresholds that it has.

        Args:
            file: as `vlm-perception adapt classes` writes it.
            version: the number that results will carry.

        Raises:
            SiteVocabularyError: it is missing, damaged or another bundle's.
            VocabularyError: a label of it cannot be used.
        """
        site = read_site_vocabulary(file, self._bundle)
        _check_labels([spec.label for spec in site.labels])
        return self.of_rows(site.labels, site.rows, version)

    def specs(self, labels: Sequence[str]) -> list[LabelSpec]:
        """Labels without the spaces around them, with what the bundle knows of them.

        Raises:
            VocabularyError: there are none, too many, one is empty, doubled or too long.
        """
        _check_number(labels)
        names = [label.strip() for label in labels]
        _check_labels(names)
        return [self._known.get(name, LabelSpec(label=name)) for name in names]

    def of_rows(
        self, specs: Sequence[LabelSpec], embeddings: NDArray[np.float32], version: int
    ) -> Vocabulary:
        """A vocabulary of labels that are embedded already, [labels, D]."""
        defaults, text = self._manifest.vocabulary, self._manifest.text
        scales = np.array([spec.calibration_scale for spec in specs], np.float32)
        biases = np.array([spec.calibration_bias for spec in specs], np.float32)
        return Vocabulary(
            version=version,
            labels=tuple(spec.label for spec in specs),
            embeddings=embeddings,
            thresholds=np.array([_either(s.threshold, defaults.threshold) for s in specs], "f4"),
            region_thresholds=np.array(
                [_either(s.region_threshold, defaults.region_threshold) for s in specs], "f4"
            ),
            scales=np.asarray(text.logit_scale * scales, np.float32),
            biases=np.asarray(text.logit_bias * scales + biases, np.float32),
            exclusive=text.score == "softmax",
        )

    def _embed(self, specs: Sequence[LabelSpec]) -> NDArray[np.float32]:
        """[labels, D]; known labels as they were embedded before."""
        defaults, known = self._manifest.vocabulary, self._rows | self._newest
        new = {s.label: prompts_of(s, defaults) for s in specs if s.label not in known}
        rows = known | dict(zip(new, self._embed_new(new), strict=True))
        self._newest = {spec.label: rows[spec.label] for spec in specs}
        return np.stack([rows[spec.label] for spec in specs])

    def _embed_new(self, prompts: Prompts) -> Iterable[NDArray[np.float32]]:
        if not prompts:
            return ()
        tower = self._tower
        return embed_apart(self._bundle, prompts) if tower is None else tower.embed(prompts)


def _log_odds(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    inner = np.clip(probability, LEAST_PROBABILITY, 1.0 - 1e-7)
    return np.asarray(np.log(inner / (1.0 - inner)), np.float32)


def _either(value: float | None, default: float) -> float:
    return default if value is None else value


def _check_number(labels: Sequence[str]) -> None:
    if not labels:
        raise VocabularyError("a vocabulary needs at least one label")
    if len(labels) > MOST_LABELS:
        raise VocabularyError(f"{len(labels)} labels are too many; give at most {MOST_LABELS}")


def _check_labels(labels: Sequence[str]) -> None:
    seen: set[str] = set()
    for label in labels:
        if not label:
            raise VocabularyError("a label is empty; remove it")
        if len(label) > LONGEST_LABEL:
            raise VocabularyError(
                f"the label {label[:20]!r}... has {len(label)} characters; give at most "
                f"{LONGEST_LABEL}"
            )
        try:
            require_text(label)
        except TextError as error:
            raise VocabularyError(f"label {label!r}: {error}") from error
        if label in seen:
            raise VocabularyError(f"the label {label!r} is listed twice; give it once")
        seen.add(label)
