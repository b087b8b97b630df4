# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Phrases that are looked for, and their boxes from patch embeddings."""

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from threading import Event

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.locator import METHODS, WAITING, Locator
from vlm_perception.perception.locating.patches import PatchLocator, PhraseQuery
from vlm_perception.perception.locating.phrase import Place, parse_phrase
from vlm_perception.perception.locating.still import locate_all
from vlm_perception.perception.preprocess import Placement, place
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame, LocatedBox


@pytest.mark.parametrize(
    ("text", "thing", "place"),
    [
        ("car", "car", None),
        (" the  small car. ", "small car", None),
        ("the pedestrian on the left", "pedestrian", Place.LEFT),
        ("a cone, which is on the right-hand side of the road", "cone", Place.RIGHT),
        ("the bus in the middle of the image", "bus", Place.MIDDLE),
        ("left car", "car", Place.LEFT),
        ("the left-most traffic light", "traffic light", Place.LEFTMOST),
        ("Nearest car", "car", Place.NEAREST),
        ("the largest truck", "truck", Place.LARGEST),
        # Words of place within a name stay.
        ("a keep right sign", "keep right sign", None),
        ("right turn arrow sign", "right turn arrow sign", None),
        ("the left-hand bend on the right", "left-hand bend", Place.RIGHT),
        ("left lane", "lane", Place.LEFT),
    ],
)
def test_words_of_place_are_taken_out(text: str, thing: str, place: Place | None) -> None:
    phrase = parse_phrase(text)
    assert (phrase.thing, phrase.place) == (thing, place)


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
        ("on the left", "says where but not what"),
        ("the right side of the road", "says where but not what"),
        *((text, "does not say what") for text in ("the left", "leftmost", "Most distant")),
        *(
            (text, "does not say what")
            for text in ("the red one", "something in blue", "red", "it")
        ),
        ("?!", "names nothing"),
        ("<;>", "names nothing"),
        ("left (;)", "says where but not what"),
    ],
)
def test_a_phrase_that_cannot_be_used_gets_one_sentence(text: str, message: str) -> None:
    with pytest.raises(LocateError, match=message):
        parse_phrase(text)


@pytest.mark.parametrize(
    ("text", "thing", "colour"),
    [
        ("the red car", "car", "red"),
        ("a gray-coloured truck", "truck", "grey"),
        ("the pedestrian in green on the left", "pedestrian", "green"),
        ("person wearing a blue jacket", "person", "blue"),
        # Neither is paint.
        ("red traffic light", "red traffic light", ""),
        ("The Red Traffic Light on the left", "red traffic light", ""),
        ("the green light", "green light", ""),
        ("red and white barrier", "red and white barrier", ""),
    ],
)
def test_colours_of_things_are_taken_out(text: str, thing: str, colour: str) -> None:
    phrase = parse_phrase(text, labels=["red traffic light"])
    assert (phrase.thing, phrase.colour) == (thing, colour)
    assert bool(phrase.coloured) == bool(colour)


ROWS, COLUMNS, PATCH = 9, 16, 20
"""The grid of the shipped bundle."""


@pytest.fixture(scope="module")
def locator() -> PatchLocator:
    return PatchLocator(ModelBundle.load("roadworld-nano"))


def patches_with(query: PhraseQuery, cells: list[tuple[int, int]]) -> NDArray[np.float32]:
    """Patch embeddings [K, D] that agree with a phrase in these cells (row, column) alone."""
    text = query.vocabulary.embeddings[0]
    patches = np.tile(-text, (ROWS * COLUMNS, 1))
    patches[[row * COLUMNS + column for row, column in cells]] = text
    return patches


def find(
    locator: PatchLocator,
    phrase: str,
    cells: list[tuple[int, int]],
    camera: tuple[int, int] = (1280, 720),
    fitted: NDArray[np.uint8] | None = None,
) -> tuple[tuple[LocatedBox, ...], Placement]:
    query, placement = locator.query(phrase), place(camera, (COLUMNS * PATCH, ROWS * PATCH))
    index = np.arange(ROWS * COLUMNS, dtype=np.uint16)
    return locator.find(query, patches_with(query, cells), index, placement, fitted), placement


CAMERAS = st.tuples(st.integers(64, 1920), st.integers(64, 1200))


@given(row=st.integers(0, ROWS - 1), column=st.integers(0, COLUMNS - 1), camera=CAMERAS)
def test_the_box_is_within_half_a_patch_of_where_the_phrase_is(
    locator: PatchLocator, row: int, column: int, camera: tuple[int, int]
) -> None:
    boxes, placement = find(locator, "car", [(row, column)], camera)
    true = placement.in_source((column * PATCH, row * PATCH, PATCH, PATCH))
    across = PATCH * placement.source_width / placement.width
    down = PATCH * placement.source_height / placement.height
    if not boxes:
        # Only where the patch is not wholly in the image.
        assert true[2] < across - 1e-6 or true[3] < down - 1e-6
        return
    (box,) = boxes
    assert box.x >= 0.0 and box.x + box.width <= camera[0] + 1e-6
    assert box.y >= 0.0 and box.y + box.height <= camera[1] + 1e-6
    assert abs(box.x + box.width / 2 - true[0] - true[2] / 2) <= across / 2 + 1e-6
    assert abs(box.y + box.height / 2 - true[1] - true[3] / 2) <= down / 2 + 1e-6
    assert 0.5 < box.score <= 1.0


@given(
    first=st.tuples(st.integers(0, ROWS - 1), st.integers(0, 6)),
    second=st.tuples(st.integers(0, ROWS - 1), st.integers(9, COLUMNS - 1)),
)
def test_two_things_are_two_boxes_and_words_of_place_choose(
    locator: PatchLocator, first: tuple[int, int], second: tuple[int, int]
) -> None:
    boxes, _ = find(locator, "car", [first, second])
    left, right = sorted(boxes, key=lambda box: box.x)
    for phrase, wanted in (
        ("the car on the left", left),
        ("the car on the right", right),
        ("rightmost car", right),
        ("leftmost car", left),
    ):
        assert find(locator, phrase, [first, second])[0] == (wanted,)


@given(
    x=st.integers(60, 220),
    y=st.integers(60, 100),
    width=st.integers(12, 50),
    height=st.integers(12, 50),
)
def test_the_outline_follows_the_colours_of_the_image(
    locator: PatchLocator, x: int, y: int, width: int, height: int
) -> None:
    fitted = np.full((ROWS * PATCH, COLUMNS * PATCH, 3), 90, np.uint8)
    fitted[y : y + height, x : x + width] = (200, 40, 45)
    seen = (fitted[..., 0] == 200).reshape(ROWS, PATCH, COLUMNS, PATCH).mean(axis=(1, 3)) > 0.03
    cells = [(int(row), int(column)) for row, column in np.argwhere(seen)]
    (box,), _ = find(locator, "car", cells, (320, 180), fitted)
    edges = np.array((box.x - x, box.y - y, box.x + box.width - x - width))
    assert np.abs(edges).max() <= 2.0
    assert abs(box.y + box.height - y - height) <= 2.0


@given(gap=st.integers(4, 24), place=st.sampled_from((Place.LEFTMOST, Place.RIGHTMOST)))
def test_of_two_things_in_one_peak_words_of_place_choose(
    locator: PatchLocator, gap: int, place: Place
) -> None:
    fitted = np.full((ROWS * PATCH, COLUMNS * PATCH, 3), 90, np.uint8)
    left, right = 80 - 16 - gap // 2, 80 + gap - gap // 2
    fitted[80:100, left : left + 16] = fitted[80:100, right : right + 16] = (200, 40, 45)
    (box,), _ = find(locator, f"{place.value} car", [(4, 3), (4, 4)], (320, 180), fitted)
    true = left if place is Place.LEFTMOST else right
    assert true < box.x + box.width / 2 < true + 16


def test_a_colour_chooses_by_the_pixels_where_there_are_some(locator: PatchLocator) -> None:
    fitted = np.full((ROWS * PATCH, COLUMNS * PATCH, 3), 90, np.uint8)
    fitted[80:100, 40:60], fitted[80:100, 240:260] = (200, 40, 45), (40, 80, 170)
    cells = [(4, 2), (4, 12)]
    for colour, centre in (("red", 50), ("blue", 250)):
        (box,), _ = find(locator, f"the {colour} car", cells, (320, 180), fitted)
        assert abs(box.x + box.width / 2 - centre) <= 2.0


def test_what_is_nowhere_has_no_box(locator: PatchLocator) -> None:
    assert find(locator, "car", [])[0] == ()


def test_a_phrase_longer_than_the_text_tower_reads_gets_one_sentence(
    locator: PatchLocator,
) -> None:
    with pytest.raises(LocateError, match="text tower takes 48"):
        locator.query("zebra " * 33)


def test_phrases_take_no_room_of_the_labels(
    locator: PatchLocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [spec.label for spec in ModelBundle.load("roadworld-nano").manifest.vocabulary.labels]
    for module in ("locating.patches", "vision.vocabulary"):
        monkeypatch.setattr(f"vlm_perception.perception.{module}.MOST_LABELS", len(labels))
    things = ["zebra", *labels]
    queries = locator.queries([f"the {thing} on the left" for thing in things])
    assert [query.vocabulary.labels for query in queries] == [(thing,) for thing in things]
    # What is kept holds on to nothing else.
    assert all(query.vocabulary.embeddings.base is None for query in queries)


def test_a_bundle_whose_labels_share_one_probability_can_be_asked(
    clip_bundle: ModelBundle,
) -> None:
    image = np.random.default_rng(3).integers(0, 256, (90, 160, 3), np.uint8)
    phrases = ["the red kettle on the left", "a bird"]
    for boxes in locate_all(clip_bundle, image, phrases, "patch").values():
        assert isinstance(boxes, tuple)
        for box in boxes:
            assert 0.0 <= box.x < box.x + box.width <= 160.0 and 0.0 < box.score <= 1.0
            assert 0.0 <= box.y < box.y + box.height <= 90.0


def test_an_image_that_was_not_fitted_is_refused(locator: PatchLocator) -> None:
    with pytest.raises(LocateError, match=r"shape \[720, 1280, 3\], not \[180, 320, 3\]"):
        find(locator, "car", [], fitted=np.zeros((720, 1280, 3), np.uint8))


def test_a_search_does_not_wait_for_what_a_model_writes() -> None:
    (patch, model), over = METHODS, Event()
    bundle = ModelBundle.load("roadworld-nano")
    frame = VisionEncoder(bundle).encode(Frame(np.full((180, 320, 3), 90, np.uint8), 1), 0)

    def writes(_: Embedding, phrase: str) -> tuple[LocatedBox, ...]:
        assert over.wait(60.0), phrase
        return ()

    look = partial(
        Locator(bundle, writes, "").locate, "car", patches=lambda: frame, whole=lambda: frame
    )
    with ThreadPoolExecutor(WAITING + 2) as pool:
        asked = [pool.submit(look, model, track=True) for _ in range(WAITING + 2)]
        try:
            (refused,) = wait(asked, return_when=FIRST_COMPLETED).done
            assert look(patch, track=True).method == patch
        finally:
            over.set()
    assert f"{WAITING} phrases are already waiting" in str(refused.exception())
    assert [each.result().method for each in asked if each is not refused] == [model] * (
        WAITING + 1
    )
