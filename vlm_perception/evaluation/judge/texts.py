# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What bundles write about images, kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.evaluation.journal import Journal
from vlm_perception.evaluation.judge.sets import AskedSet, question_key
from vlm_perception.perception.language.partial_text import UNFINISHED
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

VERB = "evaluate judge"
THREADS = 2


@dataclass(frozen=True)
class Written:
    """What bundles wrote about an image."""

    image: str
    question: str
    """Empty: it was to be described."""
    language: str
    texts: tuple[str, ...]
    """One of each bundle."""

    @property
    def key(self) -> str:
        """What tells it from the others, as of Asked."""
        return question_key(self.image, self.question, self.language)

    @property
    def about(self) -> dict[str, str]:
        """What was asked, for JSON."""
        return {"image": self.image, "question": self.question, "language": self.language}


class JudgeError(VlmPerceptionError):
    """There is nothing that could be judged, or no judgement; the message says why."""


class Writer:
    """A bundle's encoder and language model, as language_reasoner runs them."""

    def __init__(self, bundle: ModelBundle) -> None:
        """Load the networks.

        Raises:
            BundleError: it has no language model, or lacks a file.
        """
        self._service = LanguageService(bundle, threads=THREADS, questions=())
        self._encoder = VisionEncoder(bundle, threads=THREADS, temporal=False)
        self._images = 0

    def check(self, questions: Sequence[str]) -> None:
        """Refuse questions that the language model cannot take.

        Raises:
            InstructionError: one is too long.
        """
        for question in questions:
            self._service.check_instruction(question)

    def write(self, image: NDArray[np.uint8], question: str) -> str:
        """Answer a question about an image as ~/describe does, or describe it.

        Args:
            image: RGB [height, width, 3].
            question: empty: the bundle's own prompt for captions.

        Raises:
            FrameError: the array is no such image.
        """
        most = self._service.settings.max_caption_tokens
        # The service tells frames apart by their numbers, and keeps what it has read of the last.
        self._images += 1
        embedding = self._encoder.encode(Frame(image, 0), self._images)
        description = self._service.asker.describe(embedding, question, max_tokens=most)
        for _ in description:
            pass
        return description.text


def load(names: Sequence[str]) -> list[ModelBundle]:
    """Bundles that differ and have language models.

    Raises:
        BundleError: one cannot be loaded.
        JudgeError: one has no language model, or two are the same.
    """
    bundles = [ModelBundle.load(name) for name in names]
    for bundle in bundles:
        if bundle.manifest.language is None:
            raise JudgeError(
                f"bundle {bundle.manifest.name} has no language model, so that it writes nothing; "
                "give one that was exported with vlm/"
            )
    if len({bundle.digest for bundle in bundles}) < len(bundles):
        raise JudgeError("--bundle and --against are the same bundle; give two that differ")
    return bundles


def write_all(bundles: Sequence[ModelBundle], chosen: AskedSet, folder: Path) -> list[Written]:
    """What the bundles write, one bundle after the other, with progress bars.

    Args:
        bundles: as `load` gives them.
        chosen: the images, and what is asked about them.
        folder: keeps the texts; what it holds is not written again.

    Raises:
        InstructionError: a question is too long for one of the bundles.
        FrameError: an image cannot be encoded.
        JudgeError: several bundles wrote the same in all cases.
    """
    by_bundle = [_write(bundle, chosen, folder) for bundle in bundles]
    written = [
        Written(
            image,
            question,
            language,
            tuple(texts[image, question, language] for texts in by_bundle),
        )
        for image, question, language in by_bundle[0]
    ]
    if len(bundles) > 1 and all(is_equal(each) for each in written):
        raise JudgeError(
            f"both bundles wrote the same about all of the {len(written)} images or questions, so "
            "that there is nothing to compare; give other bundles or images"
        )
    return written


def is_equal(written: Written) -> bool:
    """Whether several bundles wrote the same."""
    return len(written.texts) > 1 and len(set(written.texts)) == 1


def cut_notes(bundles: Sequence[ModelBundle], written: Sequence[Written]) -> list[str]:
    """How many texts of each bundle are unfinished, a sentence each."""
    counts = [
        sum(each.texts[at].endswith(UNFINISHED) for each in written) for at in range(len(bundles))
    ]
    return [
        f"{count} texts of {bundle.manifest.name} reached the limit of tokens, and are rated as "
        "they are published"
        for count, bundle in zip(counts, bundles, strict=True)
        if count
    ]


def content_digest(written: Sequence[Written]) -> str:
    """The SHA-256 of all questions and texts."""
    content = [[*each.about.values(), *each.texts] for each in written]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write(bundle: ModelBundle, chosen: AskedSet, folder: Path) -> dict[tuple[str, str, str], str]:
    """The texts by image, question and language, in the order of the set."""
    identity = {"bundle": bundle.digest, **chosen.identity}
    found: dict[tuple[str, str, str], str] = {}
    with Journal.named(folder, "texts", identity) as journal:
        writer: Writer | None = None
        name = bundle.manifest.name
        for asked in track(chosen, f"{name} writes", total=len(chosen), transient=True):
            if asked.key not in journal.items:
                if writer is None:
                    writer = Writer(bundle)
                    writer.check(chosen.questions)
                journal.add(asked.key, writer.write(asked.read(), asked.question))
            found[asked.image, asked.question, asked.language] = journal.items[asked.key]
    return found
