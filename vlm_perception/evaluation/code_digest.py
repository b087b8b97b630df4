# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Names the code that results depend on, so that kept ones are not those of another version."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from types import ModuleType


@cache
def code_digest(*packages: ModuleType) -> str:
    """The SHA-256 of all Python files in some packages."""
    folders = [Path(str(package.__file__)).parent for package in packages]
    sources = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
