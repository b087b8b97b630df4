# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a format of boxes can do: the prompt that asks for them, writing them and reading them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from vlm_perception.perception.locating.errors import LocateError

LONGEST_ANSWER = 20_000
"""Characters of an answer that is read."""
LONGEST_SHOWN = 200
"""Characters of an answer that an error quotes."""
_MARKS = re.compile(r"[;<>()]")


class PictureBox(NamedTuple):
    """A box in pixels of the picture that a model looks at, from the edge of its first pixel."""

    left: float
    top: float
    right: float
    bottom: float


class NoBoxesError(LocateError):
    """An answer is not written in the format; the text says in a few words what is wrong."""


class BoxFormat(ABC):
    """How one family of language models writes boxes."""

    name: str
    most_tokens: int
    """An answer with more tokens is cut off: some twenty boxes."""

    @abstractmethod
    def prompt(self, phrase: str) -> str:
        """Ask for all boxes of what a phrase names, as the family's authors do."""

    @abstractmethod
    def write(self, boxes: Sequence[PictureBox], phrase: str, size: tuple[int, int]) -> str:
        """Write boxes as the family does, to whole steps of its coordinates.

        Args:
            boxes: inside the picture; none: what the phrase names is not there.
            phrase: what is in them.
            size: width and height of the picture.

        Raises:
            LocateError: there are none, and the format has no answer for that.
        """

    def parse(self, text: str, size: tuple[int, int], *, truncated: bool) -> list[PictureBox]:
        """Read a whole answer; it is empty where the model says that there is no such thing.

        Args:
            text: what the model has written, without control tokens.
            size: width and height of the picture.
            truncated: whether the model had not come to its end.

        Raises:
            LocateError: it is anything but boxes inside the picture, or was cut off.
        """
        try:
            if truncated:
                raise NoBoxesError("it was cut off before its end")
            if len(text) > LONGEST_ANSWER:
                raise NoBoxesError(f"it has {len(text)} characters")
            return self._boxes(" ".join(text.split()), size)
        except NoBoxesError as fault:
            raise LocateError(
                f"the language model did not answer with boxes ({self.name}): {fault}: "
                f"{quoted(text)}; try another phrase, or the method patch"
            ) from fault

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the picture that a server's processor makes of an image.

        Only a format of pixels needs them.
        """
        return size

    @abstractmethod
    def _boxes(self, text: str, size: tuple[int, int]) -> list[PictureBox]:
        """Read an answer without white space around it, and with single spaces in it.

        Raises:
            NoBoxesError: it is not written in this format.
        """


def quoted(text: str) -> str:
    """An answer on one line, shortened."""
    shown = " ".join(text.split())
    return repr(shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}...")


def plain(phrase: str) -> str:
    """A phrase without the marks that separate boxes and labels: models repeat it beside a box."""
    return " ".join(_MARKS.sub(" ", phrase).split())


def scaled(
    corners: Sequence[float], size: tuple[int, int], units: tuple[float, float]
) -> PictureBox:
    """A box from left, top, right and bottom, where a picture is so many units wide and high.

    Raises:
        NoBoxesError: it is empty, reversed, or partly outside the picture.
    """
    left, top, right, bottom = corners
    across, down = units
    if not (0 <= left <= across and 0 <= right <= across):
        raise NoBoxesError(f"a box is outside the picture, which is {across:g} wide")
    if not (0 <= top <= down and 0 <= bottom <= down):
        raise NoBoxesError(f"a box is outside the picture, which is {down:g} high")
    if not (left < right and top < bottom):
        raise NoBoxesError("a box has its corners in the wrong order")
    x, y = size[0] / across, size[1] / down
    return PictureBox(left * x, top * y, right * x, bottom * y)


def stepped(
    box: PictureBox, size: tuple[int, int], units: tuple[float, float], last: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box in whole units, at least one apart.

    Args:
        box: the box.
        size: width and height of the picture in pixels.
        units: the same in the units that are written.
        last: the largest numbers that can be written.
    """
    left, right = _steps(box.left, box.right, units[0] / size[0], last[0])
    top, bottom = _steps(box.top, box.bottom, units[1] / size[1], last[1])
    return left, top, right, bottom


def _steps(low: float, high: float, scale: float, last: int) -> tuple[int, int]:
    first = min(max(0, round(low * scale)), last - 1)
    return first, min(max(first + 1, round(high * scale)), last)
