# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Draw a scene onto its camera image: boxes, tags, attributes, caption and how far to trust it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vlm_perception.perception.rendering.shown import shown, shown_objects, title
from vlm_perception.types import Attribute, Followed, LocatedObjects, Scene, Status, Tag

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are outside."""
Picture = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

WHITE: Colour = (245, 247, 250)
GREY: Colour = (168, 178, 190)
DARK: Colour = (16, 20, 26)
TRACK: Colour = (58, 66, 76)
GREEN: Colour = (64, 200, 120)
AMBER: Colour = (255, 178, 56)
RED: Colour = (240, 84, 84)
LABEL_COLOURS: tuple[Colour, ...] = (
    (84, 190, 255),
    (255, 178, 56),
    (120, 220, 120),
    (240, 110, 170),
    (180, 150, 255),
    (80, 220, 210),
    (250, 220, 90),
    (255, 130, 90),
)
FOLLOWED: Colour = (255, 96, 255)
STATUS_COLOURS: dict[Status, Colour] = {
    Status.OK: GREEN,
    Status.STALE_REASONING: AMBER,
    Status.NO_REASONING: AMBER,
    Status.DEGRADED: AMBER,
    Status.NO_EMBEDDING: RED,
    Status.NO_CAMERA: RED,
}
MAX_TAGS = 8
MAX_ATTRIBUTES = 10
MAX_REGIONS = 24
MAX_CAPTION_LINES = 2
SMALLEST_READABLE = 96
LEAST_SCALE = 0.7
"""Below it letters cannot be read; small images get fewer panels instead."""
MOST_OF_WIDTH = 0.5
"""A panel that would take more is left out."""
PANEL_OPACITY = 0.68
NOWHERE: Box = (0, 0, 0, 0)


@dataclass(frozen=True)
class _Layout:
    """Lengths in pixels that follow the size of the image."""

    scale: float
    margin: int
    row: int
    text: int
    small: int
    panel: int

    @classmethod
    def of(cls, width: int, height: int) -> _Layout:
        # Two panels side by side need some 710 pixels of a scale of 1.
        scale = max(LEAST_SCALE, min(width / 900, height / 720))
        return cls(
            scale=scale,
            margin=max(2, round(16 * scale)),
            row=max(8, round(27 * scale)),
            text=max(7, round(18 * scale)),
            small=max(6, round(14 * scale)),
            panel=max(60, round(330 * scale)),
        )

    def px(self, length: float) -> int:
        """A length that was designed for 1280x720."""
        return max(1, round(length * self.scale))


def draw_scene(image_rgb: Picture, scene: Scene, located: LocatedObjects | None = None) -> Picture:
    """Draw the scene onto a copy of its image.

    Args:
        image_rgb: uint8 RGB [height, width, 3], of any size; below 96 pixels only boxes are drawn.
        scene: What to draw; its boxes are in pixels of `scene.image_size`.
        located: The followed objects; None: there are none.

    Returns:
        A new uint8 RGB image of the same size.
    """
    canvas = np.array(image_rgb, dtype=np.uint8, order="C")
    height, width = canvas.shape[:2]
    if width == 0 or height == 0:
        return canvas
    layout = _Layout.of(width, height)
    scene = shown(scene)
    boxes = [*_draw_regions(canvas, scene, layout), *_draw_objects(canvas, located, layout)]
    if min(width, height) < SMALLEST_READABLE:
        return canvas
    bottom = _draw_footer(canvas, scene, layout)
    taken = [(layout.margin, bottom, width - layout.margin, height)]
    if layout.panel <= MOST_OF_WIDTH * width:
        taken.append(_draw_tags(canvas, scene.tags, layout, bottom))
        taken.append(_draw_attributes(canvas, scene.attributes, layout, bottom))
    taken += _draw_warnings(canvas, scene, layout, bottom, taken)
    for text, box, colour in boxes:
        _draw_label(canvas, text, box, colour, taken, layout)
    return canvas


@lru_cache(maxsize=32)
def _font(size: int) -> Font:
    try:
        return ImageFont.load_default(size=size)
    except TypeError:  # Pillow before 10.1 (Humble) has one small bitmap font only.
        return ImageFont.load_default()


@lru_cache(maxsize=1024)
def _text_mask(text: str, size: int) -> Picture:
    """Coverage of a line of text, 0..255; cached, since labels and values repeat."""
    picture = Image.new("L", _text_size(text, size), 0)
    ImageDraw.Draw(picture).text((0, 0), text, fill=255, font=_font(size))
    return np.asarray(picture, dtype=np.uint8)


@lru_cache(maxsize=4096)
def _text_size(text: str, size: int) -> tuple[int, int]:
    """Width of a line of text and height of every line of that size."""
    font = _font(size)
    return max(1, round(font.getbbox(text)[2])), max(1, round(font.getbbox("Ápg|")[3]))


def _paint(canvas: Picture, mask: Picture, at: tuple[int, int], colour: Colour) -> None:
    """Blend a colour through a coverage mask whose upper left corner is at (x, y)."""
    height, width = canvas.shape[:2]
    x, y = at
    x0, y0 = max(0, x), max(0, y)
    x1, y1 = min(width, x + mask.shape[1]), min(height, y + mask.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    cover = mask[y0 - y : y1 - y, x0 - x : x1 - x, None].astype(np.uint16)
    part = canvas[y0:y1, x0:x1]
    part[:] = (part * (255 - cover) + np.asarray(colour, np.uint16) * cover) // 255


def _write(
    canvas: Picture, text: str, at: tuple[int, int], size: int, colour: Colour = WHITE
) -> None:
    """Write one line whose upper left corner is at (x, y)."""
    if text:
        _paint(canvas, _text_mask(text, size), at, colour)


@lru_cache(maxsize=128)
def _rounded(width: int, height: int, radius: int) -> Picture:
    """Coverage of a filled rectangle with smooth round corners."""
    oversize = 4
    picture = Image.new("L", (width * oversize, height * oversize), 0)
    ImageDraw.Draw(picture).rounded_rectangle(
        (0, 0, width * oversize - 1, height * oversize - 1), radius * oversize, fill=255
    )
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX), dtype=np.uint8)


@lru_cache(maxsize=128)
def _veil(width: int, height: int, radius: int) -> Picture:
    return (_rounded(width, height, radius) * PANEL_OPACITY).astype(np.uint8)


def _panel(canvas: Picture, at: tuple[int, int], size: tuple[int, int], layout: _Layout) -> None:
    """Darken a rectangle of this width and height."""
    if min(size) > 0:
        _paint(canvas, _veil(*size, layout.px(10)), at, DARK)


def _chip(
    canvas: Picture, text: str, at: tuple[int, int], layout: _Layout, colour: Colour
) -> tuple[int, int]:
    """Write dark text on a coloured chip and return the chip's width and height."""
    size = _chip_size(text, layout)
    _paint(canvas, _rounded(*size, layout.px(6)), at, colour)
    inside = (at[0] + layout.px(7), at[1] + layout.px(3))
    _write(canvas, text, inside, layout.small, DARK)
    return size


def _chip_size(text: str, layout: _Layout) -> tuple[int, int]:
    width, height = _text_size(text, layout.small)
    return width + 2 * layout.px(7), height + 2 * layout.px(3)


def _bar(
    canvas: Picture, share: float, box: tuple[int, int, int, int], layout: _Layout, colour: Colour
) -> None:
    """Draw a horizontal bar filled to `share` (0..1) in a box of x, y, width, height."""
    x, y, width, height = box
    radius = layout.px(3)
    _paint(canvas, _rounded(width, height, radius), (x, y), TRACK)
    filled = round(width * min(1.0, max(0.0, share)))
    if filled > 0:
        _paint(canvas, _rounded(filled, height, radius), (x, y), colour)


def _fit(text: str, size: int, width: int) -> str:
    """Shorten text with an ellipsis until it fits into `width` pixels."""
    if _text_size(text, size)[0] <= width:
        return text
    fits = bisect_left(
        range(len(text)), True, key=lambda end: _text_size(text[:end] + "…", size)[0] > width
    )
    return text[: max(0, fits - 1)].rstrip() + "…"


def _wrap(text: str, size: int, width: int, lines: int) -> list[str]:
    """Break text between words into at most `lines` lines of `width` pixels."""
    rows = [""]
    words = text.split()
    for position, word in enumerate(words):
        longer = f"{rows[-1]} {word}".lstrip()
        if _text_size(longer, size)[0] <= width:
            rows[-1] = longer
        elif len(rows) < lines:
            rows.append(word)
        else:
            rows[-1] = f"{rows[-1]} {' '.join(words[position:])}"
            break
    return [_fit(row, size, width) for row in rows]


def _label_colour(label_index: int) -> Colour:
    return LABEL_COLOURS[label_index % len(LABEL_COLOURS)]


Labelled = tuple[str, Box, Colour]
"""What is to be written beside a box."""


def _draw_regions(canvas: Picture, scene: Scene, layout: _Layout) -> list[Labelled]:
    """Draw the strongest boxes and return where they are."""
    strongest = sorted(scene.regions, key=lambda region: region.score)[-MAX_REGIONS:]
    labelled = []
    for region in strongest:
        colour = _label_colour(region.label_index)
        place = (region.x, region.y, region.width, region.height)
        if box := _draw_box(canvas, place, scene.image_size, colour, layout.px(2)):
            labelled.append((f"{region.label} {region.score:.2f}", box, colour))
    return labelled


def _draw_objects(
    canvas: Picture, located: LocatedObjects | None, layout: _Layout
) -> list[Labelled]:
    """Draw the followed objects, twice as thick as regions, and return where they are."""
    labelled = []
    for each in shown_objects(located):
        colour = FOLLOWED if each.state is Followed.FOUND else GREY
        place = (each.box.x, each.box.y, each.box.width, each.box.height)
        size = located.image_size if located is not None else (0, 0)
        if box := _draw_box(canvas, place, size, colour, layout.px(4)):
            labelled.append((title(each), box, colour))
    return labelled


def _draw_box(
    canvas: Picture,
    place: tuple[float, float, float, float],
    size: tuple[int, int],
    colour: Colour,
    line: int,
) -> Box | None:
    """Draw a box (x, y, width, height) of an image of this size and return where it is."""
    if min(size) <= 0:
        return None
    height, width = canvas.shape[:2]
    across, down = width / size[0], height / size[1]
    x0, y0 = round(place[0] * across), round(place[1] * down)
    x1 = min(width - 1, round((place[0] + place[2]) * across) - 1)
    y1 = min(height - 1, round((place[1] + place[3]) * down) - 1)
    cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, line)
    return x0, y0, x1 + 1, y1 + 1


def _draw_label(
    canvas: Picture, text: str, box: Box, colour: Colour, taken: list[Box], layout: _Layout
) -> None:
    """Write what is in a box, at the first place of those around it where nothing is written."""
    text = _fit(text, layout.small, canvas.shape[1] // 2)
    width, height = _chip_size(text, layout)
    left, top, right, bottom = box
    left = max(0, min(left, canvas.shape[1] - width))
    places = [(left, top - height), (left, top), (left, bottom), (left, bottom - height)]
    places += [(left, other[3]) for other in taken if _overlap(box, other)]
    places += [(beside, top) for _, _, beside, _ in taken if left < beside < right]
    free = (
        (x, y)
        for x, y in places
        if 0 <= y <= canvas.shape[0] - height
        and not any(_overlap((x, y, x + width, y + height), other) for other in taken)
    )
    at = next(free, (left, max(0, top - height)))
    _chip(canvas, text, at, layout, colour)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _draw_tags(canvas: Picture, tags: tuple[Tag, ...], layout: _Layout, bottom: int) -> Box:
    """Draw the likeliest tags at the upper left and return the place that they take."""
    best = sorted(tags, key=lambda tag: -tag.score)[:MAX_TAGS]
    rows = _rows_that_fit(len(best), layout, bottom)
    if rows <= 0:
        return NOWHERE
    x = y = layout.margin
    size = (layout.panel, _panel_height(rows, layout))
    taken = (x, y, x + size[0], y + size[1])
    _panel(canvas, (x, y), size, layout)
    x += layout.px(14)
    y += layout.px(10)
    _write(canvas, "TAGS", (x, y), layout.small, GREY)
    inner = layout.panel - 2 * layout.px(14)
    bar_width = round(inner * 0.30)
    for row, tag in enumerate(best[:rows]):
        top = y + layout.row * (row + 1)
        score = f"{tag.score:.2f}"
        score_x = x + inner - _text_size(score, layout.text)[0]
        bar_x = x + inner - bar_width - _text_size("0.00", layout.text)[0] - layout.px(10)
        label = _fit(tag.label, layout.text, bar_x - x - layout.px(8))
        _write(canvas, label, (x, top), layout.text)
        bar = (bar_x, top + layout.px(7), bar_width, layout.px(8))
        _bar(canvas, tag.score, bar, layout, _label_colour(tag.label_index))
        _write(canvas, score, (score_x, top), layout.text, GREY)
    return taken


def _draw_attributes(
    canvas: Picture, attributes: tuple[Attribute, ...], layout: _Layout, bottom: int
) -> Box:
    """Draw the answers at the upper right and return the place that they take."""
    rows = _rows_that_fit(min(len(attributes), MAX_ATTRIBUTES), layout, bottom)
    if rows <= 0:
        return NOWHERE
    x = canvas.shape[1] - layout.margin - layout.panel
    if x < layout.margin + layout.panel:  # Too narrow for two panels side by side (portrait).
        return NOWHERE
    y = layout.margin
    size = (layout.panel, _panel_height(rows, layout))
    taken = (x, y, x + size[0], y + size[1])
    _panel(canvas, (x, y), size, layout)
    x += layout.px(14)
    y += layout.px(10)
    _write(canvas, "ATTRIBUTES", (x, y), layout.small, GREY)
    inner = layout.panel - 2 * layout.px(14)
    for row, attribute in enumerate(attributes[:rows]):
        _draw_attribute(canvas, attribute, (x, y + layout.row * (row + 1)), inner, layout)
    return taken


def _draw_attribute(
    canvas: Picture, attribute: Attribute, at: tuple[int, int], inner: int, layout: _Layout
) -> None:
    x, y = at
    probability = attribute.probability
    score = "" if probability is None else f"{probability:.2f}"
    score_x = x + inner - _text_size(score, layout.text)[0]
    colour = GREY if probability is not None and probability < 0.5 else WHITE
    middle = x + round(inner * 0.44)
    name = _fit(attribute.name.replace("_", " "), layout.small, middle - x - layout.px(8))
    _write(canvas, name, (x, y + layout.px(2)), layout.small, GREY)
    value = _fit(attribute.value, layout.text, score_x - middle - layout.px(8))
    _write(canvas, value, (middle, y), layout.text, colour)
    _write(canvas, score, (score_x, y), layout.text, GREY)


def _panel_height(rows: int, layout: _Layout) -> int:
    return layout.row * (rows + 1) + layout.px(18)


def _rows_that_fit(wanted: int, layout: _Layout, bottom: int) -> int:
    free = bottom - 2 * layout.margin - layout.px(18)
    return min(wanted, free // layout.row - 1)


def _draw_footer(canvas: Picture, scene: Scene, layout: _Layout) -> int:
    """Draw caption, status and ages along the lower edge and return the y at which they begin."""
    height, width = int(canvas.shape[0]), int(canvas.shape[1])
    inner = width - 2 * layout.margin - 2 * layout.px(16)
    caption = scene.caption or "(no caption yet)"
    size = max(8, layout.px(22))
    lines = _wrap(caption, size, inner, MAX_CAPTION_LINES)
    line_height = round(size * 1.3)
    panel_height = len(lines) * line_height + layout.px(48)
    x, y = layout.margin, height - layout.margin - panel_height
    _panel(canvas, (x, y), (width - 2 * layout.margin, panel_height), layout)
    x += layout.px(16)
    text_y = y + layout.px(9)
    for line in lines:
        _write(canvas, line, (x, text_y), size, WHITE if scene.caption else GREY)
        text_y += line_height
    text_y += layout.px(5)
    pill = STATUS_COLOURS[scene.status]
    chip_width, _ = _chip(canvas, scene.status.name.replace("_", " "), (x, text_y), layout, pill)
    facts = _facts(scene)
    facts_x = x + inner - _text_size(facts, layout.small)[0]
    reason_x = x + chip_width + layout.px(12)
    room = facts_x - reason_x - layout.px(16)
    if room > 0:
        reason = _fit(scene.reason, layout.small, room)
        _write(canvas, reason, (reason_x, text_y + layout.px(3)), layout.small, GREY)
        _write(canvas, facts, (facts_x, text_y + layout.px(3)), layout.small, GREY)
    return y


def _facts(scene: Scene) -> str:
    """The ages and latencies that are known, in one line."""
    parts = [
        f"{name} {_duration(seconds)}"
        for name, seconds in (
            ("capture to scene", scene.latency.get("capture_to_scene", -1.0)),
            ("reasoning age", scene.reasoning_age),
            ("key frame age", scene.keyframe_age),
        )
        if seconds >= 0
    ]
    return "   ".join(parts)


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _draw_warnings(
    canvas: Picture, scene: Scene, layout: _Layout, bottom: int, taken: list[Box]
) -> list[Box]:
    """Hazards in red and conflicts between the paths in amber, at the top between the panels."""
    chips = [(f"hazard: {hazard}", RED) for hazard in scene.hazards]
    chips += [(f"conflict: {conflict}", AMBER) for conflict in scene.conflicts]
    beside = [box for box in taken if box[1] == layout.margin]
    left = max((box[2] for box in beside if box[0] == layout.margin), default=0) + layout.margin
    right = min((box[0] for box in beside if box[0] > layout.margin), default=canvas.shape[1])
    right -= layout.margin
    y = layout.margin
    places: list[Box] = []
    for text, colour in chips:
        shown_text = _fit(text, layout.small, right - left - 2 * layout.px(7))
        width, height = _chip_size(shown_text, layout)
        if y + height > bottom:
            break
        x = (left + right - width) // 2
        _chip(canvas, shown_text, (x, y), layout, colour)
        places.append((x, y, x + width, y + height))
        y += height + layout.px(6)
    return places
