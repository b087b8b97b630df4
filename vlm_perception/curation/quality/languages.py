# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which captions the encoder of a recipe can read."""

from __future__ import annotations

from vlm_perception.curation.recipe import Quality
from vlm_perception.datasets.captions_file import UNKNOWN, is_in


def knows(quality: Quality, language: str) -> bool:
    """Whether the scoring encoder knows a language, or its region is all that differs.

    Args:
        quality: of the recipe.
        language: a tag of BCP 47; `und` is taken for a known one.
    """
    return is_in(language, (UNKNOWN, *quality.languages))
