# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Asks for captions, each answer once: what was answered is in the journal."""

from __future__ import annotations

import hashlib
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm_perception.common.errors import RunError
from vlm_perception.curation.captioning.of_bundle import BundleWriter
from vlm_perception.curation.captioning.of_endpoint import EndpointWriter
from vlm_perception.curation.captioning.writer import Answer, NoAnswerError, Writer
from vlm_perception.curation.image_files import decode, read_file
from vlm_perception.curation.journal import Journal
from vlm_perception.curation.recipe import (
    BundleCaptioner,
    Captions,
    CurationError,
    EndpointCaptioner,
    path_or_name,
)
from vlm_perception.curation.tasks import Record
from vlm_perception.curation.with_torch import import_with_torch
from vlm_perception.media.image_errors import ImageError
from vlm_perception.perception.language.token_sampling import GREEDY, Sampling

TEMPERATURE, TOP_P = 0.7, 0.9
"""Of the second attempt and later ones: greedily, the answer would be the same."""
BACKOFF_S, LONGEST_PAUSE_S = 0.25, 60.0
"""Before the same is asked again, doubled each time; and however long a server asks for."""
FAILURES = 100
"""Images in a row without an answer, after which the captioner is taken to be down."""

UNREADABLE = "the image cannot be read"


class CaptionerDownError(RunError):
    """The captioner does not answer; the run can go on later."""


@dataclass(frozen=True)
class Caption:
    """A caption that can be used."""

    text: str
    language: str
    by: str
    attempt: int

    def record(self) -> Record:
        """As the lists of a stage have it."""
        return {"text": self.text, "language": self.language, "by": self.by}


@dataclass(frozen=True)
class Failure:
    """Why an attempt gave no caption."""

    language: str
    attempt: int
    kind: str
    """In a few words, the same for all of its kind."""
    reason: str
    answer: str | None = None
    """The answer that cannot be used; None: none came."""
    again: bool = False
    """Whether the same may be asked again."""
    absent: bool = False
    """Whether no captioner was there: this says nothing about the image."""
    wait_s: float = 0.0

    @property
    def unanswered(self) -> bool:
        """Whether a captioner that works may answer: it could be asked, and no answer came."""
        return self.answer is None and self.kind != UNREADABLE

    def record(self) -> Record:
        """As the lists of a stage have it."""
        came = {"error": self.reason} if self.answer is None else {"text": self.answer}
        return {"language": self.language, "attempt": self.attempt, "fault": self.kind, **came}


class Captioner:
    """A writer of captions with its journal; thread-safe."""

    def __init__(self, writer: Writer, captions: Captions, folder: Path) -> None:
        """Take a writer.

        Raises:
            CurationError: there is no prompt for a language, or the writer cannot read it.
        """
        self._writer, self._captions, self._folder = writer, captions, folder
        self._journal = Journal(folder)
        self._prompts = {tag: self._prompt(tag) for tag in captions.languages}
        for prompt in self._prompts.values():
            writer.check(prompt)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._in_a_row = 0

    @property
    def by(self) -> str:
        """The model's name in records."""
        return self._writer.by

    @property
    def slots(self) -> int:
        """Images at once."""
        return self._writer.slots

    def attempts(
        self, record: Record, language: str, first: int = 1
    ) -> Iterator[Caption | Failure]:
        """Ask for captions until the tries are used up: what was answered before, or is now.

        The first attempt is decoded greedily; each further one is sampled, with a seed of its own.
        An attempt is over with its answer, so that neither errors nor interruptions change what is
        asked. One without is made again after a while, up to as many times for all attempts as
        there are tries.

        Args:
            record: of an image.
            language: one of the recipe's.
            first: attempt, from 1.

        Raises:
            CurationError: none can come before the recipe, the key or the server is corrected.
            CaptionerDownError: too many images in a row got no answer.
            OSError: the journal cannot be written.
        """
        attempt, unanswered = first, 0
        while attempt <= self._captions.tries:
            came = self._once(record, language, attempt)
            yield came
            if isinstance(came, Caption) or came.answer is not None:
                attempt += 1
                continue
            unanswered += 1
            if not came.again or unanswered == self._captions.tries:
                self._note_failure(came)
                return
            self._pause(unanswered, came)
            if self._stopped.is_set():
                return

    def try_caption(self, record: Record, language: str) -> Caption | list[Failure]:
        """Ask until there is a caption that can be used, or `attempts` ends.

        Raises:
            CurationError, CaptionerDownError, OSError: as `attempts`.
        """
        failures: list[Failure] = []
        for came in self.attempts(record, language):
            if isinstance(came, Caption):
                return came
            failures.append(came)
        return failures

    def _once(self, record: Record, language: str, attempt: int) -> Caption | Failure:
        request = self._request(language, attempt)
        known = self._journal.known(record["sha256"], request)
        if known is None:
            try:
                image = decode(read_file(self._folder / record["file"]))
                sampling = _sampling(record["sha256"], language, attempt)
                answer = self._writer.write(image, self._prompts[language], sampling)
            except (NoAnswerError, ImageError) as error:
                return _failure(error, language, attempt)
            known = self._journal.add(
                record["sha256"], request, {"text": answer.text, "ended": answer.ended}
            )
            self._note("")
        return self._judged(Answer(known["text"], known["ended"]), language, attempt)

    def begin(self) -> None:
        """Ask again after `interrupt`."""
        self._stopped.clear()

    def interrupt(self) -> None:
        """End what is being asked, and ask no more until `begin`."""
        self._stopped.set()
        self._writer.interrupt()
        with self._lock:
            self._in_a_row = 0

    def _pause(self, asked: int, failure: Failure) -> None:
        """Wait before the same is asked again, which was asked so many times."""
        wait_s = min(failure.wait_s, LONGEST_PAUSE_S)
        self._stopped.wait(max(BACKOFF_S * 2 ** (asked - 1), wait_s))

    def _note_failure(self, failure: Failure) -> None:
        if failure.unanswered and not self._stopped.is_set():
            self._note(failure.reason)

    def _note(self, failure: str) -> None:
        """Count images in a row without an answer.

        Raises:
            CaptionerDownError: there are too many.
        """
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if failure else 0
            if self._in_a_row < FAILURES:
                return
            # Of the next run in this process.
            self._in_a_row = 0
        raise CaptionerDownError(
            f"{FAILURES} images in a row got no answer ({failure}); run again when the captioner "
            "answers: what it has answered is kept"
        )

    def _prompt(self, language: str) -> str:
        prompts = {tag.lower(): text for tag, text in self._captions.prompts.items()}
        given = prompts.get(language.lower())
        if given is None and language.lower().split("-")[0] == "en":
            given = self._writer.english
        if given is None:
            raise CurationError(
                f"captions.languages has {language}, and nothing says how to ask for a caption in "
                f"it; add captions.prompts: {{{language}: ...}}, in that language"
            )
        return given

    def _request(self, language: str, attempt: int) -> dict[str, Any]:
        return {
            "what": "caption",
            "by": self._writer.by,
            **self._writer.settings,
            "language": language,
            "prompt": self._prompts[language],
            "max_tokens": self._captions.max_tokens,
            "attempt": attempt,
        }

    def _judged(self, answer: Answer, language: str, attempt: int) -> Caption | Failure:
        text = " ".join(answer.text.split())
        fault = _fault(text, answer.ended)
        if fault:
            return Failure(language, attempt, fault, fault, answer.text)
        return Caption(text, language, self._writer.by, attempt)


def open_captioner(captions: Captions, folder: Path) -> Captioner | None:
    """The captioner of a recipe, which a process opens once; None: the recipe names none.

    Args:
        captions: of the recipe.
        folder: of the whole set.

    Raises:
        CurationError: it cannot be used, or cannot write a language of the recipe.
        BundleError: the bundle cannot be used.
        ExportError: the checkpoint cannot be used.
    """
    if captions.captioner is None:
        return None
    return _opened(captions.model_dump_json(), folder.resolve())


@lru_cache(1)
def _opened(captions_json: str, folder: Path) -> Captioner:
    captions = Captions.model_validate_json(captions_json)
    spec = captions.captioner
    assert spec is not None
    if isinstance(spec, EndpointCaptioner):
        return Captioner(EndpointWriter(spec, folder, captions.max_tokens), captions, folder)
    name = path_or_name(folder, spec.path)
    if isinstance(spec, BundleCaptioner):
        return Captioner(BundleWriter(name, captions.max_tokens), captions, folder)
    module = import_with_torch(
        "vlm_perception.curation.captioning.of_checkpoint",
        "a captioner of kind checkpoint",
        "name a bundle or an endpoint",
    )
    return Captioner(module.CheckpointWriter(name, captions.max_tokens), captions, folder)


def _sampling(sha256: str, language: str, attempt: int) -> Sampling:
    if attempt == 1:
        return GREEDY
    digest = hashlib.sha256(f"{sha256} {language} {attempt}".encode()).digest()
    return Sampling(TEMPERATURE, TOP_P, int.from_bytes(digest[:4], "big") >> 1)


def _fault(text: str, ended: bool) -> str:
    """Why an answer is no caption; only what can be decided exactly."""
    if not text:
        return "the answer is empty"
    if any(each == "\ufffd" or unicodedata.category(each) in ("Cc", "Cs") for each in text):
        return "the answer is no plain text"
    if not any(unicodedata.category(each)[0] in "LN" for each in text):
        return "the answer has no letter or digit"
    return "" if ended else "the answer was cut off at max_tokens"


def _failure(error: NoAnswerError | ImageError, language: str, attempt: int) -> Failure:
    if isinstance(error, ImageError):
        return Failure(language, attempt, UNREADABLE, str(error))
    return Failure(
        language,
        attempt,
        error.kind,
        str(error),
        again=error.again,
        absent=error.absent,
        wait_s=error.wait_s,
    )
