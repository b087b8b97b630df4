# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How boxes are written in each family's format, and that only such answers are read."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.formats.box_format import LONGEST_SHOWN, PictureBox
from vlm_perception.perception.locating.formats.known import FORMATS, format_named

PIXELS, SIZE = (640, 448), (640, 448)
QWEN3, QWEN2, KOSMOS = FORMATS["qwen3-vl"], FORMATS["qwen2-vl"], FORMATS["kosmos-2"]
# Published examples of answers, and what they mean: of Qwen's fine-tuning data and issues, of
# PaliGemma's README, of transformers' Kosmos2Processor.
PUBLISHED = {
    "qwen2.5-vl": (
        '```json\n[\n\t{"bbox_2d": [135, 114, 640, 448], "label": "house"}\n]\n```',
        (135, 114, 640, 448),
    ),
    "qwen3-vl": ('[{"bbox_2d": [250, 500, 500, 1000], "label": "cat"}]', (160, 224, 320, 448)),
    "qwen2-vl": (
        "<|object_ref_start|>击掌<|object_ref_end|><|box_start|>(500,500),(625,750)<|box_end|>",
        (320, 224, 400, 336),
    ),
    "paligemma": ("<loc0341><loc0000><loc0682><loc1023> cat", (0, 448 / 3, 640, 448 * 2 / 3)),
    "kosmos-2": (
        "<object><patch_index_0044><patch_index_0863></object>",
        (0.390625 * 640, 0.046875 * 448, 0.984375 * 640, 0.828125 * 448),
    ),
}
# Answers that are no boxes of the picture, by format.
NONSENSE = {
    "qwen2.5-vl": [
        "There is a cat at [1, 2, 3, 4].",
        "```json\n[]\n``` Nothing is there.",
        '[{"bbox_2d": [1, 2, 641, 4], "label": "cat"}]',
        '[{"bbox_2d": [-1, 2, 3, 4], "label": "cat"}]',
        '[{"bbox_2d": [3, 2, 1, 4], "label": "cat"}]',
        '[{"bbox_2d": [1, 2, NaN, 4], "label": "cat"}]',
        '[{"bbox_2d": [1, 2, 1e999, 4], "label": "cat"}]',
        '[{"bbox_2d": [true, 2, 3, 4], "label": "cat"}]',
        '[{"bbox_2d": [1, 2, 3], "label": "cat"}]',
        '[{"bbox_2d": "1, 2, 3, 4", "label": "cat"}]',
        '[{"label": "cat"}]',
        '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}',
        "[1, 2, 3, 4]",
        "4",
        "",
        "[" * 100_000,
        f"[{'9' * 5000}]",
    ],
    "qwen3-vl": ['[{"bbox_2d": [250, 500, 500, 1001], "label": "cat"}]'],
    "qwen2-vl": [
        "",
        "There is none.",
        "cat(1,2),(3,4) as you see",
        "cat(1,2),(1001,4)",
        "cat(3,2),(1,4)",
        "cat(1,2)",
        "<|box_start|>(1,2),(3,4)",
    ],
    "paligemma": [
        "cat",
        "<loc0341><loc0000><loc0682> cat",
        "<loc0341><loc0000><loc0682><loc1024> cat",
        "<loc0682><loc0000><loc0341><loc1023> cat",
        "<loc0341><loc0000><loc0682><loc1023><seg001> cat",
        "<loc0341><loc0000><loc0682><loc1023> cat ;",
        "a <loc0341><loc0000><loc0682><loc1023> cat",
    ],
    "kosmos-2": [
        "<object></object>",
        "<object><patch_index_0044></object>",
        "<object><patch_index_0044><patch_index_1024></object>",
        "<object><patch_index_0863><patch_index_0044></object>",
        "<object><patch_index_0044><patch_index_0863></object> on a road",
        "a snowman",
    ],
}


@pytest.mark.parametrize("name", FORMATS)
def test_published_answers_are_read(name: str) -> None:
    text, corners = PUBLISHED[name]
    (box,) = format_named(name).parse(f" {text}\n", PIXELS, truncated=False)
    assert box == pytest.approx(corners)


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in NONSENSE.items() for text in texts]
)
def test_anything_else_is_an_error_that_shows_it(name: str, text: str) -> None:
    with pytest.raises(LocateError, match=name) as caught:
        format_named(name).parse(text, PIXELS, truncated=False)
    assert repr(text.strip()[:20])[1:-1].replace("\\n", " ") in str(caught.value)
    assert len(str(caught.value)) < LONGEST_SHOWN + 250


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_that_was_cut_off_gives_no_box(name: str) -> None:
    with pytest.raises(LocateError, match="cut off"):
        format_named(name).parse(PUBLISHED[name][0], PIXELS, truncated=True)


def test_variants_of_a_family_are_read() -> None:
    one = '{\n"bbox_2d": [250, 500, 500, 1000]\n}'
    assert QWEN3.parse(one, PIXELS, truncated=False) == [(160, 224, 320, 448)]
    tagged = PUBLISHED["qwen2-vl"][0] + "<|box_start|>(0,0),(500,500)<|box_end|>"
    plain = "击掌(500,500),(625,750)(0,0),(500,500)"
    assert QWEN2.parse(tagged, PIXELS, truncated=False) == QWEN2.parse(
        plain, PIXELS, truncated=False
    )
    said = "<phrase> a cone</phrase> <object> <patch_index_0000> <patch_index_0000> </object>"
    assert KOSMOS.parse(said, (32, 32), truncated=False) == [(0, 0, 1, 1)]


def test_no_such_thing_is_no_box() -> None:
    for name in ("qwen2.5-vl", "qwen3-vl", "paligemma", "kosmos-2"):
        made = format_named(name)
        assert made.parse(made.write([], "a cone", PIXELS), PIXELS, truncated=False) == []
    with pytest.raises(LocateError, match="no answer"):
        QWEN2.write([], "a cone", PIXELS)


@st.composite
def box_lists(draw: st.DrawFn) -> list[PictureBox]:
    """Boxes in a picture of SIZE, at least a pixel wide and high."""
    boxes = []
    for _ in range(draw(st.integers(1, 4))):
        edges = []
        for side in SIZE:
            low = draw(st.floats(0, side - 1))
            edges.append((low, draw(st.floats(low + 1, side))))
        (left, right), (top, bottom) = edges
        boxes.append(PictureBox(left, top, right, bottom))
    return boxes


@given(
    boxes=box_lists(),
    name=st.sampled_from(sorted(FORMATS)),
    phrase=st.text('ab c"é1,;:<>()[]{}|/\\`', max_size=9),
)
def test_what_is_written_is_read_again(boxes: list[PictureBox], name: str, phrase: str) -> None:
    # Within half a step, or a pixel where steps are finer; a step where a bin is a whole box.
    step = {"paligemma": 1 / 1023, "kosmos-2": 1 / 32}.get(name, 1 / 1000)
    made = format_named(name)
    text = made.write(boxes, phrase, SIZE)
    read = made.parse(text, SIZE, truncated=False)
    assert len(read) == len(boxes)
    if name == "qwen2-vl":
        # Servers leave control tokens out.
        assert made.parse(re.sub(r"<\|.*?\|>", "", text), SIZE, truncated=False) == read
    for box, again in zip(boxes, read, strict=True):
        assert 0 <= again.left < again.right <= SIZE[0]
        assert 0 <= again.top < again.bottom <= SIZE[1]
        for before, after, side in zip(box, again, SIZE * 2, strict=True):
            assert abs(before - after) <= max(1.0, step * side) + 1e-9


@given(text=st.text('[]{}":0123456789.-,()<>|/ \n`eNax_bdlocpthijsru;', max_size=60))
def test_no_answer_makes_trouble(text: str) -> None:
    for made in FORMATS.values():
        try:
            boxes = made.parse(text, SIZE, truncated=False)
        except LocateError:
            continue
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= SIZE[0]
            assert 0 <= top < bottom <= SIZE[1]


@pytest.mark.parametrize("name", FORMATS)
def test_a_long_answer_is_read_at_once(name: str) -> None:
    """White space and repetitions, with which patterns may take long."""
    made, text = format_named(name), PUBLISHED[name][0]
    for each in (text + "\n" * 15_000 + "<", "a " * 9_000, text[:5] * 3_000, "x" * 2_000_000):
        with pytest.raises(LocateError, match=name):
            made.parse(each, PIXELS, truncated=False)


def test_prompts_keep_the_phrase() -> None:
    assert all("a red cone" in made.prompt("a red cone") for made in FORMATS.values())


def test_json_of_qwen_is_what_its_cookbook_shows() -> None:
    text = FORMATS["qwen2.5-vl"].write([PictureBox(1.2, 2, 3, 4.4)], 'a "red" cone', SIZE)
    assert text.startswith("```json\n[\n\t{")
    assert json.loads(text[7:-3]) == [{"bbox_2d": [1, 2, 3, 4], "label": 'a "red" cone'}]
