# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Learns soft prompts for a dual encoder whose towers are frozen, or goes on where a run stopped.

The first stage of Self-TPT (https://arxiv.org/abs/2408.05775).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vlm_perception.bundle.files import file_sha256
from vlm_perception.bundle.manifest import MOST_LABELS, TextSpec
from vlm_perception.common.recipe_changes import changes
from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.deploy.checkpoints.files import weight_files
from vlm_perception.deploy.checkpoints.gather import dual_folder
from vlm_perception.deploy.checkpoints.load import round_to_half
from vlm_perception.deploy.export.manifest_fields import text_spec_of
from vlm_perception.modeling.self_tpt import LearnedHead
from vlm_perception.modeling.towers.text_tower import TextTower
from vlm_perception.outputs.file import write_whole
from vlm_perception.outputs.own import own_folder
from vlm_perception.perception.tokenizer import TextTokenizer
from vlm_perception.perception.vision.learned_prompts import (
    FEWEST,
    MOST,
    SPEC,
    LearnedPrompts,
    PromptsSpec,
    arrays_digest,
    read_prompts,
    write_prompts,
)
from vlm_perception.perception.vision.prompt_sequences import (
    END,
    prompt_sequences,
    require_different,
)
from vlm_perception.training.adaptation.features import Features, features_of
from vlm_perception.training.adaptation.objective import PromptObjective, Texts, fitted_bias
from vlm_perception.training.adaptation.settings import LearningSettings
from vlm_perception.training.adaptation.sources import LearningError, Source, open_source
from vlm_perception.training.loop import LAST, Schedule, fit

VERB = "adapt learn"
WORK, FEATURES, TRAINING = "work", "features", "training"
SETTINGS = "settings.json"
WIDEST_OUTER = 128
"""Of the projection h."""


def learn(checkpoint: str, data: str, out: Path, settings: LearningSettings) -> LearnedPrompts:
    """Learn soft prompts.

    Args:
        checkpoint: a dual encoder: a folder, or a model of the hub.
        data: a folder with a folder for each class, a curated set, or `roadworld`.
        out: takes the prompts, and in `work/` what a run leaves to the next.
        settings: how.

    Raises:
        ExportError: the checkpoint cannot be used.
        LearningError: the images cannot be used, or `out` is of another run.
        VocabularyError: a class is too long for the text tower, or is the same as another to it.
        OutputError: `out` is another's.
    """
    folder = dual_folder(checkpoint)
    inputs = [folder, *([] if data == "roadworld" else [Path(data).expanduser()])]
    source = open_source(data, settings.scenes)
    with own_folder(out, VERB, inputs) as place:
        reader = DualReader(folder)
        _require_same_run(place / WORK, reader, source, settings)
        if not (place / SPEC).exists():
            round_to_half(reader.model)
            reader.model.requires_grad_(False).eval()
            words = _Words(reader, settings)
            features = features_of(source, reader, place / WORK / FEATURES)
            _learn(words, features, folder, place, source)
        return read_prompts(place)


def _require_same_run(
    work: Path, reader: DualReader, source: Source, settings: LearningSettings
) -> None:
    """Write down what a run is told, or refuse to go on with another one.

    Raises:
        LearningError: the folder has begun with something else.
    """
    told = {"checkpoint": reader.digest, "images": source.identity, **asdict(settings)}
    new, file = json.loads(json.dumps(told)), work / SETTINGS
    if not file.exists():
        work.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(new, indent=1) + "\n")
        return
    if different := changes(json.loads(file.read_text(encoding="utf-8")), new):
        raise LearningError(
            f"{work.parent} was begun otherwise: {'; '.join(different)}. Give another --out"
        )


class _Words:
    """The text side of a dual encoder, and the words that prompts begin as."""

    def __init__(self, reader: DualReader, settings: LearningSettings) -> None:
        """Lay out the text tower.

        Raises:
            LearningError: the words are too few or too many tokens.
        """
        self.reader, self.settings = reader, settings
        self.spec = text_spec_of(reader.family, reader.model, reader.tokenizer, "tokenizer.json")
        self.tower = reader.family.text(reader.model, self.spec.length).eval()
        self.tower.requires_grad_(False)
        with TemporaryDirectory() as scratch:
            self.tokenizer = _tokenizer(reader, Path(scratch) / self.spec.tokenizer)
        self.init = self.tokenizer.encode(settings.init)
        if not FEWEST <= len(self.init) <= MOST:
            raise LearningError(
                f"{settings.init!r} is {len(self.init)} tokens; give words of {FEWEST} to {MOST} "
                "with --init"
            )

    def objective(self, features: Features) -> PromptObjective:
        """The losses on images, with prompts as they begin.

        Raises:
            LearningError: there are too many classes, or a prompt is too long.
            VocabularyError: a class is too long, or the same as another to the text tower.
        """
        classes, settings, tower = features.classes, self.settings, self.tower
        if len(classes) > MOST_LABELS:
            raise LearningError(
                f"the images show {len(classes)} classes; give at most {MOST_LABELS}"
            )
        require_different(self.tokenizer, classes)
        laid = prompt_sequences(
            self.tokenizer, self.spec, classes, len(self.init), whole=not tower.reads_end
        )
        written = _written(self.reader, tower, self.spec, classes, settings.templates)
        torch.manual_seed(settings.seed)
        width = features.pooled.shape[1]
        head = LearnedHead(width, width, min(width, WIDEST_OUTER))
        context = tower.token_embedding(torch.tensor(self.init)).detach().clone()
        texts = Texts(laid, written)
        scale = self.spec.logit_scale
        return PromptObjective(context, head, tower, texts, features, scale, settings)


def _learn(words: _Words, features: Features, folder: Path, out: Path, source: Source) -> None:
    settings, objective = words.settings, words.objective(features)
    weights = {"classes": 1.0, "contrast": settings.contrast, "matching": settings.matching}
    weights = {name: weight for name, weight in weights.items() if weight > 0.0}
    schedule = Schedule(
        steps=settings.steps, batch=settings.batch, peak_rate=settings.rate, weight_decay=0.0
    )

    def losses(step: int) -> dict[str, Tensor]:
        images, classes = drawn(features, settings, step)
        found: dict[str, Tensor] = objective(images, classes)
        return found

    training = out / WORK / TRAINING
    fit(objective, losses, weights, schedule, training, "prompts")
    arrays, spec = _arrays(objective), words.spec
    bias = None if spec.score == "softmax" else _bias(objective, features, spec, settings)
    told = PromptsSpec(
        arrays=arrays_digest(arrays),
        weights={file.name: file_sha256(file) for file in weight_files(folder)},
        templates=settings.templates,
        temperature=settings.temperature,
        bias=bias,
        classes=len(features.classes),
        images=len(features.pooled),
        source=Path(source.name).name,
        steps=settings.steps,
        seed=settings.seed,
    )
    write_prompts(out, told, arrays)
    (training / LAST).unlink(missing_ok=True)


def _tokenizer(reader: DualReader, file: Path) -> TextTokenizer:
    """The checkpoint's tokenizer as the robot reads it."""
    backend: Any = reader.tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    file.write_text(backend.to_str(), encoding="utf-8")
    return TextTokenizer(file)


@torch.no_grad()
def _written(
    reader: DualReader,
    tower: TextTower,
    spec: TextSpec,
    classes: tuple[str, ...],
    templates: tuple[str, ...],
) -> Tensor:
    """Each class by its hand-written prompts, [classes, D]: the mean, normalised again."""
    rows = []
    for label in classes:
        prompts = [template.replace("{label}", label) for template in templates]
        for prompt in prompts:
            if not reader.reads_whole(prompt):
                raise LearningError(
                    f"{prompt!r} has more than the {spec.length} tokens that the text tower takes; "
                    "use fewer words"
                )
        rows.append(tower(reader.ids(prompts)).mean(0))
    return F.normalize(torch.stack(rows), dim=-1)


def drawn(
    features: Features, settings: LearningSettings, step: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The images and classes of a step, which depend on the step alone."""
    rng = np.random.default_rng((settings.seed, step))
    count, known = len(features.pooled), len(features.classes)
    images = np.sort(rng.permutation(count)[: settings.batch])
    shown = np.flatnonzero(features.targets[images].any(0))
    others = rng.permutation(np.setdiff1d(np.arange(known), shown))
    return images, np.sort(np.concatenate([shown, others[: max(0, settings.classes - len(shown))]]))


@torch.no_grad()
def _bias(
    objective: PromptObjective, features: Features, spec: TextSpec, settings: LearningSettings
) -> float:
    """One bias for all classes and images of the source."""
    places = np.arange(len(features.classes))
    parts = np.array_split(places, -(-len(places) // settings.classes))
    texts = torch.cat([objective.texts(part)[END] for part in parts])
    scores = spec.logit_scale * torch.from_numpy(features.pooled) @ texts.T
    return fitted_bias(scores, torch.from_numpy(features.targets))


def _arrays(objective: PromptObjective) -> dict[str, NDArray[np.float32]]:
    weights = objective.head.weights
    named = {"context": objective.context, **vars(weights)}
    return {name: value.detach().numpy().astype(np.float32) for name, value in named.items()}
