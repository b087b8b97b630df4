# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What places phrases: the methods of the package, and baselines that know less."""

from __future__ import annotations

from typing import Protocol

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.evaluation.locate.phrases import Asked
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.locator import MODEL, PATCH
from vlm_perception.perception.locating.methods import Method, PatchMethod, model_of_bundle
from vlm_perception.perception.locating.patches import PatchLocator
from vlm_perception.types import Embedding, LocatedBox


class Places(Protocol):
    """A way to place phrases in one scene after the other."""

    def look(self, embedding: Embedding) -> None:
        """Take the next scene."""

    def find(self, asked: Asked) -> tuple[LocatedBox, ...]:
        """Place a phrase in it, the best box first.

        Raises:
            LocateError: no box can be made of what the method gives.
        """


class ByPhrase:
    """A method of the package, which gets the words and no more."""

    def __init__(self, method: Method) -> None:
        """Take a method that is loaded."""
        self._method = method

    def look(self, embedding: Embedding) -> None:
        """Take the next scene."""
        self._method.look(embedding)

    def find(self, asked: Asked) -> tuple[LocatedBox, ...]:
        """Place the phrase."""
        return self._method.find(asked.phrase)


class Whole:
    """Baseline: the whole image, whatever is asked."""

    def look(self, embedding: Embedding) -> None:
        """Take the next scene."""
        width, height = embedding.image_size
        self._box = LocatedBox(0.0, 0.0, float(width), float(height), float("nan"))

    def find(self, asked: Asked) -> tuple[LocatedBox, ...]:
        """Return it."""
        return (self._box,)


class Regions:
    """Baseline: the regions of the scene's tags that have the phrase's label."""

    def look(self, embedding: Embedding) -> None:
        """Take the next scene."""
        self._regions = embedding.regions

    def find(self, asked: Asked) -> tuple[LocatedBox, ...]:
        """The regions of the label, the likeliest first."""
        return tuple(
            LocatedBox(r.x, r.y, r.width, r.height, r.score)
            for r in self._regions
            if r.label == asked.label
        )


class Truth:
    """Upper bound: the boxes of the objects that are meant, the largest first."""

    def look(self, embedding: Embedding) -> None:
        """Take the next scene; nothing is looked at."""

    def find(self, asked: Asked) -> tuple[LocatedBox, ...]:
        """Return them."""
        return tuple(LocatedBox(*o.box, float("nan")) for o in asked.meant)


def methods_of(bundle: ModelBundle, locator: PatchLocator) -> tuple[dict[str, Places], str]:
    """What the bundle can do, what that is compared with, and why a method is missing, if so."""
    methods: dict[str, Places] = {
        PATCH: ByPhrase(PatchMethod(bundle, locator)),
        "patch without pixels": ByPhrase(PatchMethod(bundle, locator, pixels=False)),
    }
    missing = ""
    try:
        methods[MODEL] = ByPhrase(model_of_bundle(bundle))
    except LocateError as error:
        missing = str(error)
    return {**methods, "regions": Regions(), "whole image": Whole(), "true boxes": Truth()}, missing
