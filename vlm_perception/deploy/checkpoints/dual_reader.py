# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A dual encoder with what reads its images and texts, as transformers does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vlm_perception.deploy.checkpoints.families import DualFamily
from vlm_perception.deploy.checkpoints.files import checkpoint_digest
from vlm_perception.deploy.checkpoints.image_processor import load_any_processor
from vlm_perception.deploy.checkpoints.load import load_dual
from vlm_perception.deploy.checkpoints.tokenizers.load import load_tokenizer, name_end_token

# Modules, processors and tokenizers of transformers carry no types.
Model = Any


class DualReader:
    """A dual encoder in FP32 with its own processor and tokenizer."""

    family: DualFamily
    model: Model
    tokenizer: Model

    def __init__(self, folder: Path) -> None:
        """Load a checkpoint.

        Raises:
            ExportError: it is damaged, or no dual encoder of a known family.
        """
        self.family, self.model = load_dual(folder)
        self._processor = load_any_processor(folder)
        self.tokenizer = load_tokenizer(folder, self.model)
        name_end_token(self.model, self.tokenizer)
        self._length = int(self.model.config.text_config.max_position_embeddings)
        self.digest = checkpoint_digest(folder)

    def pixels(self, images: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        """What the vision tower takes of images in RGB, by the names of its arguments.

        Returns:
            [images, ...] each, as the checkpoint's processor makes it.
        """
        pixels: Mapping[str, Tensor] = self._processor(images=list(images), return_tensors="pt")
        return pixels

    def ids(self, texts: Sequence[str]) -> Tensor:
        """The tokens of texts; those that the tower does not read whole are cut.

        Returns:
            int64 [texts, L], padded to the tower's length L, as SigLIP and CLIP were trained.
        """
        ids: Tensor = self._read(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        )
        return ids

    def reads_whole(self, text: str) -> bool:
        """Whether a text is not longer than the tower reads."""
        return len(self._read([text])[0]) <= self._length

    def _read(self, texts: Sequence[str], **options: Any) -> Any:
        # A caption's words are never control tokens.
        return self.tokenizer(list(texts), split_special_tokens=True, **options)["input_ids"]
