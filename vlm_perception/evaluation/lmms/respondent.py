# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle that answers rows of a task: an image and a text in, a text out, each for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.engines.onnxruntime import ONNXRUNTIME
from vlm_perception.evaluation.lmms.decoding import Decoding
from vlm_perception.perception.language.kv_cache import Prefix
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame


class RowError(VlmPerceptionError):
    """A row cannot be put to a bundle; the message says why."""


@dataclass(frozen=True)
class Row:
    """What a task asks of one image."""

    image: NDArray[np.uint8]
    """[height, width, 3], RGB, as the task gives it."""
    text: str
    moved: bool
    """Whether the task has text before the image; a bundle reads all of it after the image."""


@dataclass(frozen=True)
class Answer:
    """What a bundle answers to a row; without a text where it cannot."""

    text: str = ""
    tokens: int = 0
    """Those that were generated, without the one that ends a text."""
    error: str = ""
    """Why there is no answer; empty: there is one."""
    moved: bool = False
    """As in `Row`."""
    cut: bool = False
    """Whether the decoder's last position came before the end and before `max_new_tokens`."""


class Respondent:
    """The networks of a bundle, as they run on the robot."""

    def __init__(self, bundle: ModelBundle, *, threads: int = 2, engine: str = ONNXRUNTIME) -> None:
        """Load them.

        Args:
            bundle: it must have a language model, with the encoder's tower or one of its own.
            threads: of the engines.
            engine: name of a backend, or `auto`.

        Raises:
            BundleError: the bundle has no language model.
            EngineError: the engine does not take a graph.
        """
        self._language = LanguageModel(bundle, threads=threads, engine=engine)
        self._encoder = VisionEncoder(bundle, threads=threads, engine=engine, temporal=False)
        self._seen: tuple[NDArray[np.uint8], Prefix] | None = None

    def answer(
        self, messages: Sequence[Mapping[str, Any]], decoding: Decoding, *, draw: int = 0
    ) -> Answer:
        """Answer a row, in the messages that lmms-eval makes of it.

        Args:
            messages: `role`, and `content`: texts and images, in the order of the task.
            decoding: how the answer is written.
            draw: number of the answer, where a task wants several to one row.

        Raises:
            RowError: the row is not one image and a text about it.
            VlmPerceptionError: the text is too long.
        """
        row = read_row(messages)
        sampling = replace(decoding.sampling, seed=draw)
        text, tokens, ended = "", 0, False
        for written in self._language.write(
            self._read(row.image), row.text, max_tokens=decoding.max_new_tokens, sampling=sampling
        ):
            if written.stops:
                ended = True
                break
            text, tokens = written.text, tokens + 1
            if (end := _first(text, decoding.until)) is not None:
                text, ended = text[:end], True
                break
        cut = not ended and tokens < decoding.max_new_tokens
        return Answer(text, tokens, moved=row.moved, cut=cut)

    def _read(self, image: NDArray[np.uint8]) -> Prefix:
        """Read an image; of one that comes again, as sets do with several questions, once."""
        if self._seen is None or not np.array_equal(self._seen[0], image):
            embedding = self._encoder.encode(Frame(image, stamp_ns=0), sequence=0)
            self._seen = image, self._language.alone(self._language.read(embedding))
        return self._seen[1]


def read_row(messages: Sequence[Mapping[str, Any]]) -> Row:
    """Understand the messages of a row.

    Args:
        messages: as lmms-eval makes them.

    Raises:
        RowError: they are not one image and a text of the user's about it.
    """
    roles = [str(message.get("role")) for message in messages]
    if roles != ["user"]:
        raise RowError(
            f"the row has messages of {', '.join(roles) or 'nobody'}, and a bundle's prompt holds "
            "one text of the user's"
        )
    content = messages[0].get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence):
        raise RowError("the row's message has no content")
    kinds = [str(part.get("type")) for part in parts]
    if others := sorted(set(kinds) - {"text", "image"}):
        raise RowError(f"the row has {' and '.join(others)}, and a bundle reads images alone")
    images = [part["url"] for part in parts if part["type"] == "image"]
    # Whatever max_images in a manifest says: a prompt is read after the image tokens of one frame.
    if len(images) > 1:
        raise RowError(f"the row has {len(images)} images, and a bundle is asked about one")
    if not images:
        raise RowError("the row has no image, and a bundle's language model is asked about one")
    text = "\n".join(str(part["text"]) for part in parts if part["type"] == "text")
    if not text.strip():
        raise RowError("the row has no text")
    return Row(_pixels(images[0]), text, moved="text" in kinds[: kinds.index("image")])


def _pixels(image: Any) -> NDArray[np.uint8]:
    if isinstance(image, str | Path):
        with Image.open(image) as opened:
            return _pixels(opened)
    if not isinstance(image, Image.Image):
        raise RowError(f"the row's image is given as {type(image).__name__}")
    return np.array(image.convert("RGB"))


def _first(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stops begins; None: there is none."""
    found = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return min(found, default=None)
