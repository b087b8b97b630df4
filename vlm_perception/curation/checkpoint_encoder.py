# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A dual encoder of Hugging Face, by transformers and its own processor; needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vlm_perception.curation.encoders import Images, normalised
from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.deploy.checkpoints.gather import dual_folder
from vlm_perception.perception.preprocess import check_image
from vlm_perception.perception.tokenizer import require_text


class CheckpointEncoder:
    """See `encoders.Encoder`."""

    def __init__(self, path: str) -> None:
        """Load a checkpoint in FP32.

        Args:
            path: a folder, or a model of the hub.

        Raises:
            ExportError: it is unavailable, damaged, or no dual encoder of a known family.
        """
        self._reader = DualReader(dual_folder(path))
        self.digest = self._reader.digest

    def images(self, images: Images) -> NDArray[np.float32]:
        """Embed images."""
        return normalised([self._image(image) for image in images], "the embedding of an image")

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts."""
        return normalised([self._text(text) for text in texts], "the embedding of a text")

    def reads_whole(self, text: str) -> bool:
        """Whether a text is not longer than the tower reads."""
        require_text(text)
        return self._reader.reads_whole(text)

    def _image(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The embedding of an image, [D], as the tower gives it."""
        check_image(image)
        inputs = self._reader.pixels([Image.fromarray(image)])
        with _one_thread():
            found = self._reader.model.get_image_features(**inputs).pooler_output[0]
        return np.asarray(found.numpy(), np.float32)

    def _text(self, text: str) -> NDArray[np.float32]:
        """The embedding of a text, [D], as the tower gives it."""
        require_text(text)
        ids = self._reader.ids([text])
        with _one_thread():
            found = self._reader.model.get_text_features(input_ids=ids).pooler_output[0]
        return np.asarray(found.numpy(), np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are cut by threads: their number would be seen in the last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
