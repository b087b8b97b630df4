# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Documented facts about devices and engines, one YAML file each, with their sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def read_table(name: str) -> Any:
    """Content of a table of this package."""
    return yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8"))
