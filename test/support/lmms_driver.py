# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What tests let lmms-eval do, in one process, as its import takes seconds: `lmms_driver.py JOB`.

JOB is a JSON file: `tasks`, the folder of tasks; `out`; `bundle`, for the command line; `models`,
as [name, arguments] of lmms-eval's command line. What came of it goes into found.json beside it.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from support.lmms_sets import INTERRUPTED_AT, MMBENCH, MMMU, REALWORLDQA
from typer.testing import CliRunner

from vlm_perception.cli import app
from vlm_perception.evaluation.lmms import tasks
from vlm_perception.evaluation.lmms.respondent import Respondent


def by_name(folder: str, models: list[tuple[str, str]]) -> list[list[str]]:
    """Answers of models to RealWorldQA's rows, as lmms-eval's command line has them."""
    manager, task = TaskManager(include_path=folder, include_defaults=False), f"made_{REALWORLDQA}"
    answers = []
    for name, arguments in models:
        found = simple_evaluate(
            model=name,
            model_args=arguments,
            tasks=[task],
            task_manager=manager,
            device="cpu",
            batch_size=1,
            bootstrap_iters=0,
        )
        samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
        answers.append([sample["resps"][0][0] for sample in samples])
    return answers


def invoke(job: dict[str, Any], names: str, out: str) -> tuple[int, str]:
    """Exit code and output of `evaluate lmms`."""
    options = ["--bundle", job["bundle"], "--include-path", job["tasks"], "--tasks", names]
    options += ["--out", f"{job['out']}/{out}", "--json", f"{job['out']}/{out}.json"]
    result = CliRunner().invoke(app, ["evaluate", "lmms", *options], env={"COLUMNS": "500"})
    return result.exit_code, result.output


def main(file: Path) -> None:
    """Do the job."""
    job = json.loads(file.read_text())
    tasks.TaskManager = functools.cache(TaskManager)  # type: ignore[misc,assignment]
    all_sets = ",".join(f"made_{name}" for name in (MMBENCH, REALWORLDQA, MMMU))
    answer, calls = Respondent.answer, []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == INTERRUPTED_AT:
            raise KeyboardInterrupt
        return answer(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Respondent, "answer", counted)
        interrupted = invoke(job, all_sets, "all")
        completed = invoke(job, all_sets, "all")
    found = {
        "interrupted": interrupted,
        "completed": completed,
        "calls": len(calls),
        "judged": invoke(job, "made_judged", "judged"),
        "hub": invoke(job, "made_hub", "hub"),
        "unknown": invoke(job, "made_mmbenk", "unknown"),
        "by_name": by_name(job["tasks"], job["models"]),
    }
    (file.parent / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
