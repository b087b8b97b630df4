# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which of a node's cameras a request is about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vlm_perception.common.errors import VlmPerceptionError

LONGEST_NAME = 100


class CameraChoiceError(VlmPerceptionError):
    """A request names no camera of the node."""


def chosen_camera(node: Any, names: Iterable[str], camera: str) -> str:
    """Find a camera by its name, relative to the node's namespace or in full.

    Args:
        node: who serves the cameras.
        names: their namespaces below the node's; the only one may be empty.
        camera: as the request names it; it may be empty where there is one camera.

    Raises:
        CameraChoiceError: there is no such camera, or several are meant.
    """
    names = list(names)
    here = node.get_namespace().strip("/")
    wanted = camera.strip("/")
    if not wanted and len(names) == 1:
        return names[0]
    for name in names:
        if wanted and wanted in (name, f"{here}/{name}".strip("/")):
            return name
    if names != [""]:
        served = ", ".join(names)
        raise CameraChoiceError(
            f"this node serves the cameras {served}; name one of them as `camera`"
        )
    served = f"the camera {here!r}" if here else "a camera without a name"
    wanted = wanted[:LONGEST_NAME]
    raise CameraChoiceError(
        f"this node serves {served} and not {wanted!r}; leave the field empty, or use "
        f"/{wanted}/{node.get_name()}"
    )
