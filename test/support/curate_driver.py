# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`curate run FOLDER` that notes what it computes, and kills itself where it is asked to.

    python -P curate_driver.py FOLDER LOG [STAGE PLACE]

A line of LOG is a stage for each record that its tasks give, `task of STAGE` for each task that is
begun or goes on, and `request` for each question to the captioner. At record number PLACE of STAGE,
or when it begins to finish (`finish`), the process gets SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from vlm_perception.curation import run
from vlm_perception.curation.captioning.of_bundle import BundleWriter


def main() -> None:
    folder, log, *kill = sys.argv[1:]
    noted = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(what: str) -> None:
        os.write(noted, f"{what}\n".encode())

    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(stage, work):
        count = 0

        def records(*arguments):
            nonlocal count
            note(f"task of {stage}")
            for each in work(*arguments):
                note(stage)
                count += 1
                if kill == [stage, str(count)]:
                    killed()
                yield each

        return records

    def finishing(stage, finish):
        def decided(*arguments):
            if kill == [stage, "finish"]:
                killed()
            return finish(*arguments)

        return decided

    for stage, step in run.STEPS.items():
        work, finish = counted(stage, step.work), finishing(stage, step.finish)
        run.STEPS[stage] = replace(step, work=work, finish=finish)
    asked = BundleWriter.write

    def write(self, *arguments, **options):
        note("request")
        return asked(self, *arguments, **options)

    BundleWriter.write = write
    run.run(Path(folder), run.Options(), Console())


if __name__ == "__main__":
    main()
