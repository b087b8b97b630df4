# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Phrases that are looked for, and their boxes from patch embeddings."""

import pytest

from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.phrase import Phrase, Place, parse_phrase


@pytest.mark.parametrize(
    ("text", "thing", "place"),
    [
        ("car", "car", None),
        (" the  red car. ", "red car", None),
        ("the pedestrian on the left", "pedestrian", Place.LEFT),
        ("a cone, which is on the right-hand side of the road", "cone", Place.RIGHT),
        ("the bus in the middle of the image", "bus", Place.MIDDLE),
        ("left car", "car", Place.LEFT),
        ("the left-most traffic light", "traffic light", Place.LEFTMOST),
        ("Nearest car", "car", Place.NEAREST),
        ("the largest truck", "truck", Place.LARGEST),
        # Words of place within a name stay.
        ("a keep right sign", "keep right sign", None),
    ],
)
def test_words_of_place_are_taken_out(text: str, thing: str, place: Place | None) -> None:
    phrase = parse_phrase(text)
    assert (phrase.thing, phrase.place) == (thing, place)
    assert isinstance(phrase, Phrase)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  ", "is empty"),
        ("x" * 1000, "has 1000 characters; give at most 200"),
        ("a\x1b[31mcar", "control characters"),
        ("a\ncar", "control characters"),
        ("\ud800", "not valid UTF-8"),
        ("the one on the left", "says where but not what"),
        ("the nearest one", "says where but not what"),
        ("?!", "names nothing"),
    ],
)
def test_a_phrase_that_cannot_be_used_gets_one_sentence(text: str, message: str) -> None:
    with pytest.raises(LocateError, match=message):
        parse_phrase(text)
