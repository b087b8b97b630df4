# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A dual encoder of Hugging Face, by transformers and its own processor; needs torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vlm_perception.bundle.files import file_sha256
from vlm_perception.curation.encoders import Images, normalised
from vlm_perception.deploy.checkpoints.files import weight_files
from vlm_perception.deploy.checkpoints.gather import dual_folder
from vlm_perception.deploy.checkpoints.image_processor import load_any_processor
from vlm_perception.deploy.checkpoints.load import load_dual
from vlm_perception.deploy.checkpoints.tokenizers.load import load_tokenizer, name_end_token
from vlm_perception.perception.preprocess import check_image
from vlm_perception.perception.tokenizer import require_text

_READ = ("*.json", "*.txt", "*.model")
"""Settings, and what tokenizers are made of."""


class CheckpointEncoder:
    """See `encoders.Encoder`."""

    def __init__(self, path: str) -> None:
        """Load a checkpoint in FP32.

        Args:
            path: a folder, or a model of the hub.

        Raises:
            ExportError: it is unavailable, damaged, or no dual encoder of a known family.
        """
        folder = dual_folder(path)
        _, self._model = load_dual(folder)
        self._processor = load_any_processor(folder)
        self._tokenizer = load_tokenizer(folder, self._model)
        name_end_token(self._model, self._tokenizer)
        self._length = int(self._model.config.text_config.max_position_embeddings)
        self.digest = _digest(folder)

    def images(self, images: Images) -> NDArray[np.float32]:
        """Embed images."""
        return normalised([self._image(image) for image in images], "the embedding of an image")

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts."""
        return normalised([self._text(text) for text in texts], "the embedding of a text")

    def reads_whole(self, text: str) -> bool:
        """Whether a text is not longer than the tower reads."""
        return len(self._ids(text)) <= self._length

    def _image(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        check_image(image)
        inputs = self._processor(images=Image.fromarray(image), return_tensors="pt")
        with _one_thread():
            found = self._model.get_image_features(**inputs).pooler_output[0]
        return np.asarray(found.numpy(), np.float32)

    def _text(self, text: str) -> NDArray[np.float32]:
        # Padded to the tower's length, as both SigLIP and CLIP were trained.
        ids = self._ids(text, padding="max_length", truncation=True, max_length=self._length)
        with _one_thread():
            found = self._model.get_text_features(input_ids=torch.tensor([ids])).pooler_output[0]
        return np.asarray(found.numpy(), np.float32)

    def _ids(self, text: str, **options: Any) -> list[int]:
        require_text(text)
        # A caption's words are never control tokens.
        ids: list[int] = self._tokenizer(text, split_special_tokens=True, **options)["input_ids"]
        return ids


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


def _digest(folder: Path) -> str:
    files = {file for pattern in _READ for file in folder.glob(pattern)} | {*weight_files(folder)}
    lines = [f"{file.name} {file_sha256(file)}\n" for file in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
