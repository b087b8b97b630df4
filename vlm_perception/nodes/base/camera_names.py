# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The names of several cameras: namespaces relative to that of the language node."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlm_perception.common.errors import VlmPerceptionError

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")


def check_camera_names(names: Sequence[str]) -> None:
    """Refuse what cannot be a namespace, or is there twice.

    Raises:
        VlmPerceptionError: the message says which name, and why.
    """
    for name in names:
        if not NAME.fullmatch(name):
            raise VlmPerceptionError(
                f"{name!r} cannot be a camera's name; give a namespace such as front or "
                "front/left: letters, digits and _, starting with a letter, without a leading or "
                "trailing slash"
            )
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise VlmPerceptionError(f"the camera {twice!r} is listed twice; give it once")
