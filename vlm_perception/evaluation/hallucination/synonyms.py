# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What else the objects of a labelled folder are called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, StrictStr, ValidationError

from vlm_perception.bundle.files import file_sha256
from vlm_perception.bundle.manifest import describe_errors
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.yaml_files import YamlError, read_yaml
from vlm_perception.datasets.object_mentions import ObjectNameError, ObjectNames

SYNONYMS_FILE = "synonyms.yaml"


class SynonymsError(VlmPerceptionError):
    """A file of synonyms cannot be used; the message says why."""


class _Synonyms(BaseModel):
    model_config = ConfigDict(extra="forbid")

    synonyms: dict[StrictStr, list[StrictStr]] = {}
    others: list[StrictStr] = []


def synonyms_digest(folder: Path) -> str:
    """The SHA-256 of a folder's file of synonyms; empty: it has none."""
    file = folder / SYNONYMS_FILE
    return file_sha256(file) if file.is_file() else ""


def read_names(file: Path, labels: Iterable[str], vocabulary: Iterable[str] = ()) -> ObjectNames:
    """The names of labels, with the synonyms in a file, if there is one.

    `synonyms: {car: [automobile, sedan]}` for a label, and `others: [hot dog]` for what names none
    of the labels though it contains one. A label that no image has is looked for, too,
    and so is a vocabulary, but for what `others` has and for what ends in another label.

    Raises:
        SynonymsError: the file is damaged, or gives a name to two labels.
    """
    if not file.exists():
        return ObjectNames(labels, vocabulary=vocabulary)
    try:
        found = _Synonyms.model_validate(read_yaml(file) or {})
        return ObjectNames(labels, found.synonyms, found.others, vocabulary)
    except ValidationError as error:
        raise SynonymsError(
            f"{file}: {describe_errors(error)}; write it as `synonyms: {{car: [automobile]}}` and "
            "`others: [hot dog]`"
        ) from error
    except (YamlError, ObjectNameError) as error:
        raise SynonymsError(f"{file}: {error}") from error
    except OSError as error:
        raise SynonymsError(f"{file} cannot be read: {error.strerror or error}") from error
