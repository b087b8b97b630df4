# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a manifest under the digest of its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vlm_perception.bundle.bundle import MANIFEST_NAME
from vlm_perception.bundle.manifest import manifest_digest


def write_manifest_content(directory: Path, content: dict[str, Any]) -> None:
    """Write a bundle's manifest in one step, under the digest of its content.

    Raises:
        OSError: it cannot be written.
    """
    content = content | {"digest": manifest_digest(content)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    part = directory / f".{MANIFEST_NAME}.part"
    part.write_text(text, encoding="utf-8")
    part.replace(directory / MANIFEST_NAME)
