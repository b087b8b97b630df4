# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The processes that train one model together, as accelerate has started them; usually one.

Each process computes its share of a loss on outputs that are gathered from all; gradients are
added. So several processes give the losses of one that has the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import Tensor, nn
from torch.distributed.nn import functional as distributed

from vlm_perception.common.errors import VlmPerceptionError

T = TypeVar("T")
PATIENCE = timedelta(days=30)


class Processes:
    """All processes of a run, of which this is one."""

    def __init__(self) -> None:
        """Join them; without accelerate's launcher there is one, on a GPU if there is one."""
        # What is done in half precision is said by autocast, and one may work for days alone.
        patience = InitProcessGroupKwargs(timeout=PATIENCE)
        self._accelerator: Any = Accelerator(mixed_precision="no", kwargs_handlers=[patience])
        self.count: int = self._accelerator.num_processes
        self.number: int = self._accelerator.process_index
        self.device: torch.device = self._accelerator.device

    @property
    def first(self) -> bool:
        """Whether this one writes logs and files."""
        return self.number == 0

    def share(self, batch: Sequence[T]) -> Sequence[T]:
        """What of a batch this process reads.

        Raises:
            VlmPerceptionError: it cannot be divided evenly.
        """
        if len(batch) % self.count:
            raise VlmPerceptionError(
                f"a batch of {len(batch)} cannot be divided among {self.count} processes; choose a "
                "multiple"
            )
        size = len(batch) // self.count
        return batch[self.number * size : (self.number + 1) * size]

    def gather(self, values: Tensor) -> Tensor:
        """Values [N, ...] of all processes, one after the other; gradients flow back to each."""
        if self.count == 1:
            return values
        return torch.cat(distributed.all_gather(values.contiguous()))

    def gather_objects(self, values: Sequence[T]) -> list[T]:
        """The same of what is no tensor."""
        return list(values) if self.count == 1 else gather_object(list(values))

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give each process the gradients of all."""
        if self.count > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad = self._accelerator.reduce(parameter.grad, "sum")

    def total(self, value: Tensor) -> Tensor:
        """The sum of a value without gradient over all processes."""
        if self.count == 1:
            return value
        summed: Tensor = self._accelerator.reduce(value.detach().clone(), "sum")
        return summed

    def wait(self) -> None:
        """Go on when all are here."""
        self._accelerator.wait_for_everyone()
