# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A vision-language model as a teacher: a caption of each view, and answers to typed questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.deploy.checkpoints.vlm_reader import Module, VlmReader
from vlm_perception.training.distillation.recipe import DistillationError

MOST_TOKENS = 96
"""Of a caption."""


@dataclass(frozen=True)
class Words:
    """What a model says of a view."""

    caption: str
    ended: bool
    """Whether the model ended the caption itself; else it was cut off."""
    tokens: tuple[str, ...]
    """Of the caption, each as text; that which ends it is empty. None where they are not known."""
    log_probabilities: tuple[float, ...]
    """Of the tokens."""
    answers: Mapping[str, tuple[float, ...]]
    """Probabilities of the choices of each question, by its name; none where it gave no answer."""


class Speaker(Protocol):
    """A vision-language model as a teacher, wherever it runs."""

    by: str
    """Which model it is, and what else of it the words depend on."""
    slots: int
    """Views that it may be asked about at once."""

    def look(self, picture: NDArray[np.uint8]) -> Words:
        """What it says of a picture, RGB [H, W, 3].

        Raises:
            DistillationError: it says nothing that can be used.
        """


class LanguageTeacher:
    """A checkpoint of transformers, which is given images as its own processor wants them."""

    slots = 1

    def __init__(self, path: str, prompt: str, questions: Sequence[QuestionSpec]) -> None:
        """Load it.

        Args:
            path: a folder or a model of the hub, as `VlmReader` takes it.
            prompt: asks for a caption.
            questions: the typed questions.

        Raises:
            ExportError: it cannot be used.
            DistillationError: it is no decoder.
        """
        self._reader = VlmReader(path)
        self.by, self.folder = self._reader.by, self._reader.folder
        if self._reader.model.config.is_encoder_decoder:
            raise DistillationError(
                f"{path} is an encoder and decoder; as a teacher only decoders are supported"
            )
        self._prompt, self._questions = prompt, tuple(questions)

    @torch.inference_mode()
    def look(self, picture: NDArray[np.uint8]) -> Words:
        """What it says of a picture, RGB [H, W, 3].

        Raises:
            DistillationError: it gives NaN or infinity.
        """
        image = Image.fromarray(picture)
        inputs = self._reader.inputs(image, self._prompt)
        made = self._reader.model.generate(
            **inputs,
            max_new_tokens=MOST_TOKENS,
            num_beams=1,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids = made.sequences[0, inputs["input_ids"].shape[1] :]
        likely = _of_tokens(torch.cat(made.logits), ids)
        text = self._reader.processor.decode(ids, skip_special_tokens=True).strip()
        tokens = tuple(map(self._piece, ids.tolist()))
        answers = {each.name: self._answer(image, each) for each in self._questions}
        ended = int(ids[-1]) in self._reader.ends
        return Words(text, ended, tokens, tuple(likely.tolist()), answers)

    def _piece(self, token: int) -> str:
        tokenizer = self._reader.processor.tokenizer
        return "" if token in self._reader.ends else str(tokenizer.decode([token]))

    def _answer(self, image: Image.Image, question: QuestionSpec) -> tuple[float, ...]:
        """As `LanguageModel.answer` scores choices: by their mean log-likelihood per token."""
        asked = self._reader.inputs(image, question.question)
        means = []
        for choice in question.choices:
            ids = self._reader.answer_ids(question.question, choice)
            logits = self._reader.model(**_continued(asked, ids)).logits[0, -len(ids) - 1 : -1]
            means.append(_of_tokens(logits, torch.tensor(ids, device=logits.device)).mean())
        scores = torch.stack(means) / question.temperature
        return tuple(scores.softmax(dim=0).tolist())


def _of_tokens(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each token [T] by the logits [T, vocabulary] that it was chosen by."""
    likely = logits.float().log_softmax(dim=-1).gather(1, ids[:, None])[:, 0]
    if not bool(torch.isfinite(likely).all()):
        raise DistillationError("the teacher gives NaN or infinity")
    return likely


def _continued(inputs: Module, ids: Sequence[int]) -> dict[str, Tensor]:
    """The inputs of a prompt with more tokens of text behind it."""
    length, more = inputs["input_ids"].shape[1], inputs["input_ids"].new_tensor([ids])
    parts = {"input_ids": more, "attention_mask": torch.ones_like(more)}
    found = dict(inputs)
    for name, value in inputs.items():
        # Whatever describes each token says 0 of text.
        if name in parts or (name.endswith("token_type_ids") and value.shape[1] == length):
            found[name] = torch.cat((value, parts.get(name, torch.zeros_like(more))), dim=1)
    return found
