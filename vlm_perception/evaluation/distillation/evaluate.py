# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What distillation is worth: runs of `vlm-perception distil`, judged on the road world's exam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, RenderableType

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.files.images import write_images
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.evaluation.cached_export import exported
from vlm_perception.evaluation.comparison.bootstrap import REPLICATES
from vlm_perception.evaluation.distillation import arms as tag_arms
from vlm_perception.evaluation.distillation.arms import ARMS
from vlm_perception.evaluation.distillation.study import SeededRun, read_runs
from vlm_perception.evaluation.distillation.tags import CHANCE, TagExam, macro_ap
from vlm_perception.evaluation.report import Report
from vlm_perception.evaluation.road_world import EXAM_SEED
from vlm_perception.outputs.own import own_folder

VERB = "evaluate distillation"
CALIBRATION_IMAGES = 80
"""Token pruning calibrates nothing, but its export asks for images."""
CALIBRATION_SIZE = (640, 360)


def run(runs: Path, *, teacher: Path | None, scenes: int, out: Path) -> Report:
    """Judge all runs of a folder that are complete.

    Args:
        runs: the folder, as `vlm-perception distil` has left it.
        teacher: a checkpoint directory, where the teacher is no run of the folder.
        scenes: of the exam.
        out: keeps bundles and scores; a second run uses them.

    Raises:
        StudyError: there are no runs, or they do not fit each other.
        ExportError: a checkpoint cannot be exported.
        OutputError: `out` is another's, or in use.
    """
    found = read_runs(runs)
    known = {key: found[name] for key, name in ARMS.items() if name in found}
    done = {key: [each for each in of if each.done("student")] for key, of in known.items()}
    with own_folder(out, VERB, [runs]) as folder:
        parts, figures = _tags(folder, {k: v for k, v in done.items() if v}, teacher, scenes)
    missing = _missing(known, done, teacher)
    return Report(
        [*parts, *missing],
        {
            "scenes": scenes,
            "first_seed": EXAM_SEED,
            **figures,
            "missing": missing,
        },
    )


def _tags(
    folder: Path, runs: Mapping[str, Sequence[SeededRun]], teacher: Path | None, scenes: int
) -> tuple[list[RenderableType], dict[str, object]]:
    """The arms of a student and its teacher."""
    if not runs:
        return [], {}
    bundles = {each.name: _export(each, folder) for of in runs.values() for each in of}
    if teacher is not None and tag_arms.TEACHER not in runs:
        bundles[tag_arms.TEACHER] = exported(teacher, folder / "bundles" / "teacher", DENSE)
    scores, present = TagExam(scenes, folder).scores(bundles)
    with Console().status("drawing images and seeds"):
        judged = macro_ap(scores, present, REPLICATES)
    arms = {key: tag_arms.gather(runs[key], judged) for key in ARMS if key in runs}
    if tag_arms.TEACHER in judged:
        arms = {tag_arms.TEACHER: tag_arms.Arm((0,), judged[tag_arms.TEACHER]), **arms}
    unlike = tag_arms.unlike(runs)
    compared = tag_arms.compare(arms, judged[CHANCE], list(unlike))
    chance = float(judged[CHANCE].whole[0])
    notes = [
        f"{ARMS[key]} is not like {ARMS[tag_arms.STUDENT]} ({'; '.join(changes)}): no bar is judged"
        for key, changes in unlike.items()
    ]
    return (
        [*tag_arms.tables(arms, compared, chance, scenes), *notes],
        {"chance": chance, **tag_arms.as_json(arms, compared), "unlike": unlike},
    )


DENSE = ExportOptions(validate=False)


def _export(run: SeededRun, folder: Path) -> ModelBundle:
    """The bundle of a run's student, pruned as the student has learned to live with."""
    checkpoint = run.done("student")
    assert checkpoint is not None and run.recipe.student is not None
    options = DENSE
    if run.recipe.student.keep:
        calibration = folder / "calibration"
        write_images(calibration, CALIBRATION_IMAGES, CALIBRATION_SIZE)
        options = ExportOptions(
            keep=run.recipe.student.keep, calibration=calibration, validate=False
        )
    return exported(checkpoint, folder / "bundles" / run.name, options)


def _missing(
    runs: Mapping[str, Sequence[SeededRun]],
    done: Mapping[str, Sequence[SeededRun]],
    teacher: Path | None,
) -> list[str]:
    """What is not there, in sentences."""
    found = []
    for key, name in ARMS.items():
        if key not in runs and not (key == tag_arms.TEACHER and teacher is not None):
            found.append(f"{name}: no run; `vlm-perception distil` with its recipe makes it")
        unfinished = [each.folder for each in runs.get(key, ()) if each not in done[key]]
        if unfinished:
            found.append(
                f"{name}: not finished in {', '.join(str(folder) for folder in unfinished)}; "
                "`vlm-perception distil` with the same --out goes on"
            )
    return found
