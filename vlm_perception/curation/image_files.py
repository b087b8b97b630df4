# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Image files of any origin, brought to what training reads: upright, RGB, 8 bits, one frame."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from vlm_perception.common.ordinary_files import open_ordinary
from vlm_perception.media.image_errors import MAX_PIXELS, ImageError, check_size
from vlm_perception.media.image_folder import SUFFIXES
from vlm_perception.media.jpeg import decode_jpeg
from vlm_perception.outputs.durable import write_bytes

IMAGES = "images"
"""The folder of images in a stage."""
READ = frozenset({*SUFFIXES, ".gif"})
MAGICS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8")
"""What image files begin with whose suffix says something else."""
MOST_BYTES = 1 << 28
MOST_DEEP = (1 << 16) - 1
JPEG_QUALITY = 95
"""Of the JPEG files that are written where a file cannot be kept as it is."""

# Pillow's JPEG opens MPO, too: the photograph of a telephone, with others after it.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_KEPT = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
"""Formats whose files are kept as they are where nothing has to be changed."""
_ORIENTATION, _EXIF = 0x0112, 0x8769
_TAKEN, _TAKEN_OFFSET = 0x9003, 0x9011
_DEEP = ("I", "I;16", "I;16B", "I;16L")
_REDUCED = "16 bits reduced to 8"
_PNG_DEPTH = 24
"""Where a PNG's header has the bits of a value, which Pillow may reduce on its own."""


@dataclass(frozen=True)
class UsableImage:
    """An image that training can read."""

    file: bytes
    """JPEG, PNG or WebP."""
    suffix: str
    width: int
    height: int
    changed: tuple[str, ...] = ()
    """What was done to the image; nothing: the file is as it came."""
    stamp_ns: int | None = None
    """When it was taken, by EXIF; without a time zone, as if in UTC."""


def read_file(path: Path, root: Path | None = None) -> bytes:
    """The bytes of an image file.

    Args:
        path: the file.
        root: a folder that the file must not lie out of, even by a symbolic link.

    Raises:
        ImageError: it cannot be read, is empty, too large, or out of the folder.
    """
    try:
        if root is not None and not path.resolve().is_relative_to(root.resolve()):
            raise ImageError(
                "outside",
                "it leads out of the source's folder; give the folder that it leads to as a source "
                "of its own",
            )
        with open_ordinary(path) as stream:
            content = stream.read(MOST_BYTES + 1)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ImageError("unreadable", f"it cannot be read: {why}") from error
    if not content:
        raise ImageError("empty", "it is empty")
    if len(content) > MOST_BYTES:
        raise ImageError("bad_size", f"it has more than {MOST_BYTES} bytes")
    return content


def decode(file: bytes) -> NDArray[np.uint8]:
    """The pixels of a file that `usable_image` has accepted, uint8 RGB [height, width, 3].

    Raises:
        ImageError: it was altered since.
    """
    with _plain_faults():
        if file.startswith(MAGICS[0]):
            return decode_jpeg(file).pixels
        with PIL.Image.open(io.BytesIO(file), formats=_FORMATS) as image:
            check_size(*image.size)
            return np.asarray(image.convert("RGB"))


def stored_pixels(folder: Path, record: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    """The pixels of an image of a set, uint8 RGB [height, width, 3].

    Args:
        folder: of the whole set.
        record: of the image.

    Returns:
        None: it went missing, or was damaged, after it was stored.
    """
    try:
        return decode(read_file(folder / record["file"]))
    except ImageError:
        return None


def usable_image(file: bytes) -> UsableImage:
    """Bring an image file to what training reads; where nothing is to be done, it is kept as it is.

    The orientation of EXIF is applied by Pillow's `exif_transpose`.

    Raises:
        ImageError: it is damaged, too large, or no image; the text says why.
    """
    with _plain_faults(), PIL.Image.open(io.BytesIO(file), formats=_FORMATS) as image:
        check_size(*image.size)
        return replace(_brought(file, image), stamp_ns=_taken_ns(image))


def encoded(pixels: NDArray[np.uint8], changed: tuple[str, ...]) -> UsableImage:
    """An image of pixels, uint8 RGB [height, width, 3].

    Raises:
        ImageError: a side is longer than JPEG allows.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    written, file = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    height, width = pixels.shape[:2]
    if not written:
        raise ImageError("bad_size", f"{width}x{height} pixels cannot be written as JPEG; cut it")
    return UsableImage(bytes(file), ".jpg", width, height, changed)


def stored_image(made: Path, stage: str, image: UsableImage) -> dict[str, Any]:
    """Store an image in a stage under its digest: the same image is stored once.

    Args:
        made: the folder of the stage, which is not yet in its place.
        stage: its name.
        image: what is stored.

    Returns:
        What a record says of a stored image.
    """
    digest = hashlib.sha256(image.file).hexdigest()
    name = f"{IMAGES}/{digest[:2]}/{digest}{image.suffix}"
    if not (made / name).exists():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(made / name, image.file)
    return {
        "file": f"{stage}/{name}",
        "sha256": digest,
        "width": image.width,
        "height": image.height,
        "changed": list(image.changed),
    }


@contextmanager
def _plain_faults() -> Iterator[None]:
    """Turn what Pillow raises, which is nearly anything for a damaged file, into an ImageError."""
    try:
        with warnings.catch_warnings():
            # Of large images, which are checked, and of EXIF parts that do not matter.
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except PIL.UnidentifiedImageError as error:
        text = "it is no image: JPEG, PNG, WebP, GIF, BMP and TIFF are read"
        raise ImageError("no_image", text) from error
    except PIL.Image.DecompressionBombError as error:
        raise ImageError("bad_size", f"it has more than {MAX_PIXELS} pixels") from error
    except Exception as error:
        raise ImageError("damaged", f"it is damaged: {error}") from error


def _brought(file: bytes, image: PIL.Image.Image) -> UsableImage:
    frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    orientation = _exif(image).get(_ORIENTATION, 1)
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    changed = [f"first frame of {frames}"] * (frames > 1)
    if kind == "JPEG" and image.mode != "CMYK":
        # Stricter than Pillow, which goes on after damage.
        pixels = decode_jpeg(file).pixels
    else:
        image.load()
        if image.mode not in ("RGB", "L", "P", "1"):
            changed.append(_told_mode(image.mode))
        elif image.has_transparency_data:
            changed.append("transparency removed")
        if kind == "PNG" and file[_PNG_DEPTH] == 16 and image.mode not in _DEEP:
            changed.append(_REDUCED)
        pixels = _rgb(image)
    if orientation in range(2, 9):
        changed.append(f"EXIF orientation {orientation} applied")
        turned = PIL.Image.fromarray(pixels)
        turned.getexif()[_ORIENTATION] = orientation
        pixels = np.asarray(PIL.ImageOps.exif_transpose(turned))
    if kind not in _KEPT:
        changed.append(f"{kind} written as JPEG")
    if changed:
        return encoded(np.ascontiguousarray(pixels), tuple(changed))
    height, width = pixels.shape[:2]
    return UsableImage(file, _KEPT[kind], width, height)


def _taken_ns(image: PIL.Image.Image) -> int | None:
    part = _exif(image)
    taken, offset = str(part.get(_TAKEN, "")), str(part.get(_TAKEN_OFFSET, ""))
    for text in (f"{taken}{offset}", f"{taken}+00:00"):
        try:
            taken_s = datetime.strptime(text, "%Y:%m:%d %H:%M:%S%z").timestamp()
        # Cameras without a clock write spaces or zeros.
        except (ValueError, OverflowError):
            continue
        return usable_stamp(round(taken_s) * 1_000_000_000)
    return None


def usable_stamp(stamp: object) -> int | None:
    """A stamp in nanoseconds, if it is an integer of 64 bits; else none is known."""
    if not isinstance(stamp, int) or isinstance(stamp, bool):
        return None
    return stamp if -(1 << 63) <= stamp < 1 << 63 else None


def _exif(image: PIL.Image.Image) -> dict[int, Any]:
    try:
        found = image.getexif()
        return {**found, **found.get_ifd(_EXIF)}
    # Pillow raises nearly anything for a damaged EXIF part; the pixels are good without it.
    except Exception:
        return {}


def _rgb(image: PIL.Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise ImageError("no_image", "it has floating-point values; write it with 8 or 16 bits")
    if image.mode in _DEEP:
        deep = np.asarray(image).astype(np.float64)
        if deep.min() < 0 or deep.max() > MOST_DEEP:
            raise ImageError("no_image", "it has values of 32 bits; write it with 8 or 16 bits")
        grey = np.clip(deep / 257.0, 0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _told_mode(mode: str) -> str:
    if mode in _DEEP:
        return _REDUCED
    return "transparency removed" if mode in ("RGBA", "LA", "PA") else f"{mode} converted to RGB"
