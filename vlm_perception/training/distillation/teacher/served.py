# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A vision-language model on an OpenAI-compatible server as a teacher.

It is asked as the language node asks one: `ServedModel` finds out what the server can do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.errors import RunError
from vlm_perception.perception.language.served.letters import answered
from vlm_perception.perception.language.served.model import ServedModel, Shown
from vlm_perception.perception.language.served.settings import SERVED, ServedSettings
from vlm_perception.perception.served.completions import TokenLogprobs
from vlm_perception.perception.served.connection import Connection
from vlm_perception.perception.served.errors import LASTING, Fault, ServedError
from vlm_perception.training.distillation.recipe import DistillationError, EndpointLanguage
from vlm_perception.training.distillation.teacher.language import MOST_TOKENS, Words

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Before the same is asked again; then the server is taken to be gone."""
LONGEST_PAUSE_S = 60.0
"""However long a server asks for."""
FOR_GOOD = LASTING - {Fault.RATE} | {Fault.MISSING, Fault.CLOSED}
"""To ask again makes no sense."""


class TeacherGoneError(RunError):
    """The server does not answer; the run can go on later."""


class ServedTeacher:
    """See `Speaker`; for any thread."""

    def __init__(
        self, spec: EndpointLanguage, home: Path, prompt: str, questions: Sequence[QuestionSpec]
    ) -> None:
        """Find out what the server can do.

        Args:
            spec: of the recipe.
            home: folder of the recipe.
            prompt: asks for a caption.
            questions: the typed questions.

        Raises:
            EndpointError: the address is malformed or not allowed, or the key cannot be used.
            ServedError: the server does not answer, or has another model.
            PromptError: a question has too many choices for a server.
        """
        settings = ServedSettings(
            language=SERVED,
            endpoint=spec.endpoint,
            model=spec.model,
            allow_remote=spec.allow_remote,
            allow_plain_http=spec.allow_plain_http,
            key_file=str(home / Path(spec.key_file).expanduser()) if spec.key_file else "",
            served_image_size=spec.image_size,
            served_deadline=spec.timeout_s,
            slots=spec.slots,
        )
        self.by = f"{spec.model}, images of at most {spec.image_size} pixels"
        self.slots = spec.slots
        self._prompt, self._questions = prompt, tuple(questions)
        self._model = ServedModel(
            Connection(settings.checked_endpoint(), slots=spec.slots), settings
        )
        try:
            self._packed = self._model.pack(self._questions)
            self._model.find_abilities()
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        self._model.close()

    def look(self, picture: NDArray[np.uint8]) -> Words:
        """What it says of a picture, RGB [H, W, 3].

        Raises:
            TeacherGoneError: it did not answer for a while.
            DistillationError: it refuses the picture.
            ServedError: it cannot answer before the recipe or the server is corrected.
        """
        shown = self._model.show(picture)
        for pause_s in PAUSES_S:
            try:
                return self._ask(shown)
            except ServedError as error:
                if error.fault is Fault.REQUEST:
                    raise DistillationError(str(error)) from error
                if error.fault in FOR_GOOD:
                    raise
                last = error
                time.sleep(max(pause_s, min(error.wait_s or 0.0, LONGEST_PAUSE_S)))
        raise TeacherGoneError(
            f"{last}; what the teacher has said is kept, and the same command goes on from there"
        ) from last

    def _ask(self, shown: Shown) -> Words:
        caption, ended = "", False
        tokens: list[TokenLogprobs] = []
        written = self._model.write(
            shown, self._prompt, max_tokens=MOST_TOKENS, wait_s=self._model.deadline_s
        )
        with closing(written) as pieces:
            for piece in pieces:
                caption, ended = piece.text, piece.stops
                tokens += piece.tokens
        texts, likely = _tokens(tokens, caption, ended)
        return Words(caption, ended, texts, likely, self._answers(shown))

    def _answers(self, shown: Shown) -> dict[str, tuple[float, ...]]:
        """By letters where the server gives log-probabilities; else an answer is all that it says.

        A probability is then 1 or 0.
        """
        if self._model.find_abilities().log_probabilities:
            return {
                each.name: answered(each, self._model.letter_masses(shown, each)).probabilities
                for each in self._questions
            }
        said = self._model.answer(shown, self._packed)
        return {
            each.name: tuple(float(choice == each.value) for choice in each.choices)
            if each.value in each.choices
            else ()
            for each in said
        }


def _tokens(
    tokens: Sequence[TokenLogprobs], caption: str, ended: bool
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The caption's tokens as `Words` has them, and their log-probabilities.

    Some servers tell of the token that ends an answer, with or without its name.
    """
    texts = [each.token for each in tokens]
    likely = [each.logprob for each in tokens]
    if not all(map(math.isfinite, likely)):
        return (), ()
    if ended and texts and "".join(texts[:-1]).strip() == caption:
        texts[-1] = ""
    return tuple(texts), tuple(likely)
