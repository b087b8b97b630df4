# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Temperatures of typed questions, fitted on answered images so that probabilities mean something.

Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2: one temperature a question
divides the scores of its choices. It changes no answer, only how sure the model is of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.export_error import ExportError
from vlm_perception.datasets.roadworld.images import ANSWERS_FILE
from vlm_perception.deploy.validation.images import read_image
from vlm_perception.outputs.file import require_free, result_file
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.reasoning.questions import load_questions
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

VERB = "calibrate"
LEAST_ANSWERS = 100
BINS = 15
COOLEST, HOTTEST = 0.02, 50.0
_HALVINGS = 50


class CalibrationError(VlmPerceptionError):
    """Questions cannot be calibrated with what is there; the message says why."""


@dataclass(frozen=True)
class AnsweredImage:
    """An image and what is true of it."""

    path: Path
    answers: dict[str, str]
    """Name of a question -> the true choice."""


@dataclass(frozen=True)
class Calibrated:
    """One question's temperature and what it is worth on images that it was not fitted on."""

    answers: int
    temperature: float
    nll: tuple[float, float]
    """Mean negative log-likelihood of the truth: at temperature 1, and at the fitted one."""
    ece: tuple[float, float]
    """Expected calibration error, likewise."""


def calibrate(
    bundle: str, data: Path, out: Path, questions: Path | None = None
) -> dict[str, Calibrated]:
    """Fit a temperature for each question, print the figures, and write the questions.

    Args:
        bundle: name or path of the bundle that is to answer.
        data: a folder with images and `answers.jsonl`.
        out: the file of questions to write, such as a language node takes.
        questions: a file of questions; the bundle's own when None.

    Returns:
        What was fitted, by the question's name; a question that `data` does not answer is left out
        and keeps its temperature.

    Raises:
        BundleError: the bundle cannot be used.
        QuestionsError: the questions cannot be read.
        CalibrationError: the folder lacks images or answers, or has others than the questions'.
        OutputError: somebody's file lies at `out`.
    """
    require_free(out, VERB)
    model = ModelBundle.load(bundle)
    asked = model.manifest.questions if questions is None else load_questions(questions)
    answered = read_answers(data, asked)
    images, broken = _readable(answered)
    _require_enough(data / ANSWERS_FILE, images, asked, left_out=len(answered) - len(images))
    scores = _scores(model, asked, images)
    fitted: dict[str, Calibrated] = {}
    for question, found in zip(asked, scores, strict=True):
        rows = [i for i, image in enumerate(images) if question.name in image.answers]
        if rows:
            truth = [question.choices.index(images[i].answers[question.name]) for i in rows]
            fitted[question.name] = judge(found[rows], np.array(truth))
    write_questions(out, asked, fitted)
    console = Console()
    console.print(_table(fitted))
    if broken:
        console.print(
            f"{len(broken)} images could not be read and were left out:", *broken.values(), sep="\n"
        )
    console.print(f"Written to {out}", soft_wrap=True, highlight=False)
    return fitted


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
        (negative_log_likelihood(plain, truth), negative_log_likelihood(fair, truth)),
        (calibration_error(plain, truth), calibration_error(fair, truth)),
    )


def negative_log_likelihood(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Mean over the images; `probabilities` is [N, choices]."""
    true = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())


def calibration_error(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Expected calibration error over BINS bins of equally many answers.

    How far the likeliest choice's probability is from how often it is true, bin by bin.
    """
    said = probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1)
    order = np.argsort(sure, kind="stable")
    gaps = [
        len(part) * abs(sure[part].mean() - (said[part] == truth[part]).mean())
        for part in np.array_split(order, min(BINS, len(order)))
    ]
    return float(sum(gaps) / len(order))


def read_answers(folder: Path, questions: Sequence[QuestionSpec]) -> list[AnsweredImage]:
    """Read `answers.jsonl` and hold it against the questions.

    Each line names an image of the folder and answers some questions:
    `{"image": "0001.jpg", "answers": {"weather": "rain"}}`.

    Raises:
        CalibrationError: it is missing or damaged, names an image, a question or a choice that is
            not there, or answers a question too seldom.
    """
    path = folder / ANSWERS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"{path} cannot be read ({error}); put a file there with a line for each image, "
            'such as {"image": "0001.jpg", "answers": {"weather": "rain"}}'
        ) from error
    images = [
        _answered(folder, f"{path}, line {number}", line, questions)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    _require_enough(path, images, questions)
    return images


def _require_enough(
    path: Path,
    images: Sequence[AnsweredImage],
    questions: Sequence[QuestionSpec],
    left_out: int = 0,
) -> None:
    lacks = f" ({left_out} more cannot be read)" if left_out else ""
    for question in questions:
        count = sum(question.name in image.answers for image in images)
        if 0 < count < LEAST_ANSWERS:
            raise CalibrationError(
                f"{path} answers {question.name!r} for {count} images{lacks}; {LEAST_ANSWERS} are "
                "the least, so add some, or leave the question out"
            )
    if not any(image.answers for image in images):
        raise CalibrationError(
            f"{path} answers no question{lacks}; it needs {LEAST_ANSWERS} answers to each that is "
            f"to be calibrated: {', '.join(question.name for question in questions)}"
        )


def _readable(images: Sequence[AnsweredImage]) -> tuple[list[AnsweredImage], dict[Path, str]]:
    """The images that can be read, and what is wrong with the others."""
    broken: dict[Path, str] = {}
    for path in {image.path: None for image in images}:
        try:
            read_image(path)
        except ExportError as error:
            broken[path] = str(error)
    return [image for image in images if image.path not in broken], broken


def _answered(
    folder: Path, where: str, line: str, questions: Sequence[QuestionSpec]
) -> AnsweredImage:
    try:
        content = json.loads(line)
        name, answers = content["image"], dict(content["answers"])
        path = folder / name
    except (ValueError, KeyError, TypeError) as error:
        raise CalibrationError(
            f"{where} is no answered image ({error!r}); write it as "
            '{"image": "0001.jpg", "answers": {"weather": "rain"}}'
        ) from error
    if not path.is_file():
        raise CalibrationError(f"{where}: there is no image {path}")
    choices = {question.name: question.choices for question in questions}
    for question, answer in answers.items():
        if question not in choices:
            raise CalibrationError(
                f"{where}: there is no question {question!r}; there are {', '.join(choices)}"
            )
        if answer not in choices[question]:
            raise CalibrationError(
                f"{where}: {answer!r} is no choice of {question!r}; its choices are "
                f"{', '.join(choices[question])}"
            )
    return AnsweredImage(path, answers)


def write_questions(
    out: Path, questions: Sequence[QuestionSpec], fitted: dict[str, Calibrated]
) -> None:
    """Write questions with their fitted temperatures as a file that `load_questions` reads.

    Raises:
        OSError: it cannot be written.
    """
    content = [
        {
            "name": question.name,
            "question": question.question,
            "choices": list(question.choices),
            "temperature": round(fitted[question.name].temperature, 4)
            if question.name in fitted
            else question.temperature,
        }
        for question in questions
    ]
    text = yaml.safe_dump({"questions": content}, sort_keys=False, allow_unicode=True)
    with result_file(out, VERB) as part:
        part.write_text(text, encoding="utf-8")


def _scores(
    bundle: ModelBundle, questions: Sequence[QuestionSpec], images: Sequence[AnsweredImage]
) -> list[NDArray[np.float64]]:
    """For each question the mean log-likelihood of each choice of it, [images, choices]."""
    encoder, language = VisionEncoder(bundle, threads=2), LanguageModel(bundle, threads=2)
    packed = language.pack(questions)
    rows = []
    for image in track(images, "Answering", transient=True):
        embedding = encoder.encode(Frame(read_image(image.path), 0), 0)
        rows.append(language.log_likelihoods(language.prefill(embedding.tokens), packed))
    ends = np.cumsum([len(question.choices) for question in questions])
    return np.split(np.array(rows), ends[:-1], axis=1)


def _probabilities(scores: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    powers = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def _table(fitted: dict[str, Calibrated]) -> Table:
    columns = ("NLL at 1", "NLL fitted", "ECE at 1", "ECE fitted")
    title = "Typed questions, each half of the images judged by the other half's temperature"
    table = Table(Column("question", no_wrap=True), "answers", "temperature", *columns, title=title)
    for name, found in fitted.items():
        figures = (found.temperature, *found.nll, *found.ece)
        table.add_row(name, str(found.answers), *(f"{value:.3f}" for value in figures))
    table.add_section()
    means = np.mean([(*found.nll, *found.ece) for found in fitted.values()], axis=0)
    table.add_row("mean", "", "", *(f"{value:.3f}" for value in means))
    return table
