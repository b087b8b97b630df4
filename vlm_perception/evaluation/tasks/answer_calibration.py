# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Temperatures of typed questions, fitted on answered images so that probabilities mean something.

Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2: one temperature a question
divides the scores of its choices. It changes no answer, only how sure the model is of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.table import Column, Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.answered_images import AnsweredImages
from vlm_perception.datasets.sample import Sample
from vlm_perception.evaluation.report import Report
from vlm_perception.evaluation.task import run_task
from vlm_perception.evaluation.tasks.answer_figures import QuestionResults, question_figures
from vlm_perception.outputs.file import require_free, result_file
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.served.model import ServedModel
from vlm_perception.perception.language.served.settings import ServedSettings
from vlm_perception.perception.reasoning.questions import load_questions
from vlm_perception.perception.served.connection import Connection
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

VERB = "calibrate answers"
LEAST_ANSWERS = 100
LEAST_MASS = 1e-6
"""In place of what the server's alternatives do not hold."""
COOLEST, HOTTEST = 0.02, 50.0
_HALVINGS = 50


class CalibrationError(VlmPerceptionError):
    """Questions cannot be calibrated with what is there; the message says why."""


@dataclass(frozen=True)
class Calibrated:
    """One question's temperature and what it is worth on images that it was not fitted on."""

    answers: int
    temperature: float
    nll: tuple[float, float]
    """Mean negative log-likelihood of the truth: at temperature 1, and at the fitted one."""
    ece: tuple[float, float]
    """Expected calibration error, likewise."""


Score = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""Gives the scores of each choice of each question [choices] for an RGB image."""


class Calibration:
    """A model that answers typed questions, and how sure it may be of its answers."""

    def __init__(self, questions: Sequence[QuestionSpec], score: Score) -> None:
        """Begin without any image.

        Args:
            questions: that are asked.
            score: logarithms up to a constant, of all questions' choices.
        """
        self._questions, self._score = questions, score
        self._scores: list[NDArray[np.float64]] = []
        self._answers: list[Mapping[str, str]] = []

    def take(self, sample: Sample) -> None:
        """Keep the score of each choice of each question, and the truth."""
        self._scores.append(self._score(sample.image))
        self._answers.append(sample.answers)

    @cached_property
    def fitted(self) -> dict[str, Calibrated]:
        """What fits the samples that were taken; a question without an answer is left out."""
        ends = np.cumsum([len(question.choices) for question in self._questions])
        scores = np.split(np.array(self._scores), ends[:-1], axis=1)
        fitted: dict[str, Calibrated] = {}
        for question, found in zip(self._questions, scores, strict=True):
            name = question.name
            rows = [i for i, answers in enumerate(self._answers) if name in answers]
            if rows:
                truth = [question.choices.index(self._answers[i][name]) for i in rows]
                fitted[name] = judge(found[rows], np.array(truth))
        return fitted

    def report(self) -> Report:
        """The figures of each question."""
        return Report([_table(self.fitted)])


def scores_of_bundle(bundle: ModelBundle, questions: Sequence[QuestionSpec]) -> Score:
    """Mean log-likelihoods by a bundle's language model.

    Raises:
        BundleError: the bundle has none.
    """
    encoder, language = VisionEncoder(bundle, threads=2), LanguageModel(bundle, threads=2)
    packed = language.pack(questions)

    def score(image: NDArray[np.uint8]) -> NDArray[np.float64]:
        prefix = language.read(encoder.encode(Frame(image, 0), 0))
        return language.log_likelihoods(prefix, packed)

    return score


def scores_of_server(served: ServedModel, questions: Sequence[QuestionSpec]) -> Score:
    """Log-probabilities of the choices' letters by a served model.

    The order of the choices is another for each image: no letter is the truth's more often.

    Raises:
        CalibrationError: the server is not asked question by question.
        ServedError: it cannot be asked.
        PromptError: a question cannot be put to it.
    """
    served.pack(questions)
    if not served.find_abilities().letters:
        raise CalibrationError(
            f"{served.engine_name} gives no log-probabilities, or keeps nothing of what it has "
            "read, so that the questions are asked in one go and their answers have no "
            "probabilities to calibrate; use a server that does both, such as vLLM or llama.cpp"
        )
    turns = itertools.count()

    def score(image: NDArray[np.uint8]) -> NDArray[np.float64]:
        shown, turn = served.show(image), next(turns)
        found = [served.letter_masses(shown, each, turn=turn) for each in questions]
        return np.asarray(np.log(np.maximum(np.concatenate(found), LEAST_MASS)), np.float64)

    return score


def run(
    bundle: str,
    data: Path,
    out: Path,
    questions: Path | None = None,
    served: ServedSettings | None = None,
) -> Report:
    """Fit a temperature for each question, and write the questions.

    Args:
        bundle: name or path of the bundle that is to answer.
        data: a folder with images and `answers.jsonl`.
        out: the file of questions to write, such as a language node takes.
        questions: a file of questions; the bundle's own when None.
        served: a model that a server runs, to answer in place of the bundle's.

    A question that `data` does not answer keeps its temperature.

    Raises:
        BundleError: the bundle cannot be used.
        QuestionsError: the questions cannot be read.
        AnswersError: the folder lacks answers, or has others than the questions'.
        CalibrationError: there are too few, or the server gives no log-probabilities.
        ServedError: the server cannot be asked.
        EndpointError: its address cannot be used.
        OutputError: `out` exists and was not written by this verb.
    """
    require_free(out, VERB)
    model = ModelBundle.load(bundle)
    asked = model.manifest.questions if questions is None else load_questions(questions)
    images = AnsweredImages(data, asked)
    require_enough(images)
    with ExitStack() as stack:
        if served is None:
            score = scores_of_bundle(model, asked)
        else:
            link = Connection(served.checked_endpoint(), slots=served.slots)
            answering = ServedModel(link, served)
            stack.callback(answering.close)
            score = scores_of_server(answering, asked)
        calibration = Calibration(asked, score)
        report = run_task(calibration, images)
    write_questions(out, asked, calibration.fitted)
    broken = list(images.broken.values())
    if broken:
        broken.insert(0, f"{len(broken)} images could not be read and were left out:")
    return Report([*report.parts, *broken, f"Written to {out}"])


def fit_temperature(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The temperature with the least negative log-likelihood, between COOLEST and HOTTEST.

    The likelihood is concave in the inverse of the temperature, so its slope has one zero.

    Args:
        scores: [N, choices], logarithms up to a constant.
        truth: [N], index of the true choice.
    """
    low, high = math.log(1 / HOTTEST), math.log(1 / COOLEST)
    true_scores = scores[np.arange(len(truth)), truth]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        expected = (_probabilities(scores, math.exp(-middle)) * scores).sum(axis=1)
        if (true_scores - expected).mean() > 0:
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)


def judge(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> Calibrated:
    """Fit on all, and judge each half by the temperature that fits the other half."""
    even = np.arange(len(truth)) % 2 == 0
    plain = _probabilities(scores, 1.0)
    fair = np.zeros_like(scores)
    for half in (even, ~even):
        fair[half] = _probabilities(scores[half], fit_temperature(scores[~half], truth[~half]))
    return Calibrated(
        len(truth),
        fit_temperature(scores, truth),
        (_figure("nll", plain, truth), _figure("nll", fair, truth)),
        (_figure("ece", plain, truth), _figure("ece", fair, truth)),
    )


def require_enough(images: AnsweredImages) -> None:
    """Refuse a folder that answers a question too seldom, or none.

    Raises:
        CalibrationError: it does.
    """
    lacks = f" ({images.left_out} more cannot be read)" if images.left_out else ""
    for name, count in images.counts().items():
        if count < LEAST_ANSWERS:
            raise CalibrationError(
                f"{images.file} answers {name!r} for {count} images{lacks}; at least "
                f"{LEAST_ANSWERS} are needed: add some, or leave the question out"
            )
    if not images.counts():
        raise CalibrationError(
            f"{images.file} answers no question{lacks}; it needs {LEAST_ANSWERS} answers to each "
            f"question to calibrate: {', '.join(each.name for each in images.questions)}"
        )


def write_questions(
    out: Path, questions: Sequence[QuestionSpec], fitted: dict[str, Calibrated]
) -> None:
    """Write questions with their fitted temperatures as a file that `load_questions` reads.

    Raises:
        OSError: it cannot be written.
    """
    fresh = {name: {"temperature": round(each.temperature, 4)} for name, each in fitted.items()}
    content = [each.model_dump(mode="json") | fresh.get(each.name, {}) for each in questions]
    text = yaml.safe_dump({"questions": content}, sort_keys=False, allow_unicode=True)
    with result_file(out, VERB) as part:
        part.write_text(text, encoding="utf-8")


def _figure(kind: str, probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """One of `question_figures` over all images; `probabilities` is [N, choices]."""
    results = QuestionResults("", probabilities, truth)
    return float(question_figures(results, np.ones((1, len(truth))))[kind][0])


def _probabilities(scores: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    powers = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def _table(fitted: dict[str, Calibrated]) -> Table:
    columns = ("NLL at 1", "NLL fitted", "ECE at 1", "ECE fitted")
    title = "Typed questions, each half of the images evaluated with the other half's temperature"
    table = Table(Column("question", no_wrap=True), "answers", "temperature", *columns, title=title)
    for name, found in fitted.items():
        figures = (found.temperature, *found.nll, *found.ece)
        table.add_row(name, str(found.answers), *(f"{value:.3f}" for value in figures))
    table.add_section()
    means = np.mean([(*found.nll, *found.ece) for found in fitted.values()], axis=0)
    table.add_row("mean", "", "", *(f"{value:.3f}" for value in means))
    return table
