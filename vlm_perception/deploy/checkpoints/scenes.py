# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Where a robot works: the labels and the questions of a bundle that has no bundle.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vlm_perception.bundle.manifest import QuestionSpec, VocabularySpec, describe_errors
from vlm_perception.common.export_error import ExportError
from vlm_perception.common.share import share_folder
from vlm_perception.common.yaml_files import YamlError, read_as_json
from vlm_perception.perception.reasoning.questions import load_questions

SCENES = ("street", "indoor", "warehouse", "yard")


@dataclass(frozen=True)
class Scene:
    """What a bundle starts with."""

    vocabulary: VocabularySpec
    questions: tuple[QuestionSpec, ...]


def load_scene(vocabulary: str, questions: str | None) -> Scene:
    """Read labels and questions.

    Args:
        vocabulary: one of SCENES, or a file.
        questions: likewise; None: those of the vocabulary's scene, none where that is a file.

    Raises:
        ExportError: the vocabulary cannot be read, or has faults; the message lists them.
        QuestionsError: the questions likewise.
    """
    if questions is None and vocabulary in SCENES:
        questions = vocabulary
    return Scene(
        vocabulary=_load_vocabulary(_file("vocabularies", vocabulary)),
        questions=load_questions(_file("questions", questions)) if questions is not None else (),
    )


def _file(kind: str, scene_or_file: str) -> Path:
    if scene_or_file in SCENES:
        return share_folder() / "config" / kind / f"{scene_or_file}.yaml"
    return Path(scene_or_file).expanduser()


def _load_vocabulary(path: Path) -> VocabularySpec:
    try:
        return VocabularySpec.model_validate_json(read_as_json(path))
    except ValidationError as error:
        raise ExportError(f"the vocabulary {path}: {describe_errors(error)}") from error
    except (OSError, YamlError) as error:
        raise ExportError(
            f"the vocabulary {path} cannot be read ({error}); choose {', '.join(SCENES)}, or give "
            f"a file such as {share_folder() / 'config' / 'vocabularies' / 'street.yaml'}"
        ) from error
