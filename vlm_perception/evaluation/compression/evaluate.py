# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What quantization and pruning cost the road world's student, and what they save.

Every case is exported from the checkpoint and evaluated on the same benchmark, scene by scene.
Token pruning is compared with two controls at about the same number of tokens, as any selection
method must be: tokens drawn at random, and simply a smaller image (UniPruneBench,
https://arxiv.org/abs/2511.02650, and FastVLM, https://arxiv.org/abs/2412.13303, table 5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table
from rich.text import Text

from vlm_perception.bundle.bundle import DECODER_GRAPH
from vlm_perception.common.machine import cpu_count, cpu_model
from vlm_perception.evaluation.compression.cases import DENSE, INT8, Case, make_cases
from vlm_perception.evaluation.compression.times import Times, take_times
from vlm_perception.evaluation.machine_load import Load
from vlm_perception.evaluation.report import Report, figure_table
from vlm_perception.evaluation.tasks.roadworld import (
    Answers,
    RoadWorldTask,
    evaluation_streets,
    metrics,
)
from vlm_perception.outputs.own import own_folder

VERB = "evaluate compression"
KEPT = {
    "captions": "caption_object_f1",
    "attributes": "attributes_balanced_accuracy_mean",
    "presence": "presence_f1",
}
"""The decoder's metrics, by the benchmark's keys."""


@dataclass(frozen=True)
class CompressionRow:
    """One case beside its reference: dense for int8, int8 for all others."""

    case: str
    setting: str
    """Schedule of the pruning, or share of the attention heads that stay."""
    reference: str
    bundle_digest: str
    tokens: int
    cosine_mean: float
    """Of the pooled embedding, against the dense model in FP32."""
    cosine_min: float
    tag_top1_agreement: float
    macro_ap: float
    macro_ap_loss: float
    """In points (hundredths), against the reference."""
    captions: float
    attributes: float
    presence: float
    captions_kept: float
    """Share of the reference's figure."""
    attributes_kept: float
    presence_kept: float
    decoder_retention: float
    """The smaller of the shares that captions and answers keep."""
    same_answers: float
    """Share of the typed questions that get the reference's answer."""
    same_captions: float
    """Mean similarity with the reference's captions, word by word."""
    decoder_mb: float
    """The decoder's file."""
    vision_ms: float
    latency_cut_percent: float
    """Of the vision network's median, against the reference."""
    prefill_ms: float
    prefill_cut_percent: float
    decode_ms: float
    """One token of a caption."""
    analysis_ms: float
    """Prefill, all typed questions and the caption."""
    analysis_cut_percent: float


def run(
    checkpoint: Path,
    keeps: Sequence[str],
    heads: Sequence[float],
    out: Path,
    *,
    scenes: int,
    timed: int,
) -> Report:
    """Export every case, run the benchmark and measure times.

    Args:
        checkpoint: the road world's checkpoint directory.
        keeps: pruning schedules, as `vlm-perception export --keep` takes them.
        heads: shares of the attention heads, as `--heads` takes them.
        out: folder for the exported bundles and the calibration images; a second run uses them.
        scenes: scenes of the benchmark.
        timed: scenes to take times with.

    Raises:
        ExportError: the checkpoint or a schedule cannot be used.
        OutputError: the folder contains other files.
    """
    with own_folder(out, VERB, [checkpoint]) as work:
        cases = make_cases(checkpoint, keeps, heads, work)
    tasks = {case.name: RoadWorldTask(case.bundle) for case in cases}
    pooled: dict[str, list[NDArray[np.float32]]] = {name: [] for name in tasks}
    for street in track(evaluation_streets(scenes), "Evaluating", transient=True):
        for name, task in tasks.items():
            pooled[name].append(task.take(street))
    evaluated = {
        name: Evaluated(np.stack(pooled[name]), task.answers, metrics(task.answers)[0])
        for name, task in tasks.items()
    }
    tasks.clear()
    times, load = take_times({case.name: case.bundle for case in cases}, timed)
    rows = [compare(case, evaluated, times) for case in cases]
    return Report(
        [
            _kept_table(rows, scenes),
            _times_table(rows, timed),
            # The benchmark's figures are valid however busy the machine was.
            Text(f"times: {load.verdict()}", style=load.style),
        ],
        _as_json(rows, scenes, timed, load),
    )


@dataclass(frozen=True)
class Evaluated:
    """A case's outputs in the benchmark, and its metrics."""

    pooled: NDArray[np.float32]
    """[scenes, D]"""
    answers: Answers
    figures: Mapping[str, object]

    def figure(self, key: str) -> float:
        """One of the metrics."""
        value = self.figures[key]
        assert isinstance(value, float)
        return value


def compare(
    case: Case, evaluated: Mapping[str, Evaluated], times: Mapping[str, Times]
) -> CompressionRow:
    """One case beside its reference."""
    reference = DENSE if case.case in (DENSE, INT8) else INT8
    ours, theirs, dense = evaluated[case.name], evaluated[reference], evaluated[DENSE]
    cosines = (ours.pooled * dense.pooled).sum(axis=1)
    top = [np.argmax(each.answers.scores, axis=1) for each in (ours, dense)]
    kept = {name: _share(ours.figure(key), theirs.figure(key)) for name, key in KEPT.items()}
    took, reference_took = times[case.name], times[reference]

    def cut(time: Callable[[Times], float]) -> float:
        return 100 * (1 - time(took) / time(reference_took))

    return CompressionRow(
        case=case.case,
        setting=case.setting,
        reference=reference,
        bundle_digest=case.bundle.digest,
        tokens=case.bundle.manifest.vision.tokens,
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        tag_top1_agreement=float((top[0] == top[1]).mean()),
        macro_ap=ours.figure("tags_macro_ap"),
        macro_ap_loss=100 * (theirs.figure("tags_macro_ap") - ours.figure("tags_macro_ap")),
        **{name: ours.figure(key) for name, key in KEPT.items()},
        **{f"{name}_kept": share for name, share in kept.items()},
        decoder_retention=min(kept["captions"], kept["attributes"]),
        same_answers=same_answers(ours.answers, theirs.answers),
        same_captions=same_captions(ours.answers, theirs.answers),
        decoder_mb=case.bundle.file(DECODER_GRAPH).stat().st_size / 1e6,
        vision_ms=took.vision,
        latency_cut_percent=cut(lambda each: each.vision),
        prefill_ms=took.prefill,
        prefill_cut_percent=cut(lambda each: each.prefill),
        decode_ms=took.decode,
        analysis_ms=took.analysis,
        analysis_cut_percent=cut(lambda each: each.analysis),
    )


def _share(ours: float, theirs: float) -> float:
    """Share of a reference's figure; of nothing nothing can be lost."""
    return ours / theirs if theirs else 1.0


def same_answers(ours: Answers, theirs: Answers) -> float:
    """Share of the typed questions that get the same answer."""
    pairs = zip(ours.attributes, theirs.attributes, strict=True)
    return float(np.mean([a[name] == b[name] for a, b in pairs for name in a]))


def same_captions(ours: Answers, theirs: Answers) -> float:
    """Mean similarity of the captions, word by word."""
    pairs = zip(ours.captions, theirs.captions, strict=True)
    words = ((a.split(), b.split()) for a, b in pairs)
    return float(np.mean([SequenceMatcher(None, a, b, autojunk=False).ratio() for a, b in words]))


def _as_json(
    rows: Sequence[CompressionRow], scenes: int, timed: int, load: Load
) -> dict[str, object]:
    return {
        "scenes": scenes,
        "timed_scenes": timed,
        "times_valid": load.quiet,
        "load": load.as_json(),
        "cpu_model": cpu_model(),
        "cpu_count": cpu_count(),
        "rows": [asdict(row) for row in rows],
    }


def _kept_table(rows: Sequence[CompressionRow], scenes: int) -> Table:
    table = figure_table(
        f"What is retained, on {scenes} unseen scenes",
        "case", "setting", "tokens", "cosine, mean", "worst", "top tag", "macro AP", "loss",
        "captions", "answers", "presence", "same answers", "same captions",
        words=2,
        caption=("Cosine and top tag: compared with dense. Loss in points, shares in brackets and "
            "what is the same: compared with dense for int8, with int8 for all below it. captions: "
            "F1 of the objects named; answers: balanced accuracy; presence: F1"),
    )  # fmt: skip
    for row in rows:
        table.add_row(
            *_name(row),
            str(row.tokens),
            f"{row.cosine_mean:.4f}",
            f"{row.cosine_min:.3f}",
            f"{row.tag_top1_agreement:.3f}",
            f"{row.macro_ap:.4f}",
            f"{row.macro_ap_loss:+.2f}",
            f"{row.captions:.3f} ({row.captions_kept:.1%})",
            f"{row.attributes:.3f} ({row.attributes_kept:.1%})",
            f"{row.presence:.3f} ({row.presence_kept:.1%})",
            f"{row.same_answers:.3f}",
            f"{row.same_captions:.3f}",
        )
    return table


def _times_table(rows: Sequence[CompressionRow], timed: int) -> Table:
    table = figure_table(
        f"What it costs, medians over {timed} scenes, in milliseconds",
        "case", "setting", "tokens", "vision", "prefill", "a token", "analysis", "decoder, MB",
        words=2,
        caption=(f"{cpu_model()}, {cpu_count()} cores, one thread, ONNX Runtime; in brackets the "
            "change from dense for int8, from int8 for all below it. analysis: prefill, all typed "
            "questions and the caption"),
    )  # fmt: skip
    for row in rows:
        table.add_row(
            *_name(row),
            str(row.tokens),
            f"{row.vision_ms:.2f} ({-row.latency_cut_percent:+.0f} %)",
            f"{row.prefill_ms:.2f} ({-row.prefill_cut_percent:+.0f} %)",
            f"{row.decode_ms:.2f}",
            f"{row.analysis_ms:.1f} ({-row.analysis_cut_percent:+.0f} %)",
            f"{row.decoder_mb:.2f}",
        )
    return table


def _name(row: CompressionRow) -> tuple[str, str]:
    return row.case, row.setting
