# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The report as a page, which needs nothing else."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from vlm_perception.curation.report.examples import captioned, failed, groups, worst
from vlm_perception.curation.report.figures import made_stages, stale_stages
from vlm_perception.outputs.durable import write_bytes
from vlm_perception.outputs.page import page_template

REPORT = "report.html"
LISTED = 50
"""Failed images."""


def write_report(folder: Path, known: dict[str, Any]) -> Path:
    """Write report.html.

    Args:
        folder: of the whole set.
        known: its figures.

    Raises:
        CurationError: no stage is complete.
        OSError: it cannot be written.
    """
    made = made_stages(folder)
    template = page_template("vlm_perception.curation", "report.html.j2")
    page = template.render(
        name=folder.resolve().name,
        figures=known,
        stale=stale_stages(folder),
        groups=[*groups(folder, made), *captioned(folder, made)],
        worst=worst(folder, made),
        failed=list(islice(failed(folder, made), LISTED)),
        failures=sum(each.failed for each in made),
    )
    write_bytes(folder / REPORT, page.encode("utf-8", "backslashreplace"))
    return folder / REPORT
