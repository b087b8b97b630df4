# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A contact sheet of tags: for each label the images that it fires on, and the nearest others."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.evaluation.tags.site_images import Site
from vlm_perception.outputs.file import result_file
from vlm_perception.outputs.page import page_template
from vlm_perception.perception.vision.tag_thresholds import Cut, Verdict

HIGHEST, NEAREST = 6, 4
"""Images of a label that are shown: those with the highest scores, and those on each side of the
threshold."""
RECORDINGS = 8
"""Of the recordings that a label fires in, so many are named."""


@dataclass(frozen=True)
class Picture:
    """An image of the site, with how far it lies above the label's threshold."""

    file: str
    """A JPEG file in base64."""
    recording: str
    place: str
    margin: float
    """In log-odds."""


@dataclass(frozen=True)
class Strip:
    """What is shown of one label."""

    label: str
    cut: Cut
    fires: int
    """On how many images."""
    recordings: Sequence[tuple[str, int, int]]
    """Each that it fires in, on how many of its images, of how many; most of them first."""
    groups: Sequence[tuple[str, Sequence[Picture]]]
    """Each with its heading."""


def write_sheet(
    file: Path, verb: str, title: str, site: Site, strips: Sequence[Strip], total: int
) -> None:
    """Write an HTML page that needs nothing else.

    Args:
        file: the page; its folder is made.
        verb: whose result it is.
        title: names the bundle.
        site: where the images come from.
        strips: one for each label.
        total: images that each label was tried on.

    Raises:
        OutputError: it is a file of the user's own.
        OSError: it cannot be written.
    """
    template = page_template("vlm_perception.evaluation.tags", "tags.html.j2")
    page = template.render(
        title=title,
        groups=[(kind, [each for each in strips if each.cut.verdict is kind]) for kind in Verdict],
        strips=strips,
        shown_recordings=RECORDINGS,
        total=total,
        recordings=len({image.recording for image in site.images}),
        same=site.same,
        broken=site.broken,
    )
    with result_file(file, verb) as part:
        part.write_text(page, encoding="utf-8")


def strip(label: str, scores: NDArray[np.float64], cut: Cut, site: Site) -> Strip:
    """Choose the images of a label.

    Args:
        label: the label.
        scores: [N], its log-odds for each image of the site.
        cut: its threshold.
        site: the images.
    """
    order = np.argsort(-scores, kind="stable")
    fires = int((scores >= cut.at).sum())
    above, below = order[:fires], order[fires:]
    groups = [
        ("highest above the threshold", above[:HIGHEST]),
        ("just above the threshold", above[HIGHEST:][-NEAREST:]),
        # Without any above it, the highest may be far below.
        ("just below the threshold" if fires else "highest of all", below[:NEAREST]),
    ]
    return Strip(
        label,
        cut,
        fires,
        _recordings(above, site),
        [
            (heading, [_picture(index, scores, cut, site) for index in chosen])
            for heading, chosen in groups
            if len(chosen)
        ],
    )


def _recordings(above: NDArray[np.intp], site: Site) -> list[tuple[str, int, int]]:
    """Where a label fires: on all images of one recording it may tell the place, not the thing."""
    of_all = Counter(image.recording for image in site.images)
    names = {image.recording: image.recording_name for image in site.images}
    found = Counter(site.images[index].recording for index in above)
    return [(names[each], count, of_all[each]) for each, count in found.most_common()]


def _picture(index: int, scores: NDArray[np.float64], cut: Cut, site: Site) -> Picture:
    image = site.images[index]
    return Picture(
        file=base64.b64encode(image.thumbnail).decode(),
        recording=image.recording_name,
        place=image.place,
        margin=float(scores[index] - cut.at),
    )
