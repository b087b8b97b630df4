# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""One training loop: warm-up and cosine, checkpoints that resume, a log with a line a record."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.training.drift import Drift
from vlm_perception.training.processes import Processes

LOG_EVERY = 20
SAVE_EVERY = 100
LAST = "last.pt"
"""The state that a run goes on from."""
SLOWER = 0.1
"""The rate of inherited weights, once they are trained, as a share of the usual."""


@dataclass(frozen=True)
class Schedule:
    """How long, how large and how fast."""

    steps: int
    batch: int
    peak_rate: float = 1e-3
    final_rate: float = 1e-6
    warm_up_share: float = 0.06
    weight_decay: float = 0.05
    frozen_share: float = 0.0
    """Of the steps, for which inherited weights are frozen; from then on all are trained at a tenth
    of the rate. 0: nothing is inherited."""

    def frozen(self, step: int) -> bool:
        """Whether inherited weights wait at a step."""
        return step < round(self.steps * self.frozen_share)

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then a cosine."""
        warm = max(1, int(self.steps * self.warm_up_share))
        if step < warm:
            return self.peak_rate * (step + 1) / warm
        turn = (step - warm) / max(1, self.steps - warm)
        peak = self.peak_rate
        if self.frozen_share and not self.frozen(step):
            peak = max(self.final_rate, peak * SLOWER)
        return self.final_rate + (peak - self.final_rate) * (1 + math.cos(math.pi * turn)) / 2


class Clock:
    """How the time of a step is divided."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part of a step."""
        began = time.monotonic()
        yield
        self._seconds[name] += time.monotonic() - began

    def shares(self) -> dict[str, float]:
        """Share of each part since the last call."""
        whole = sum(self._seconds.values()) or 1.0
        found = {name: round(value / whole, 3) for name, value in self._seconds.items()}
        self._seconds.clear()
        return found


@dataclass(frozen=True)
class Run:
    """What a training knows beside its losses; nothing of it is needed."""

    processes: Processes | None = None
    """That compute together; the losses are this one's parts of them."""
    clock: Clock | None = None
    """On which `losses` has measured the reading of its data."""
    seen: Callable[[int], Sequence[str]] | None = None
    """The names of a step's images."""
    prepare: Callable[[int], None] | None = None
    """Called before each step."""
    micro_batch: int | None = None
    """Images that are computed at once; None: those of a batch."""


def fit(
    module: nn.Module,
    losses: Callable[[int], dict[str, Tensor]],
    weights: Mapping[str, float],
    schedule: Schedule,
    directory: Path,
    title: str,
    run: Run = Run(),
) -> None:
    """Train `module`, resuming from `directory/last.pt` if it exists.

    `losses` computes the named losses of one step; it must depend on the step alone, so that a
    resumed run takes the path of an unbroken one. Each record of `log.jsonl` holds the step, the
    rate, the images a second and every loss apart; where one loss has fallen while another has
    risen, it says so.

    Raises:
        VlmPerceptionError: a loss is not finite (the last state stays), or the state is of another
            schedule.
    """
    directory.mkdir(parents=True, exist_ok=True)
    optimizer = _optimizer(module, schedule)
    state = directory / LAST
    first = _resume(module, optimizer, schedule, state)
    leads = run.processes is None or run.processes.first
    log = _Log(directory / "log.jsonl", schedule, weights, run) if leads else None
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not leads) as progress:
        bar = progress.add_task(title, total=schedule.steps, completed=first)
        for step in range(first, schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            values = _step(module, losses, weights, optimizer, step, run)
            if log is not None:
                log.take(step, values)
            progress.advance(bar)
            if leads and ((step + 1) % SAVE_EVERY == 0 or step + 1 == schedule.steps):
                _save(module, optimizer, schedule, step + 1, state)
    if run.processes is not None:
        run.processes.wait()


def _step(
    module: nn.Module,
    losses: Callable[[int], dict[str, Tensor]],
    weights: Mapping[str, float],
    optimizer: torch.optim.Optimizer,
    step: int,
    run: Run,
) -> dict[str, float]:
    clock = run.clock or Clock()
    if run.prepare is not None:
        run.prepare(step)
    parts = losses(step)
    with clock.part("backward"):
        total = torch.stack([parts[name] * weight for name, weight in weights.items()]).sum()
        values = {name: _over_all(parts[name].detach(), run) for name in weights}
        _require_finite(values, step, run)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        if run.processes is not None:
            run.processes.add_gradients(module.parameters())
        norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        _require_finite({"gradient": float(norm)}, step, run)
        optimizer.step()
    return values


def _over_all(part: Tensor, run: Run) -> float:
    return float(part if run.processes is None else run.processes.total(part))


def _require_finite(values: Mapping[str, float], step: int, run: Run) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        what = "length of the" if bad[0] == "gradient" else "loss"
        images = "" if run.seen is None else f"; its images are {', '.join(run.seen(step))}"
        raise VlmPerceptionError(
            f"the {what} {bad[0]} is {values[bad[0]]} in step {step + 1}{images}; the state of the "
            f"last {SAVE_EVERY} steps is kept: lower the rate, or leave those images out"
        )


class _Log:
    """Writes a line every so many steps."""

    def __init__(
        self, file: Path, schedule: Schedule, weights: Mapping[str, float], run: Run
    ) -> None:
        self._file, self._schedule, self._run = file, schedule, run
        self._sums, self._since = dict.fromkeys(weights, 0.0), time.monotonic()
        self._drift = Drift()

    def take(self, step: int, values: Mapping[str, float]) -> None:
        """Count the losses of a step."""
        for name, value in values.items():
            self._sums[name] += value
        if (step + 1) % LOG_EVERY:
            return
        now = time.monotonic()
        means = {name: value / LOG_EVERY for name, value in self._sums.items()}
        record: dict[str, Any] = {
            "step": step + 1,
            "batch": self._schedule.batch,
            "micro_batch": self._run.micro_batch or self._schedule.batch,
            "rate": round(self._schedule.rate(step), 8),
            "images_per_second": round(LOG_EVERY * self._schedule.batch / (now - self._since), 1),
            **{name: round(value, 5) for name, value in means.items()},
        }
        if self._run.clock is not None:
            record["time"] = self._run.clock.shares()
        if apart := self._drift.take(means):
            record["drift"] = apart
        with self._file.open("a") as log:
            log.write(json.dumps(record) + "\n")
        self._sums, self._since = dict.fromkeys(self._sums, 0.0), now


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
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["schedule"] != asdict(schedule):
        raise VlmPerceptionError(
            f"{path} was trained with another schedule ({state['schedule']}); give another --out "
            "or remove it to start over"
        )
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
