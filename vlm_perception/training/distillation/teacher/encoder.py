# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A dual encoder as a teacher: embeddings of views and patches, and probabilities of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.modeling.pixel_scaling import read_normalisation
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.training.distillation.recipe import DistillationError
from vlm_perception.training.distillation.teacher.store import TaughtBatch


class EncoderTeacher:
    """A dual encoder of a checkpoint, which sees images as its own processor gives them."""

    def __init__(
        self,
        folder: Path,
        labels: Sequence[str],
        templates: Sequence[str],
        top_labels: int,
        patches: bool,
    ) -> None:
        """Load it, on a GPU if there is one, and embed the labels.

        Args:
            folder: of the checkpoint.
            labels: whose probabilities are asked.
            templates: wordings around each, with `{label}`.
            top_labels: how many probabilities are given.
            patches: whether those are embedded, too.

        Raises:
            ExportError: it is no dual encoder that can be used.
            DistillationError: its patches cannot be read.
        """
        self._reader = DualReader(folder)
        self._family, self._folder = self._reader.family, folder
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = self._family.convert(self._reader.model).train(False).to(self._device)
        self.digest = self._reader.digest
        self.width = int(self._family.vision.embedding_width(self._model.config))
        self.score = self._family.text.score
        self.scale = float(self._model.logit_scale.exp())
        self.bias = float(getattr(self._model, "logit_bias", None) or 0.0)
        self._top, self._patches = min(top_labels, len(labels)), patches
        self._tower: VisionTower | None = None
        self.label_texts = self._embed(labels, templates)

    def grid(self, picture: NDArray[np.uint8]) -> tuple[int, int] | None:
        """Columns and rows of the patches of such a picture; None: none are asked for."""
        if not self._patches:
            return None
        pixels = self._pixels([picture])
        patch = self._family.vision.parts(self._model.vision_model).positions.patch
        return pixels.shape[3] // patch, pixels.shape[2] // patch

    @torch.no_grad()
    def look(self, pictures: Sequence[NDArray[np.uint8]]) -> TaughtBatch:
        """What it says of pictures.

        Args:
            pictures: RGB [H, W, 3] each.

        Raises:
            DistillationError: it gives NaN or infinity.
        """
        pooled, patches = self._run(self._pixels(pictures))
        for said in (pooled, patches):
            if said is not None and not bool(torch.isfinite(said).all()):
                raise DistillationError("the teacher gives NaN or infinity")
        logits = pooled @ torch.from_numpy(self.label_texts).T * self.scale + self.bias
        likely = logits.softmax(dim=1) if self.score == "softmax" else logits.sigmoid()
        best = likely.topk(self._top, dim=1)
        return TaughtBatch(
            pooled.numpy(),
            None if patches is None else patches.numpy(),
            best.indices.numpy(),
            best.values.numpy(),
        )

    def _pixels(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        found = self._reader.pixels([Image.fromarray(each) for each in pictures])
        pixels: Tensor = found["pixel_values"]
        if pixels.ndim != 4:
            raise DistillationError(
                f"{self._folder} takes images in patches of its own; as a teacher only encoders "
                "that take whole images are supported (CLIP, SigLIP)"
            )
        return pixels

    def _run(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pooled [B, D] and, if they are wanted, patches [B, rows, columns, D]."""
        parts = self._family.vision.parts(self._model.vision_model)
        patch = parts.positions.patch
        columns, rows = pixels.shape[3] // patch, pixels.shape[2] // patch
        if self._tower is None:
            scaling = read_normalisation(self._folder)
            self._mean = torch.tensor(scaling.mean, device=self._device)[:, None, None]
            self._std = torch.tensor(scaling.std, device=self._device)[:, None, None]
            self._tower = self._family.vision(
                self._model,
                positions=parts.positions.of_grid(columns, rows),
                mean=scaling.mean,
                std=scaling.std,
                feature_layers=[-1],
            ).eval()
            self._tower.to(self._device)
        # The exported tower takes bytes; the processor has given them back as numbers.
        image = (
            ((pixels.to(self._device) * self._std + self._mean) * 255)
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
        )
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type != "cpu"):
            outputs = self._tower(image.permute(0, 2, 3, 1).contiguous())
        patches = outputs[2].unflatten(1, (rows, columns)) if self._patches else None
        return _unit(outputs[0]), None if patches is None else _unit(patches)

    @torch.no_grad()
    def _embed(self, labels: Sequence[str], templates: Sequence[str]) -> NDArray[np.float32]:
        """The labels [labels, D], each the mean over its wordings, of length 1."""
        if not labels:
            return np.zeros((0, self.width), np.float32)
        found = []
        for label in labels:
            ids = self._reader.ids([each.format(label=label) for each in templates])
            ids = ids.to(self._device)
            texts = self._model.get_text_features(input_ids=ids).pooler_output
            found.append(_unit(texts).mean(dim=0))
        return F.normalize(torch.stack(found), dim=-1).numpy()


def _unit(values: Tensor) -> Tensor:
    """Vectors [..., D] in FP32, of length 1, where numpy reads them."""
    return F.normalize(values.float(), dim=-1).cpu()
