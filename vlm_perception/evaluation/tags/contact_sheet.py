# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A contact sheet of tags: for each label the images that it fires on, and the nearest others."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from vlm_perception.evaluation.tags.site_images import Site
from vlm_perception.outputs.file import result_file
from vlm_perception.perception.vision.tag_thresholds import Cut

HIGHEST, NEAREST = 6, 4
"""Images of a label that are shown: those with the highest scores, and those on each side of the
threshold."""


@dataclass(frozen=True)
class Picture:
    """An image of the site, with how far it lies above the label's threshold."""

    file: str
    """A JPEG file in base64."""
    where: str
    margin: float
    """In log-odds."""


@dataclass(frozen=True)
class Strip:
    """What is shown of one label."""

    label: str
    cut: Cut
    fires: int
    """On how many images."""
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
    environment = Environment(
        loader=PackageLoader("vlm_perception.evaluation.tags"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("tags.html.j2").render(
        title=title, strips=strips, total=total, same=site.same, broken=site.broken
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
        ("just above", above[HIGHEST:][-NEAREST:]),
        ("just below", below[:NEAREST]),
    ]
    return Strip(
        label,
        cut,
        fires,
        [
            (heading, [_picture(index, scores, cut, site) for index in chosen])
            for heading, chosen in groups
            if len(chosen)
        ],
    )


def _picture(index: int, scores: NDArray[np.float64], cut: Cut, site: Site) -> Picture:
    image = site.images[index]
    return Picture(
        base64.b64encode(image.thumbnail).decode(), image.where, float(scores[index] - cut.at)
    )
