# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Sources of a curated set with every kind of trouble that images bring along.

A folder of its own for each kind, with some images of it, and a recording for neighbouring frames.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
from support.recordings import write

from vlm_perception.datasets.roadworld.files.images import write_images
from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_drive

SIZE = (400, 300)
ORIGINALS = 16
FRAMES = 60
CAPTIONED = {"of_its_own": 20, "in_german": 6, "of_another_image": 6}
FAIL = {"truncated", "zero_bytes", "links_in_a_loop"}
"""Kinds that no stage can use, as opposed to what the rules reject."""
TOO_SMALL = {"one_pixel_wide", "223_pixels"}
COPIES = {"jpeg_50", "three_quarters"}
"""Kinds of which each is the copy of an original."""

Image = PIL.Image.Image


def saved(image: Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def with_face(image: Image) -> Image:
    """A face from in front, shaded as much as a cascade needs."""
    pixels = np.asarray(image).copy()
    left, top = pixels.shape[1] // 2, pixels.shape[0] // 2

    def ellipse(at: tuple[int, int], axes: tuple[int, int], colour: tuple[int, ...], turn: int = 0):
        centre = (left + at[0], top + at[1])
        cv2.ellipse(pixels, centre, axes, 0, turn, 360, colour, -1)

    cv2.rectangle(pixels, (left - 90, top - 110), (left + 90, top + 110), (90, 110, 130), -1)
    ellipse((0, 0), (65, 88), (205, 170, 145))
    ellipse((0, -65), (68, 38), (50, 35, 25), 180)
    for side in (-27, 27):
        ellipse((side, -19), (19, 10), (150, 115, 95))
        ellipse((side, -16), (12, 6), (60, 45, 40))
        ellipse((side, -31), (17, 4), (60, 40, 30), 180)
    ellipse((0, 13), (9, 20), (225, 190, 165))
    ellipse((0, 34), (10, 2), (140, 100, 85))
    ellipse((0, 52), (22, 6), (150, 80, 80))
    return PIL.Image.fromarray(cv2.GaussianBlur(pixels, (0, 0), 2.0))


def with_plate(image: Image, text: str = "A123BC77") -> Image:
    """A number plate of one line, dark on white, in the lower half."""
    pixels, font = np.asarray(image).copy(), cv2.FONT_HERSHEY_SIMPLEX
    left, top, width, height = 110, 180, 180, 40
    cv2.rectangle(pixels, (left - 2, top - 2), (left + width + 2, top + height + 2), (20,) * 3, -1)
    cv2.rectangle(pixels, (left, top), (left + width, top + height), (245,) * 3, -1)
    scale = 0.88 * width / cv2.getTextSize(text, font, 1.0, 2)[0][0]
    (wide, high), _ = cv2.getTextSize(text, font, scale, 2)
    at = (left + (width - wide) // 2, top + (height + high) // 2)
    cv2.putText(pixels, text, at, font, scale, (15,) * 3, 2, cv2.LINE_AA)
    return PIL.Image.fromarray(pixels)


def _deep(image: Image) -> bytes:
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return saved(PIL.Image.fromarray(grey), "PNG")


def _animated(kind: str) -> Callable[[Image], bytes]:
    return lambda image: saved(
        image, kind, save_all=True, append_images=[PIL.ImageOps.mirror(image)], duration=100
    )


def _rotated(number: int, image: Image) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = number % 8 + 1
    return saved(image, exif=exif, quality=92)


ALONE: dict[str, tuple[int, str, Callable[[Image], bytes]]] = {
    "truncated": (6, ".jpg", lambda image: saved(image)[: len(saved(image)) * 2 // 3]),
    "cmyk": (6, ".jpg", lambda image: saved(image.convert("CMYK"))),
    "png_of_16_bits": (6, ".png", _deep),
    "animated_gif": (4, ".gif", _animated("GIF")),
    "animated_webp": (4, ".webp", _animated("WEBP")),
    "one_pixel_wide": (3, ".png", lambda image: saved(image.resize((1, 4000)), "PNG")),
    "223_pixels": (4, ".png", lambda image: saved(image.resize((223, 223)), "PNG")),
    "zero_bytes": (3, ".jpg", lambda image: b""),
    "wrong_suffix": (4, ".jpg", lambda image: saved(image, "PNG")),
    "number_plate": (5, ".jpg", lambda image: saved(with_plate(image), quality=92)),
    "face": (4, ".jpg", lambda image: saved(with_face(image), quality=92)),
}
"""Kind -> how many there are, their suffix, and how one is made of a picture."""
OF_ORIGINALS: dict[str, Callable[[Image], Image]] = {
    "originals": lambda image: image,
    "jpeg_50": lambda image: image,
    "three_quarters": lambda image: image.resize((300, 225), PIL.Image.Resampling.LANCZOS),
    "cropped": lambda image: image.crop((20, 15, 380, 285)),
    "flipped": PIL.ImageOps.mirror,
}
PICTURES = 8 + sum(count for count, _, _ in ALONE.values()) + ORIGINALS + sum(CAPTIONED.values())


def make_sources(folder: Path) -> None:
    """Make the folders `photos` and `captioned`, and the bag `drive`."""
    base, photos = folder / "base", folder / "photos"
    write_images(base, PICTURES, SIZE)
    captions = {
        (line := json.loads(text))["image"]: line["captions"][0]
        for text in (base / "captions.jsonl").open()
    }
    names = iter(sorted(captions))
    for kind, (count, suffix, made) in ALONE.items():
        for number in range(count):
            _put(photos / kind / f"{number}{suffix}", made(_opened(base / next(names))))
    for number in range(8):
        file = _rotated(number, _opened(base / next(names)))
        _put(photos / "exif_orientation" / f"{number}.jpg", file)
    for number in range(ORIGINALS):
        image = _opened(base / next(names))
        for kind, copied in OF_ORIGINALS.items():
            quality = 50 if kind == "jpeg_50" else 92
            _put(photos / kind / f"{number}.jpg", saved(copied(image), quality=quality))
    loops = photos / "links_in_a_loop"
    loops.mkdir()
    for number in range(3):
        (loops / f"{number}.jpg").symlink_to(f"{number}.jpg")
    (loops / "up").symlink_to("..")
    _put_captioned(base, folder / "captioned", names, captions)
    world = sample_drive(1, FRAMES / 10)
    frames = [render(world, number / 10, *SIZE).image for number in range(FRAMES)]
    write(folder / "drive", [saved(PIL.Image.fromarray(frame)) for frame in frames])


def _put_captioned(base: Path, folder: Path, names: Iterator[str], captions: dict[str, str]):
    lines = []
    for kind, count in CAPTIONED.items():
        own = [next(names) for _ in range(count)]
        texts = [captions[name] for name in own]
        if kind == "of_another_image":
            texts = texts[1:] + texts[:1]
        if kind == "in_german":
            texts = [f"Eine Straße mit Häusern, Bild {number}." for number in range(count)]
        language = "de" if kind == "in_german" else "en"
        for name, text in zip(own, texts, strict=True):
            _put(folder / kind / name, (base / name).read_bytes())
            lines.append({"image": f"{kind}/{name}", "captions": [text], "language": language})
    _put(folder / "captions.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines).encode())


def _opened(file: Path) -> Image:
    return PIL.Image.open(file).convert("RGB")


def _put(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
