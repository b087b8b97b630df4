# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures from files, folders, devices and streams: the right ones, their times, what is lost."""

from __future__ import annotations

import gzip
import io
import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from support.streams import MjpegServer
from support.videos import FRAMES, RATE, TICKS, cut, damage, make_video, set_times

from vlm_perception.media import live_camera
from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.image_folder import list_images, read_image
from vlm_perception.media.image_message import to_rgb
from vlm_perception.media.media import ImageFile, MediaError
from vlm_perception.media.open_media import open_media
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.source import Span, open_source

EXIF_ORIENTATION = 0x0112


def write_level(path: Path, level: int) -> None:
    path.parent.mkdir(exist_ok=True)
    file = cv2.imencode(path.suffix, np.full((12, 16, 3), level, np.uint8))[1]
    path.write_bytes(file.tobytes())


def levels(folder: Path) -> list[int]:
    return [int(picture.decoded()[0, 0, 0]) for picture in open_media(str(folder)).pictures()]


def test_images_come_in_the_order_in_which_people_count(tmp_path: Path) -> None:
    names = [f"frame{index}.{'PNG' if index % 2 else 'png'}" for index in range(1, 12)]
    for level, name in enumerate([*names, "größe2.png", "größe10.png"]):
        write_level(tmp_path / name, level)
    for junk in ("._frame1.png", ".hidden.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / junk).write_bytes(b"\0\5\26\7junk")
    (tmp_path / "._drive.mcap").touch()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert levels(tmp_path) == list(range(13))
    assert open_source(tmp_path).expected == 13


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8, unique=True), st.booleans())
def test_order_is_that_of_the_numbers(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], deep: bool
) -> None:
    folder = tmp_path_factory.mktemp("order")
    for number in numbers:
        file = folder / (f"{number}/a.png" if deep else f"a{number}b.png")
        file.parent.mkdir(exist_ok=True)
        file.touch()
    found = [str(file.relative_to(folder)) for file in list_images(folder, deep=deep)]
    assert [int("".join(filter(str.isdigit, name))) for name in found] == sorted(numbers)


def test_a_bad_image_is_named_and_the_others_are_used(tmp_path: Path) -> None:
    for index in range(10):
        write_level(tmp_path / f"{index}.jpg", 20 * index)
    (tmp_path / "3.jpg").write_bytes(b"")
    whole = (tmp_path / "6.jpg").read_bytes()
    (tmp_path / "6.jpg").write_bytes(whole[: len(whole) // 2])
    frames = list(open_source(tmp_path).frames(Span()))
    assert [frame.fault for frame in frames if frame.fault] == ["bad_data_length", "truncated"]
    assert "3.jpg is empty" in frames[3].fault_text and "6.jpg" in frames[6].fault_text
    good = [frame for frame in frames if frame.pixels is not None]
    assert [round(frame.pixels.mean() / 20) for frame in good] == [0, 1, 2, 4, 5, 7, 8, 9]
    assert frames[9].stamp_ns - frames[0].stamp_ns == round(9e9 / 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_files_are_turned_as_exif_says_and_messages_are_not(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    small = rng.integers(0, 255, (3, 5, 3), np.uint8)
    pixels = np.kron(small, np.ones((16, 16, 1), np.uint8))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        path = tmp_path / f"{orientation}.{kind.lower()}"
        Image.fromarray(pixels).save(path, kind, exif=exif, lossless=True)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        found = read_image(path)
        assert found.shape == upright.shape
        assert np.abs(found.astype(int) - upright).mean() < 3
        if kind != "TIFF":
            assert to_rgb(ImageFile(path.read_bytes())).shape == pixels.shape


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_all_modes_are_read(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((12, 16), 128 * 257, np.uint16))
    else:
        image = Image.new("RGB", (16, 12), (128, 128, 128)).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    found = read_image(path)
    assert found.shape == (12, 16, 3)
    assert abs(int(found.mean()) - 128) <= 2


def test_a_lying_header_does_not_exhaust_the_memory(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (11_000, 10_000)).save(file, "PNG")
    (tmp_path / "huge.png").write_bytes(file.getvalue())
    with pytest.raises(ImageError, match=r"huge\.png .*exceeds"):
        read_image(tmp_path / "huge.png")


def seconds(path: Path) -> list[float]:
    return [(frame.stamp_ns - 10**9) / 1e9 for frame in open_source(path).frames(Span())]


def test_images_have_the_times_of_the_container(tmp_path: Path) -> None:
    ticks = [256] * 25 + [1792] * 5
    video = set_times(make_video(tmp_path / "a.mp4"), ticks)
    true = np.cumsum([0, *ticks[:-1]]) / TICKS / RATE
    assert seconds(video) == pytest.approx(list(true), abs=0.001)
    assert "17 to 117 ms apart" in open_source(video).notes[0]
    part = list(open_source(video).frames(Span(0.4, 0.25)))
    expected = true[(true >= 0.4 - 1e-6) & (true < 0.65 - 1e-6)]
    assert len(part) == len(expected)
    assert (part[0].stamp_ns - 10**9) / 1e9 == pytest.approx(expected[0], abs=0.001)
    assert open_media(str(video)).rate_hz == pytest.approx(29 / true[-1])
    even = make_video(tmp_path / "even.mp4")
    assert open_source(even).notes == ["the images are taken at 30 Hz, the file's own rate"]


def test_times_that_repeat_are_made_to_rise(tmp_path: Path) -> None:
    video = set_times(make_video(tmp_path / "a.mp4"), [512, 0, 1024] * 10)
    found = seconds(video)
    assert all(earlier < later for earlier, later in itertools.pairwise(found))
    assert found[::3] == pytest.approx(np.arange(10) * 0.1, abs=0.001)


def test_behind_damaged_images_a_video_goes_on(tmp_path: Path) -> None:
    source = open_source(damage(make_video(tmp_path / "a.mp4"), 0.3, 0.5))
    frames = list(source.frames(Span()))
    assert len(frames) == FRAMES
    damaged = [frame.index for frame in frames if frame.fault == "damaged"]
    assert damaged and damaged[0] > 8 and damaged[-1] < 18
    assert "a.mp4 at 0." in frames[damaged[0]].fault_text
    assert seconds(tmp_path / "a.mp4") == pytest.approx(list(np.arange(FRAMES) / RATE), abs=0.001)
    assert not source.losses


@pytest.mark.parametrize("codec", ["MJPG", "XVID"])
def test_a_video_that_was_cut_off_says_so(tmp_path: Path, codec: str) -> None:
    source = open_source(cut(make_video(tmp_path / "a.avi", codec), 0.6))
    frames = list(source.frames(Span()))
    assert 0.4 * FRAMES < len(frames) < 0.7 * FRAMES
    assert "a.avi should last 1.0 s, but it ends after 0." in source.losses[0]


def make_video_named_oddly(path: Path) -> None:
    make_video(path.with_name("a.mp4")).rename(path)


def write_database(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE a (b)")


NO_VIDEOS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.mp4": (lambda path: path.touch(), "is empty"),
    "notes.mp4": (lambda path: path.write_text("no video, größer"), "is not a video but text"),
    "noise.mkv": (lambda path: path.write_bytes(b"\0\1\2\3" * 99), "an unknown type"),
    "drive.gz": (lambda path: path.write_bytes(gzip.compress(b"x")), "is compressed.*gunzip"),
    "drive.dat": (write_database, "is a rosbag2 file"),
    "half.mp4": (lambda path: cut(make_video(path), 0.6), "was cut off: it has no index"),
    "odd.avi": (
        lambda path: path.write_bytes(b"RIFF\0\0\0\0AVI " + bytes(99)),
        "is AVI, but no image of it can be decoded.*codec",
    ),
    "link.mp4": (lambda path: path.symlink_to(path), "is a broken symbolic link"),
    "gone.mp4": (lambda path: None, "does not exist"),
    "bad\udcff.mp4": (make_video_named_oddly, "cannot be read; rename it"),
    "bare": (lambda path: path.mkdir(), "contains no images"),
    "tree": (lambda path: (path.mkdir(), write_level(path / "b/1.png", 3)), "subfolders.*tree/b"),
}


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_what_is_no_video_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    make, sentence = NO_VIDEOS[name]
    make(tmp_path / name)
    with pytest.raises(MediaError, match=sentence) as refused:
        open_media(str(tmp_path / name))
    assert ascii(name)[1:-1] in ascii(str(refused.value)).replace("\\\\", "\\")
    assert ("codec" in str(refused.value)) == ("codec" in sentence)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("/dev/null", "/dev/null is not a camera"),
        ("/dev/video77", "/dev/video77.*does not exist: connect the camera"),
        ("77", "no image: /dev/video77 has no camera"),
        ("rtsp://me:secret@127.0.0.1:9/a", "^rtsp://127.0.0.1:9/a refuses the connection"),
        ("http://127.0.0.1:9/a", "^http://127.0.0.1:9/a refuses the connection"),
        ("rtsp://nowhere.invalid/a", "there is no host nowhere.invalid"),
        ("ftp://127.0.0.1/a", "is not the address of a stream"),
        ("rtsp://[::1/a", "is not an address .*IPv6"),
        ("rtsp://a..b/a", "cannot be reached"),
        ("~nobody-of-that-name/a.mp4", "cannot be found"),
    ],
)
def test_devices_and_streams_are_refused_for_the_true_reason(source: str, sentence: str) -> None:
    with pytest.raises(MediaError, match=sentence):
        open_media(source)


def test_a_replay_takes_no_address() -> None:
    with pytest.raises(ReplayError, match=r"not addresses.*demo ADDRESS"):
        open_source(Path("rtsp://127.0.0.1/a"))


def test_a_stream_is_read_and_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_camera, "OPENED_AGAIN_EVERY_S", 0.05)
    monkeypatch.setattr(live_camera, "GIVEN_UP_AFTER_S", 0.5)
    with MjpegServer() as server:
        media = open_media(server.url)
        assert media.live
        pictures = media.pictures()
        assert next(pictures).decoded().shape == (48, 64, 3)
        server.break_off()
        lost = next(picture for picture in pictures if picture.fault)
        assert lost.fault == "lost" and server.url in lost.fault_text
        assert next(picture for picture in pictures if not picture.fault).pixels is not None
    with pytest.raises(MediaError, match=r"did not come back within.*refuses the connection"):
        list(pictures)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("gone", "is refused by its server with status 404"),
        ("locked", "requires a user and a password"),
        ("text", "answers, but sends no image"),
    ],
)
def test_what_a_server_refuses_is_said(path: str, sentence: str) -> None:
    with MjpegServer() as server, pytest.raises(MediaError, match=sentence):
        open_media(f"{server.address}/{path}")
