# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The student with its losses: one number for each that the recipe names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.training.distillation.losses import taught as by_teacher
from vlm_perception.training.distillation.losses import true as by_truth
from vlm_perception.training.distillation.losses.batch import Outputs, Part, TaughtTargets
from vlm_perception.training.distillation.losses.captions import contrastive, matches
from vlm_perception.training.distillation.student.batches import Batch
from vlm_perception.training.distillation.student.encoder import Seeing, StudentEncoder
from vlm_perception.training.processes import Processes
from vlm_perception.training.roadworld_words import ATTRIBUTE_PHRASES, templates
from vlm_perception.training.tower import PRUNED_SHARE

TRUE = ("true_labels", "true_patches", "true_distance")
TAUGHT = ("pooled", "patches", "labels", "affinity")
NAMED = ("labels", "affinity")
"""Those of the teacher's that are about its labels."""
LOSSES = ("contrastive", *TRUE, *TAUGHT)


class StudentObjective(nn.Module):
    """The student, and what is dropped after training: maps to the teacher, a head for distances.

    A batch is seen in micro-batches. Where there are several, no activations are kept of any: each
    is computed again when its gradient is (Gao et al., Scaling Deep Contrastive Learning Batch Size
    under Memory Limited Setup, https://arxiv.org/abs/2101.06983), so that the losses can be of all.
    """

    def __init__(
        self,
        student: StudentEncoder,
        losses: Sequence[str],
        processes: Processes,
        micro_batch: int,
        taught_width: int = 0,
    ) -> None:
        """Wrap a student.

        Args:
            student: that learns.
            losses: names, of LOSSES.
            processes: that compute together.
            micro_batch: images at once.
            taught_width: of the teacher's embeddings, where a loss is about them.
        """
        super().__init__()
        self.student, self._losses, self._processes = student, tuple(losses), processes
        self._micro = micro_batch
        self.distance = nn.Linear(student.hidden_width, 1) if "true_distance" in losses else None
        self.to_teacher = nn.ModuleDict(
            {
                name: nn.Linear(student.width, taught_width, bias=False)
                for name in ("pooled", "patches")
                if name in losses
            }
        )

    def forward(
        self,
        batch: Batch,
        labels: Mapping[str, Sequence[str]],
        taught: TaughtTargets | None,
        rng: np.random.Generator,
    ) -> dict[str, Part]:
        """This process's part of each loss, in FP32.

        Args:
            batch: what it sees.
            labels: of the teacher, with the wordings of each.
            taught: what the teacher said of it.
            rng: the same in all processes.
        """
        pruned = bool(self.student.keep) and rng.random() < PRUNED_SHARE
        outputs = self._look(batch, pruned, self._texts(batch, labels, rng))
        parts: dict[str, Part] = {}
        if any(name in TRUE for name in self._losses):
            parts |= self._of_truth(outputs, batch)
        if taught is not None:
            parts |= self._of_teacher(outputs, taught)
        if "contrastive" in self._losses:
            parts["contrastive"] = self._of_captions(outputs, batch)
        return {name: parts[name] for name in self._losses}

    def _texts(
        self, batch: Batch, labels: Mapping[str, Sequence[str]], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """The embeddings that the losses need, read in one batch."""
        wanted: dict[str, list[str]] = {}
        if any(name in TRUE for name in self._losses):
            world = [str(rng.choice(templates(label))).format(label=label) for label in LABELS]
            wanted["world"] = [*world, *ATTRIBUTE_PHRASES.values()]
        if any(name in NAMED for name in self._losses):
            wanted["labels"] = [str(rng.choice(list(words))) for words in labels.values()]
        if "contrastive" in self._losses:
            wanted["captions"] = list(batch.captions)
        if not wanted:
            return {}
        together = self.student.embed([text for texts in wanted.values() for text in texts])
        sizes = [len(texts) for texts in wanted.values()]
        return dict(zip(wanted, together.split(sizes), strict=True))

    def _look(self, batch: Batch, pruned: bool, texts: dict[str, Tensor]) -> Outputs:
        chunks = batch.pixels.split(self._micro)
        see = partial(self.student.see, pruned=pruned)
        if len(chunks) == 1:
            seen = [see(chunks[0])]
        else:
            seen = [
                Seeing(*checkpoint(partial(_in_order, see), chunk, use_reentrant=False))
                for chunk in chunks
            ]
        pooled, patches, index, hidden = (
            torch.cat([getattr(each, name) for each in seen])
            for name in ("pooled", "patches", "index", "hidden")
        )
        return Outputs(
            pooled=F.normalize(pooled.float(), dim=-1),
            patches=F.normalize(patches.float(), dim=-1),
            index=index,
            hidden=hidden.float(),
            texts=texts,
            scale=self.student.scale,
            bias=self.student.bias,
            softmax=self.student.softmax,
        )

    def _of_truth(self, outputs: Outputs, batch: Batch) -> dict[str, Part]:
        true = batch.true().to(outputs.pooled.device)
        parts = {}
        if "true_labels" in self._losses:
            parts["true_labels"] = by_truth.true_labels(outputs, true)
        if "true_patches" in self._losses:
            parts["true_patches"] = by_truth.true_patches(outputs, true)
        if self.distance is not None:
            parts["true_distance"] = by_truth.true_distance(outputs, true, self.distance)
        return parts

    def _of_teacher(self, outputs: Outputs, taught: TaughtTargets) -> dict[str, Part]:
        parts = {}
        if "pooled" in self._losses:
            parts["pooled"] = by_teacher.pooled(outputs, taught, self.to_teacher["pooled"])
        if "patches" in self._losses:
            parts["patches"] = by_teacher.patches(outputs, taught, self.to_teacher["patches"])
        if "labels" in self._losses:
            parts["labels"] = by_teacher.labels(outputs, taught)
        if "affinity" in self._losses:
            gather = self._processes.gather
            parts["affinity"] = self._whole(
                by_teacher.affinity(
                    gather(outputs.pooled),
                    outputs.texts["labels"],
                    gather(taught.pooled),
                    taught.label_texts,
                    taught.scale,
                )
            )
        return parts

    def _of_captions(self, outputs: Outputs, batch: Batch) -> Part:
        gather = self._processes.gather
        own = self._processes.gather_objects([each.captions for each in batch.examples])
        texts = self._processes.gather_objects(batch.captions)
        logits = gather(outputs.pooled) @ gather(outputs.texts["captions"]).T * outputs.scale
        if not outputs.softmax:
            logits = logits + outputs.bias
        same = matches(own, texts).to(logits.device)
        return self._whole(contrastive(logits, same, outputs.softmax))

    def _whole(self, loss: Tensor) -> Part:
        """A loss that every process computes of all that it is about."""
        return Part(loss, torch.ones((), device=loss.device))


def _in_order(see: partial[Seeing], images: Tensor) -> tuple[Tensor, ...]:
    seen = see(images)
    return seen.pooled, seen.patches, seen.index, seen.hidden
