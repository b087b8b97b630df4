# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle whose manifest says something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.files import file_sha256
from vlm_perception.bundle.manifest import manifest_digest


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> ModelBundle:
    content = yaml.safe_load((path / "manifest.yaml").read_text())
    change(content)
    for name, entry in content["files"].items():
        file = path / name
        entry.update(sha256=file_sha256(file), bytes=file.stat().st_size)
    content["digest"] = manifest_digest(content)
    (path / "manifest.yaml").write_text(yaml.safe_dump(content))
    return ModelBundle.load(path)
