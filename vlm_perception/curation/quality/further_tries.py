# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Captions that are neither good nor bad are written again, while there are tries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_perception.curation.captioning.captioner import (
    Caption,
    CaptionerDownError,
    Failure,
    open_captioner,
)
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

    def captions(self, record: Record, language: str) -> Iterator[dict[str, Any] | Failure]:
        """New captions of an image, each when it is asked for, and attempts that gave none.

        Args:
            record: of the image.
            language: of a caption that it has.

        Raises:
            CurationError, OSError: as those of the captioner.
            CaptionerDownError: likewise, and where no captioner is there.
        """
        if self._captioner is None or self._captions is None:
            return
        tag = self._recipe_tag(language)
        if tag is None:
            return
        known = {each["text"] for each in record.get("captions", ())}
        first = 2 if tag in record.get("written", ()) else 1
        last: Caption | Failure | None = None
        for last in self._captioner.attempts(record, tag, first):
            if isinstance(last, Failure):
                yield last
            elif last.text not in known:
                known.add(last.text)
                yield last.record()
        if isinstance(last, Failure) and last.absent:
            raise CaptionerDownError(f"{last.reason}; run again when the captioner answers")

    def _recipe_tag(self, language: str) -> str | None:
        """As the recipe writes it; None: it does not ask for it."""
        tags = self._captions.languages if self._captions else ()
        given = language.lower()
        fitting = (t for t in tags if given == t.lower() or given.startswith(f"{t.lower()}-"))
        return next(fitting, None)
