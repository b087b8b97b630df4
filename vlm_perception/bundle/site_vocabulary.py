# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A site's own vocabulary: one file with labels, their text embeddings and their thresholds.

It is JSON, and read without running anything that it holds. The embeddings, float32
[labels, D] row by row in little-endian bytes, are written in base64.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import (
    MOST_LABELS,
    Count,
    LabelSpec,
    Sha256,
    Text,
    describe_errors,
    manifest_digest,
)
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.ordinary_files import open_ordinary

FORMAT_VERSION: Final = 1
MOST_BYTES = 1 << 24
"""512 embeddings of 4096 numbers are 11 MiB."""
LENGTH_TOLERANCE = 1e-3
"""Of an embedding's L2 norm, which is 1."""
DIGEST_SHOWN = 12
REMEDY = "make it again with `vlm-perception adapt classes`"


class SiteVocabularyError(VlmPerceptionError):
    """A vocabulary file cannot be used; the message says why and what to do."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class OfBundle(_Strict):
    """The bundle whose image embeddings the labels are compared with."""

    name: Text
    digest: Sha256


class AdaptedPrompts(_Strict):
    """How the prompts of adapted labels came to be."""

    digest: Sha256
    """Of the learned prompts that adaptation began with."""
    steps: Annotated[int, Field(ge=0)]
    rate: Annotated[float, Field(gt=0.0)]
    classes: Count
    """Labels that a step looks at."""
    seed: int
    loss_before: float
    loss_after: float
    """Of the contrast between the labels."""


class Making(_Strict):
    """How the file was made."""

    prompts: AdaptedPrompts | None
    """None: the labels have hand-written prompts, as those of `~/set_vocabulary`."""
    images: Annotated[int, Field(ge=0)]
    """By which the thresholds were set; 0: they are the bundle's."""


class SiteVocabulary(_Strict):
    """The content of the file."""

    format_version: Literal[1]
    digest: Sha256
    """Of all else, as that of a manifest."""
    bundle: OfBundle
    labels: Annotated[tuple[LabelSpec, ...], Field(min_length=1, max_length=MOST_LABELS)]
    """Their templates are empty."""
    width: Count
    """D of the embeddings."""
    embeddings: str
    made: Making

    @model_validator(mode="after")
    def _rows_are_directions(self) -> SiteVocabulary:
        lengths = np.linalg.norm(self.rows, axis=1)
        # Written so that NaN fails.
        if not bool(np.all(np.abs(lengths - 1.0) < LENGTH_TOLERANCE)):
            raise ValueError("an embedding is not of length 1")
        return self

    @property
    def rows(self) -> NDArray[np.float32]:
        """The embeddings, [labels, D], L2-normalised.

        Raises:
            ValueError: it is no base64, or not of this size.
        """
        try:
            content = base64.b64decode(self.embeddings, validate=True)
        except binascii.Error as error:
            raise ValueError(f"the embeddings are no base64: {error}") from error
        if len(content) != 4 * len(self.labels) * self.width:
            raise ValueError(f"the embeddings are not {len(self.labels)} of {self.width} numbers")
        rows = np.frombuffer(content, "<f4").reshape(len(self.labels), self.width)
        return rows.astype(np.float32)


def site_vocabulary(
    bundle: ModelBundle, labels: Sequence[LabelSpec], rows: NDArray[np.float32], made: Making
) -> SiteVocabulary:
    """Put a vocabulary together.

    Args:
        bundle: whose it is.
        labels: with thresholds and calibration.
        rows: their embeddings, [labels, D], L2-normalised.
        made: how it came to be.
    """
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "bundle": {"name": bundle.manifest.name, "digest": bundle.digest},
        "labels": [each.model_copy(update={"templates": ()}).model_dump() for each in labels],
        "width": rows.shape[1],
        "embeddings": base64.b64encode(rows.astype("<f4").tobytes()).decode(),
        "made": made.model_dump(),
    }
    plain = json.loads(json.dumps(content))
    plain["digest"] = manifest_digest(plain)
    return SiteVocabulary.model_validate_json(json.dumps(plain))


def as_text(vocabulary: SiteVocabulary) -> str:
    """What a vocabulary file holds."""
    return json.dumps(json.loads(vocabulary.model_dump_json()), indent=1, ensure_ascii=False) + "\n"


def read_site_vocabulary(file: Path, bundle: ModelBundle) -> SiteVocabulary:
    """Read a vocabulary file and check that it is whole and of this bundle.

    Args:
        file: its path; `~` stands for the home.
        bundle: whose embeddings it is to be compared with.

    Raises:
        SiteVocabularyError: it is missing, damaged or another bundle's.
    """
    vocabulary = _read(file)
    ours, theirs = bundle.digest, vocabulary.bundle
    if theirs.digest != ours or vocabulary.width != bundle.manifest.vision.embedding_width:
        raise SiteVocabularyError(
            f"the vocabulary {file} was made for bundle {theirs.name} "
            f"({theirs.digest[:DIGEST_SHOWN]}...), and this is {bundle.manifest.name} "
            f"({ours[:DIGEST_SHOWN]}...); make one with `vlm-perception adapt classes --bundle "
            f"{bundle.path}`"
        )
    return vocabulary


def _read(file: Path) -> SiteVocabulary:
    try:
        with open_ordinary(file.expanduser()) as stream:
            content = stream.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise SiteVocabularyError(
            f"there is no vocabulary {file}; give the path of one on this machine, as "
            "`vlm-perception adapt classes` writes it"
        ) from error
    # A home that does not exist is a RuntimeError.
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SiteVocabularyError(
            f"the vocabulary {file} cannot be read ({reason}); give one that can be"
        ) from error
    if len(content) > MOST_BYTES:
        raise _damaged(file, f"it is larger than {MOST_BYTES} bytes")
    try:
        vocabulary = SiteVocabulary.model_validate_json(content)
    except ValidationError as error:
        raise _damaged(file, describe_errors(error)) from error
    if manifest_digest(json.loads(content)) != vocabulary.digest:
        raise _damaged(file, "it does not match its own digest: it was edited or damaged")
    return vocabulary


def _damaged(file: Path, why: object) -> SiteVocabularyError:
    return SiteVocabularyError(f"the vocabulary {file} cannot be used ({why}); {REMEDY}")
