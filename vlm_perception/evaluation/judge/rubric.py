# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a judge is asked, and how its answers are read.

Both forms, a score and a choice between two texts, are those of Zheng et al., Judging
LLM-as-a-Judge with MT-Bench and Chatbot Arena, NeurIPS 2023, section 3.1.
"""

from __future__ import annotations

import hashlib
import re
from importlib import resources

import yaml

from vlm_perception.perception.language.served.sent_image import message
from vlm_perception.perception.served.completions import Request

MAX_TOKENS = 1024
"""Room for a model that thinks aloud; an answer that needs more is a failure."""
LENGTH = "length"
"""Why an answer ended that had no more room."""
FIRST, SECOND, TIE = "first", "second", "tie"
"""Which of two texts is better, by where they stand."""
_EMPHASIS = re.compile(r"[\s*_`>#]+")


class Rubric:
    """The questions to a judge, as rubric.yaml has them."""

    def __init__(self) -> None:
        """Read the file."""
        content = (resources.files(__package__) / "rubric.yaml").read_bytes()
        self.digest = hashlib.sha256(content).hexdigest()
        self._texts: dict[str, str] = yaml.safe_load(content)

    def request(self, image: str, question: str, *texts: str) -> Request:
        """Ask how good a text is, or which of two is better.

        Args:
            image: a data URL.
            question: that the texts answer; empty: they are captions.
            texts: one or two, in the order in which they stand.
        """
        # No text may end its frame, however it spells the end.
        enclosed = (text.replace("<", "&lt;") for text in texts)
        asked = self._texts["score" if len(texts) == 1 else "pair"].format(
            *enclosed, criteria=self._texts["criteria"], question=question or self._texts["caption"]
        )
        system = {"role": "system", "content": self._texts["system"]}
        return Request([system, message([image], asked)], MAX_TOKENS)


def read_score(answer: str) -> int | None:
    """The score that an answer gives; None where it gives none, or several."""
    found = _last_words(answer, "SCORE", "([1-5])(?:/5)?")
    return None if found is None else int(found)


def read_verdict(answer: str) -> str | None:
    """FIRST, SECOND or TIE, as an answer has it; None where it has none of them, or several."""
    return _last_words(answer, "VERDICT", f"({FIRST}|{SECOND}|{TIE})")


def _last_words(answer: str, word: str, values: str) -> str | None:
    """What follows a word on a line of its own, if all such lines agree; emphasis is allowed."""
    line = re.compile(f"{word}:{values}\\.?", re.IGNORECASE)
    matches = (line.fullmatch(_EMPHASIS.sub("", each)) for each in answer.splitlines())
    found = {match[1].lower() for match in matches if match}
    return found.pop() if len(found) == 1 else None
