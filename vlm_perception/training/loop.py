# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""One training loop: warm-up and cosine, checkpoints that resume, a log with a line a record."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from vlm_perception.common.errors import VlmPerceptionError

LOG_EVERY = 20
SAVE_EVERY = 100


@dataclass(frozen=True)
class Schedule:
    """How long, how large and how fast."""

    steps: int
    batch: int
    peak_rate: float = 1e-3
    final_rate: float = 1e-6
    warm_up_share: float = 0.06
    weight_decay: float = 0.05

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then a cosine."""
        warm = max(1, int(self.steps * self.warm_up_share))
        if step < warm:
            return self.peak_rate * (step + 1) / warm
        turn = (step - warm) / max(1, self.steps - warm)
        return (
            self.final_rate
            + (self.peak_rate - self.final_rate) * (1 + math.cos(math.pi * turn)) / 2
        )


def _optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": schedule.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=schedule.peak_rate,
        betas=(0.9, 0.98),
    )


def fit(
    module: nn.Module,
    losses: Callable[[int], dict[str, Tensor]],
    weights: dict[str, float],
    schedule: Schedule,
    directory: Path,
    title: str,
) -> None:
    """Train `module`, resuming from `directory/last.pt` if it exists.

    `losses` computes the named losses of one step; it must depend on the step alone, so that a
    resumed run takes the path of an unbroken one. Each record of `log.jsonl` holds the step, the
    rate, the images a second and every loss apart.
    """
    directory.mkdir(parents=True, exist_ok=True)
    optimizer = _optimizer(module, schedule)
    first = _resume(module, optimizer, schedule, directory / "last.pt")
    since, sums = time.monotonic(), dict.fromkeys(weights, 0.0)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, (directory / "log.jsonl").open("a") as log:
        bar = progress.add_task(title, total=schedule.steps, completed=first)
        for step in range(first, schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            parts = losses(step)
            total = torch.stack([parts[name] * weight for name, weight in weights.items()]).sum()
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            for name in weights:
                sums[name] += float(parts[name].detach())
            progress.advance(bar)
            if (step + 1) % LOG_EVERY == 0:
                speed = LOG_EVERY * schedule.batch / (time.monotonic() - since)
                record = {name: round(value / LOG_EVERY, 5) for name, value in sums.items()}
                log.write(
                    json.dumps(
                        {
                            "step": step + 1,
                            "batch": schedule.batch,
                            "rate": round(schedule.rate(step), 8),
                            "images_per_second": round(speed, 1),
                            **record,
                        }
                    )
                    + "\n"
                )
                log.flush()
                since, sums = time.monotonic(), dict.fromkeys(weights, 0.0)
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == schedule.steps:
                _save(module, optimizer, schedule, step + 1, directory / "last.pt")


def _save(
    module: nn.Module, optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, path: Path
) -> None:
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "schedule": asdict(schedule),
        },
        partial,
    )
    partial.rename(path)


def _resume(
    module: nn.Module, optimizer: torch.optim.Optimizer, schedule: Schedule, path: Path
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["schedule"] != asdict(schedule):
        raise VlmPerceptionError(
            f"{path} was trained with another schedule ({state['schedule']}); give another --out "
            "or remove it to start over"
        )
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
