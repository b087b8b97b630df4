# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What distillation is worth: runs of `vlm-perception distil`, judged on the road world's exam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.evaluation.comparison.bootstrap import REPLICATES
from vlm_perception.evaluation.compression.times import take_times
from vlm_perception.evaluation.distillation import bridges, quantized, tag_study
from vlm_perception.evaluation.distillation.arm import Arm, gather
from vlm_perception.evaluation.distillation.bundles import Bundles
from vlm_perception.evaluation.distillation.study import SeededRun, read_runs
from vlm_perception.evaluation.distillation.tag_study import ARMS, STUDENT, TEACHER
from vlm_perception.evaluation.distillation.tags import CHANCE, macro_ap, tag_scores
from vlm_perception.evaluation.distillation.words import word_figures, words
from vlm_perception.evaluation.report import Report
from vlm_perception.evaluation.road_world import EXAM_SEED
from vlm_perception.outputs.own import own_folder

VERB = "evaluate distillation"
Arms = Mapping[str, Sequence[SeededRun]]


@dataclass
class Findings:
    """What is printed, and the figures."""

    parts: list[RenderableType] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Judge:
    """Where runs are judged, and on how many scenes."""

    folder: Path
    scenes: int
    timed: int

    @property
    def bundles(self) -> Bundles:
        """Those of the runs."""
        return Bundles(self.folder)


def run(runs: Path, *, scenes: int, timed: int, out: Path) -> Report:
    """Judge all runs of a folder that are complete.

    Args:
        runs: the folder, as `vlm-perception distil` has left it.
        scenes: of the exam.
        timed: scenes to take times of language models with.
        out: keeps bundles and scores; a second run uses them.

    Raises:
        StudyError: there are no runs, or they do not fit each other.
        ExportError: a checkpoint cannot be exported.
        OutputError: `out` is another's, or in use.
    """
    arms = read_runs(runs)
    found = Findings()
    with own_folder(out, VERB, [runs]) as folder:
        judge = Judge(folder, scenes, timed)
        _tags({key: arms[name] for key, name in ARMS.items() if name in arms}, judge, found)
        _bridges([arm for arm in arms.values() if arm[0].recipe.language], judge, found)
        _quantization([arm for arm in arms.values() if arm[0].recipe.quantization], judge, found)
    return Report(
        [*found.parts, *found.missing],
        {
            "scenes": scenes,
            "first_seed": EXAM_SEED,
            **found.figures,
            "missing": found.missing,
        },
    )


def _tags(arms: Arms, judge: Judge, found: Findings) -> None:
    """The students of a teacher."""
    done = {key: _done(runs, "student", found) for key, runs in arms.items()}
    done = {key: runs for key, runs in done.items() if runs}
    if not arms:
        found.missing.append(f"no run is one of {', '.join(ARMS.values())}")
        return
    teacher = _teacher_of(done)
    found.missing += [
        f"{name}: no run; `vlm-perception distil` with its recipe makes it"
        for key, name in ARMS.items()
        if key not in arms
    ]
    if STUDENT in done and teacher is None:
        found.missing.append(f"{TEACHER}: its checkpoint is not where the recipe says")
    if not done:
        return
    bundles = {
        each.name: judge.bundles.of_run(each, "student") for runs in done.values() for each in runs
    }
    if teacher is not None:
        bundles[TEACHER] = judge.bundles.of(teacher, TEACHER)
    scores, present = tag_scores(bundles, judge.scenes, judge.folder)
    with Console().status("drawing images"):
        judged = macro_ap(scores, present, REPLICATES)
    figures = {TEACHER: Arm((0,), judged[TEACHER])} if teacher is not None else {}
    figures |= {key: gather(done[key], judged) for key in ARMS if key in done}
    unlike = tag_study.unlike(done)
    compared = tag_study.compare(figures, judged[CHANCE], list(unlike))
    chance = float(judged[CHANCE].whole[0])
    found.parts += tag_study.tables(figures, compared, chance, judge.scenes)
    found.parts += [
        f"no bar is judged of {ARMS[key]}, which is not like {ARMS[STUDENT]}: {'; '.join(changes)}"
        for key, changes in unlike.items()
    ]
    found.figures |= {
        "chance": chance,
        **tag_study.as_json(figures, compared),
        "unlike": unlike,
    }


def _teacher_of(arms: Arms) -> Path | None:
    """The checkpoint that the distilled student has learned from, where it is there still."""
    run = next(iter(arms.get(STUDENT, ())), None)
    if run is None or run.recipe.teacher is None or run.recipe.teacher.encoder is None:
        return None
    return run.place(run.recipe.teacher.encoder)


def _bridges(arms: Sequence[Sequence[SeededRun]], judge: Judge, found: Findings) -> None:
    """The language models that read a tower's tokens, by what leads to them."""
    if not arms:
        found.missing.append("no run has a section `language`")
    whole = [_done(arm, "language", found) for arm in arms]
    done = [arm for arm in whole if arm]
    if not done:
        return
    if not any(bridges.is_reference(run) for arm in done for run in arm):
        found.missing.append(
            "bridges: no run with `bridge: {kind: mlp}` and all tokens, which the others are "
            "compared with"
        )
        return
    bundles = {run.name: judge.bundles.of_run(run, "language") for arm in done for run in arm}
    said, true = words(bundles, judge.scenes, judge.folder)
    with Console().status("drawing images"):
        figures = word_figures(said, true, REPLICATES)
    times, load = take_times({arm[0].name: bundles[arm[0].name] for arm in done}, judge.timed)
    rows = bridges.bridge_rows(done, bundles, figures, times)
    reached = bridges.bars(rows)
    found.parts += [
        bridges.table(rows, judge.scenes),
        Text(f"times: {load.verdict()}", style=load.style),
        *bridges.sentences(reached),
    ]
    found.figures |= {
        "bridge": bridges.as_json(rows),
        "bridge_bars": [asdict(each) for each in reached],
        "times_valid": load.quiet,
    }


def _quantization(arms: Sequence[Sequence[SeededRun]], judge: Judge, found: Findings) -> None:
    """What precision configs cost, and what training for them wins back."""
    if not arms:
        found.missing.append("no run has a section `quantization`")
    whole = [_done(arm, "quantization", found) for arm in arms]
    done = [arm for arm in whole if arm]
    if not done:
        return
    bundles: dict[str, ModelBundle] = {}
    for run in (run for arm in done for run in arm):
        bundles |= quantized.quantized_bundles(run, judge.folder)
    scores, present = tag_scores(bundles, judge.scenes, judge.folder)
    with Console().status("drawing images"):
        judged = macro_ap(scores, present, REPLICATES)
    plans = [quantized.judge(arm, judged) for arm in done]
    found.parts += [quantized.table(plans, judge.scenes), *quantized.sentences(plans)]
    found.figures["qat"] = quantized.as_json(plans)


def _done(runs: Sequence[SeededRun], part: str, found: Findings) -> list[SeededRun]:
    """The runs of which a part is complete; the others are noted."""
    unfinished = [str(each.folder) for each in runs if each.done(part) is None]
    if unfinished:
        found.missing.append(
            f"{runs[0].recipe.name}: {part} is not finished in {', '.join(unfinished)}; "
            "`vlm-perception distil` with the same --out goes on"
        )
    return [each for each in runs if each.done(part) is not None]
