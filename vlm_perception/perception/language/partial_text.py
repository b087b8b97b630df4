# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Text while it is written: what of an unfinished sentence may be shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

UNFINISHED = " ..."
"""Ends a text that the model did not end itself."""


class PartialText:
    """Shows a growing text word by word, and no object that is not seen.

    A word is shown when the next one begins. From the first label on that is named without being
    tagged in the frame, or that might become one, the text is held back until it is finished: a
    half sentence that ends in "pedestrian" may yet turn out to deny one.
    """

    def __init__(self, untagged: Sequence[str]) -> None:
        """Start empty.

        Args:
            untagged: labels that the frame has no tag of.
        """
        self._untagged = _names(untagged) if untagged else None
        self.shown = ""

    def grow(self, text: str) -> str:
        """Take the text as far as it has come; return what can be shown now beyond what was."""
        words = text[: _last_space(text)]
        unseen = self._untagged.search(words) if self._untagged else None
        return self._show(words[: unseen.start()].rstrip() if unseen else words)

    def finish(self, text: str) -> str:
        """Take the text that the model has ended, and return the rest of it."""
        return self._show(text)

    def _show(self, text: str) -> str:
        if not text.startswith(self.shown):
            return ""
        new, self.shown = text[len(self.shown) :], text
        return new


def _last_space(text: str) -> int:
    return next((at for at in range(len(text) - 1, 0, -1) if text[at].isspace()), 0)


def _names(labels: Sequence[str]) -> re.Pattern[str]:
    """Matches each label, in the plural too, and at the end of a text its first words alone."""
    alternatives = []
    for label in labels:
        words = [re.escape(word) for word in label.split()]
        alternatives.append(r"\s+".join(words) + r"(?:e?s)?(?!\w)")
        alternatives += [r"\s+".join(words[:count]) + r"\s*$" for count in range(1, len(words))]
    return re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})", re.IGNORECASE)
