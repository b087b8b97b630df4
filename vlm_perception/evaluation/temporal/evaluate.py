# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The key-frame gate and the temporal state on drives and on static scenes.

Gate: against the same system with a full analysis at each tick, and against a gate that is blind,
an analysis at every n-th tick, at no less cost. Tags and answers: the attention compared with other
baselines of reading them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.progress import track
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.sequences import DRIVE, STATIC
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.evaluation.report import Report
from vlm_perception.evaluation.road_world import require_road_world
from vlm_perception.evaluation.temporal.baselines import (
    answer_material,
    compare,
    steady_tags,
    tag_material,
)
from vlm_perception.evaluation.temporal.keyframe_gate import (
    Answers,
    Flags,
    accuracy,
    against_truth,
    attend,
    events,
    found_at,
    judge,
    key_frames,
    recalled,
)
from vlm_perception.evaluation.temporal.sequences import Recording, likeliest, record
from vlm_perception.evaluation.temporal.tables import baselines_table, gate_table, truth_table
from vlm_perception.outputs.own import own_folder
from vlm_perception.perception.reasoning.keyframes import KeyframeSettings
from vlm_perception.perception.vision.temporal_state import (
    Attended,
    TrainingFreeAttention,
    bundle_attention,
)
from vlm_perception.perception.vision.vocabulary import Vocabulary, VocabularyBuilder

VERB = "evaluate temporal"
SETTINGS = KeyframeSettings()


@dataclass(frozen=True)
class Watched:
    """Sequences of one kind, with what the gate and the temporal state make of them."""

    recordings: list[Recording]
    trained: list[list[Attended]]
    """By the form that the bundle has."""
    free: list[list[Attended]]
    """By the training-free form."""
    chosen: list[Flags]
    """The gate's key frames."""

    def answers(self, chosen: Sequence[Flags]) -> list[Answers]:
        """What the reasoner publishes when it analyses these ticks."""
        return [
            likeliest(recalled(each, states, at))
            for each, states, at in zip(self.recordings, self.trained, chosen, strict=True)
        ]

    def every(self, step: int) -> list[Flags]:
        """Every n-th tick, including the first."""
        return [np.arange(len(each)) % step == 0 for each in self.chosen]


def run(
    bundle: str,
    drives: int,
    scenes: int,
    seconds: float,
    out: Path,
    first_seed: int,
) -> Report:
    """Record the sequences and compare gates and filters.

    Args:
        bundle: name or directory of a road-world bundle with a language part.
        drives: how many drives.
        scenes: number of static scenes while the camera's exposure varies.
        seconds: length of each.
        out: folder that keeps the recordings; a run that was broken off goes on there.
        first_seed: of the drives and of the scenes. From 30,000,000 on nothing was trained on them,
            and no setting was chosen on them.

    Raises:
        BundleError: the bundle cannot be used.
        ForeignBundleError: it is no road-world bundle.
        OutputError: the folder contains other files.
    """
    model = ModelBundle.load(bundle)
    kinds = [
        (DRIVE, range(first_seed, first_seed + drives)),
        (STATIC, range(first_seed, first_seed + scenes)),
    ]
    require_road_world(model)
    with own_folder(out, VERB, [model.path]) as work:
        recordings = record(model, kinds, seconds, work)
    vocabulary = VocabularyBuilder(model).build(LABELS, version=1)
    both = [
        _watch(model, vocabulary, recordings[kind], f"Attention, {kind}s")
        for kind in (DRIVE, STATIC)
    ]
    gate_figures, tables = _gates(*both)
    tags = compare(*(tag_material(w.recordings, vocabulary, w.trained, w.free) for w in both))
    answers = compare(*(answer_material(w.recordings, w.trained, w.free) for w in both))
    tables.append(baselines_table("Tags", tags))
    tables.append(baselines_table("Answers, a full analysis on each tick", answers))
    figures = gate_figures | tags.figures()
    figures |= {
        "answers": answers.figures(),
        "form": "training-free" if model.manifest.temporal is None else "trained",
        "drives": drives,
        "scenes": scenes,
        "seconds": seconds,
        "first_seed": first_seed,
        "bundle_digest": model.digest,
    }
    return Report(tables, figures)


def _watch(
    model: ModelBundle, vocabulary: Vocabulary, recordings: list[Recording], title: str
) -> Watched:
    trained = [attend(each, bundle_attention(model)) for each in track(recordings, title)]
    free = [attend(each, TrainingFreeAttention()) for each in recordings]
    chosen = [
        key_frames(states, tags, LABELS, SETTINGS)
        for states, tags in zip(trained, steady_tags(free, vocabulary), strict=True)
    ]
    return Watched(recordings, trained, free, chosen)


def _gates(moving: Watched, still: Watched) -> tuple[dict[str, object], list[Table]]:
    drives, happened = moving.recordings, events(moving.recordings)
    ungated, gated = moving.answers(moving.every(1)), moving.answers(moving.chosen)
    gate = judge(drives, moving.chosen, gated, ungated, happened)
    every = max(1, int(1.0 / max(1e-9, 1.0 - gate.analyses_saved)))
    steps = moving.every(every)
    blind = judge(drives, steps, moving.answers(steps), ungated, happened)
    standing = judge(
        still.recordings,
        still.chosen,
        still.answers(still.chosen),
        still.answers(still.every(1)),
        [],
    )
    alone = [each.answers for each in drives]
    beside_alone = judge(drives, moving.chosen, gated, alone, happened)
    truth = {
        "each tick alone": against_truth(drives, alone, happened),
        "each tick, attention": against_truth(drives, ungated, happened),
        "key frames": against_truth(drives, gated, happened),
    }
    rows = {
        "key frames": gate,
        f"every {every}th tick": blind,
        "key frames, static scenes": standing,
        "key frames, compared with each tick alone": beside_alone,
    }
    variants = {"alone": alone, "ungated": ungated, "gated": gated}
    recall_truth = {
        name: float(np.mean([found_at(a[e.sequence], e) is not None for e in happened]))
        if happened
        else float("nan")
        for name, a in variants.items()
    }
    figures = asdict(gate) | {
        "event_recall_truth": recall_truth["gated"],
        "event_recall_truth_ungated": recall_truth["ungated"],
        "event_recall_truth_per_frame": recall_truth["alone"],
        "answer_accuracy": {name: accuracy(drives, a) / 100.0 for name, a in variants.items()},
        "events": len(happened),
        "blind_gate": asdict(blind) | {"every": every},
        "static_gate": asdict(standing),
        "gate_against_each_tick_alone": asdict(beside_alone),
        "truth_per_frame": [asdict(row) for row in truth["each tick alone"]],
        "truth_ungated": [asdict(row) for row in truth["each tick, attention"]],
        "truth_gated": [asdict(row) for row in truth["key frames"]],
    }
    return figures, [gate_table(rows, len(happened)), truth_table(truth)]
