# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged JPEGs are refused, those of cheap cameras are not, and none takes long."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
from support import jpeg_corpora as corpora

from vlm_perception.media.image_errors import DamagedImageError, ImageError
from vlm_perception.media.jpeg import MAX_SCANS, decode_jpeg

NOTICED = ("20 to 80 % cut out", "512 bytes cut out", "512 bytes of noise", "end cut off")
"""What is mostly noticed; what may carry no warning of libjpeg is printed only."""
ROUNDS = 4


def decoded_by_opencv(file: bytes) -> np.ndarray:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(file, np.uint8), flags), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("kind", corpora.KINDS)
def test_pixels_equal_those_of_opencv(kind: str) -> None:
    decoded = decode_jpeg(corpora.whole(kind))
    assert np.array_equal(decoded.pixels, decoded_by_opencv(corpora.whole(kind)))
    assert not decoded.padded
    assert decoded.grey == (kind == "grey")


def test_padded_images_are_whole() -> None:
    for case in corpora.padded(np.random.default_rng(1)):
        decoded = decode_jpeg(case.file)
        assert np.array_equal(decoded.pixels, decoded_by_opencv(case.whole)), case.kind
        assert decoded.padded == case.kind.startswith("before"), case.kind


def test_damaged_images_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    made: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for case in corpora.damaged(np.random.default_rng(1), ROUNDS):
        made[case.kind] += 1
        try:
            pixels = decode_jpeg(case.file).pixels
        except ImageError:
            refused[case.kind] += 1
        else:
            wrong[case.kind] += not np.array_equal(pixels, decoded_by_opencv(case.whole))
    with capsys.disabled():
        print("\ndamage: refused, taken with wrong pixels, of")
        for kind, count in sorted(made.items()):
            print(f"  {kind}: {refused[kind]}, {wrong[kind]}, {count}")
    for damage in NOTICED:
        kinds = [kind for kind in made if kind.startswith(damage)]
        assert sum(refused[kind] for kind in kinds) >= 0.8 * sum(made[kind] for kind in kinds)


def test_bytes_before_the_end_look_like_a_hole_unless_accepted() -> None:
    whole = corpora.whole("plain")
    file = whole[:-2] + bytes(100) + whole[-2:]
    with pytest.raises(DamagedImageError) as caught:
        decode_jpeg(file)
    assert caught.value.only_padding
    accepted = decode_jpeg(file, accept_padding=True)
    assert accepted.padded
    assert np.array_equal(accepted.pixels, decoded_by_opencv(whole))


def test_to_accept_padding_is_not_to_accept_damage() -> None:
    for case in corpora.damaged(np.random.default_rng(2), 1):
        if case.kind.startswith("20 to 80 % cut out"):
            with pytest.raises(DamagedImageError) as caught:
                decode_jpeg(case.file, accept_padding=True)
            assert not caught.value.only_padding


def test_bombs_are_refused_before_they_are_decoded() -> None:
    for width, height, scans in ((1000, 1000, MAX_SCANS + 1), (10_000, 10_000, 2), (8000, 8000, 1)):
        with pytest.raises(ImageError, match=r"scan\(?s|pixels") as caught:
            decode_jpeg(corpora.bomb(width, height, scans))
        assert caught.value.kind == "bad_size"
    assert decode_jpeg(corpora.bomb(640, 480, MAX_SCANS)).pixels.shape == (480, 640, 3)


@pytest.mark.parametrize(
    ("place", "new", "kind"),
    [
        (b"\xff\xc0", b"\xff\xc3", "bad_format"),  # lossless
        (b"\xff\xc0", b"\xff\xc9", "bad_format"),  # arithmetic codes
        (b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c", "bad_format"),  # 12 bits
        (b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x08\x00\x00\x00\x00", "bad_size"),
        (b"\xff\xdb\x00\x43", b"\xff\xdb\x00\x00", "damaged"),
        (b"\xff\xda", b"\xff\xd9", "damaged"),
    ],
)
def test_headers_that_cannot_be_read(place: bytes, new: bytes, kind: str) -> None:
    whole = corpora.whole("plain")
    at = whole.index(place)
    with pytest.raises(ImageError) as caught:
        decode_jpeg(whole[:at] + new + whole[at + len(new) :])
    assert caught.value.kind == kind


def test_an_endless_header_ends() -> None:
    with pytest.raises(ImageError):
        decode_jpeg(b"\xff\xd8" + b"\xff\xfe\x00\x02" * 1_000_000)
    with pytest.raises(ImageError):
        decode_jpeg(b"\xff\xd8" + b"\xff" * 10_000_000 + b"\x00")


@pytest.mark.parametrize("file", [b"", b"\xff\xd8", b"\n" + corpora.whole("plain")])
def test_what_is_no_jpeg(file: bytes) -> None:
    with pytest.raises(ImageError, match="not a JPEG"):
        decode_jpeg(file)
