# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of learned prompts, as `vlm-perception adapt learn` writes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlm_perception.bundle.bundle import BundleError, ModelBundle
from vlm_perception.bundle.files import read_arrays
from vlm_perception.bundle.manifest import (
    MOST_TEMPLATES,
    Bias,
    Line,
    Sha256,
    Text,
    describe_errors,
)
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.ordinary_files import open_ordinary
from vlm_perception.outputs.file import write_whole

FORMAT_VERSION: Final = 1
SPEC, ARRAYS = "prompts.json", "prompts.npz"
MOST_BYTES = 1 << 20
FEWEST, MOST = 2, 32
"""Soft prompts."""
HEAD = ("weight_in", "bias_in", "weight_out", "bias_out")
PREFIX = "prompts/"


class PromptsError(VlmPerceptionError):
    """Learned prompts cannot be used; the message says why and what to do."""


class PromptsSpec(BaseModel):
    """What prompts.json holds."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    format_version: Literal[1] = FORMAT_VERSION
    arrays: Sha256
    """Of the arrays themselves; see `arrays_digest`."""
    weights: Annotated[dict[str, Sha256], Field(min_length=1)]
    """The weight files of the dual encoder that they were learned for, by name."""
    templates: Annotated[tuple[Line, ...], Field(min_length=1, max_length=MOST_TEMPLATES)]
    """The hand-written prompts, which are one view of each class."""
    temperature: Annotated[float, Field(gt=0.0, le=100.0)]
    """Of the contrast."""
    bias: Bias | None
    """Of a logit, where labels have a probability each; refitted to the classes of the source, with
    positives and negatives averaged apart. None: labels share one probability."""
    classes: Annotated[int, Field(ge=2)]
    """Of the source."""
    images: Annotated[int, Field(ge=1)]
    source: Text
    steps: Annotated[int, Field(ge=0)]
    seed: int


@dataclass(frozen=True)
class LearnedPrompts:
    """Soft prompts and the projection through which classes are contrasted."""

    folder: Path
    spec: PromptsSpec
    context: NDArray[np.float32]
    """[n, W]."""
    head: Mapping[str, NDArray[np.float32]]
    """[H, D], [H], [P, H] and [P] by HEAD."""

    @property
    def digest(self) -> str:
        """What tells them from others."""
        return hashlib.sha256(self.spec.model_dump_json().encode()).hexdigest()

    def require_of(self, bundle: ModelBundle) -> None:
        """Refuse prompts that were learned for another checkpoint than the bundle's.

        Raises:
            PromptsError: they were.
        """
        made_of = set(bundle.manifest.made_by.weights.values())
        if not set(self.spec.weights.values()) <= made_of:
            raise PromptsError(
                f"the prompts of {self.folder} were learned for another checkpoint than that of "
                f"bundle {bundle.manifest.name} ({bundle.manifest.made_by.checkpoint}); learn some "
                "for it with `vlm-perception adapt learn`"
            )


def arrays_digest(arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """Hash of arrays by their names, shapes and numbers."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        whole.update(f"{name} {arrays[name].shape}\n".encode())
        whole.update(np.ascontiguousarray(arrays[name], "<f4").tobytes())
    return whole.hexdigest()


def write_prompts(
    folder: Path, spec: PromptsSpec, arrays: Mapping[str, NDArray[np.float32]]
) -> None:
    """Write learned prompts; prompts.json comes last."""
    # Any: numpy's own types take the arrays for the function's switches.
    named: Any = {f"{PREFIX}{name}": value for name, value in arrays.items()}
    np.savez(folder / ARRAYS, **named)
    write_whole(folder / SPEC, spec.model_dump_json(indent=1) + "\n")


def read_prompts(folder: Path) -> LearnedPrompts:
    """Read learned prompts and check that they are whole.

    Raises:
        PromptsError: they are missing, unfinished or damaged.
    """
    try:
        with open_ordinary(folder / SPEC) as stream:
            spec = PromptsSpec.model_validate_json(stream.read(MOST_BYTES))
        arrays = read_arrays(folder / ARRAYS, PREFIX)
    except FileNotFoundError as error:
        raise PromptsError(
            f"{folder} has no {SPEC}: it is no folder of learned prompts, or learning did not "
            "finish; `vlm-perception adapt learn` makes one, or goes on"
        ) from error
    except ValidationError as error:
        raise _damaged(folder, describe_errors(error)) from error
    except OSError as error:
        raise _damaged(folder, error) from error
    except BundleError as error:
        raise _damaged(folder, f"{ARRAYS} is missing or damaged") from error
    if set(arrays) != {"context", *HEAD} or arrays_digest(arrays) != spec.arrays:
        raise _damaged(folder, f"{ARRAYS} does not match {SPEC}")
    context = arrays.pop("context")
    return LearnedPrompts(folder, spec, context, arrays)


def _damaged(folder: Path, why: object) -> PromptsError:
    return PromptsError(
        f"the prompts of {folder} cannot be used ({why}); copy them again, or learn them again "
        "with `vlm-perception adapt learn`"
    )
