# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Captions that are neither good nor bad are written again, while there are tries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_perception.curation.captioning.captioner import Caption, open_captioner
from vlm_perception.curation.recipe import Captions
from vlm_perception.curation.tasks import Record


class FurtherTries:
    """The tries of a captioner that 02_captioned has left."""

    def __init__(self, folder: Path, captions: Captions | None) -> None:
        """Open the captioner of a recipe, if it has one."""
        self._captions = captions
        self._captioner = open_captioner(captions, folder) if captions is not None else None

    @property
    def by(self) -> str:
        """The model's name; empty where there is none."""
        return self._captioner.by if self._captioner else ""

    def captions(self, record: Record, language: str) -> Iterator[dict[str, Any]]:
        """New captions of an image, each when it is asked for.

        Args:
            record: of the image.
            language: of a caption that it has.

        Raises:
            CurationError, CaptionerDownError, OSError: as those of the captioner.
        """
        if self._captioner is None or self._captions is None:
            return
        tag = self._recipe_tag(language)
        if tag is None:
            return
        known = {each["text"] for each in record.get("captions", ())}
        first = 2 if tag in record.get("written", ()) else 1
        for attempt in range(first, self._captions.tries + 1):
            came = self._captioner.caption(record, tag, attempt)
            if isinstance(came, Caption) and came.text not in known:
                known.add(came.text)
                yield came.record()

    def _recipe_tag(self, language: str) -> str | None:
        """As the recipe writes it; None: it does not ask for it."""
        tags = self._captions.languages if self._captions else ()
        given = language.lower()
        fitting = (t for t in tags if given == t.lower() or given.startswith(f"{t.lower()}-"))
        return next(fitting, None)
