# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Answers that cannot be computed again the same way, of models, kept as soon as they are there.

An answer is a small file of its own. It is written aside and linked to its name, so that it is
whole or absent, and two processes, of two machines, too, that ask the same end up with one answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_perception.curation.json_lines import json_line
from vlm_perception.outputs.durable import keep_first, sync_folder, write_bytes

JOURNAL = "journal"


class Journal:
    """The answers about the images of a set; of those to the same question the first counts."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of the whole set; nothing is read or written yet."""
        self._folder = folder / JOURNAL

    def known(self, sha256: str, request: Mapping[str, Any]) -> Any:
        """The answer, as JSON has it; None: there is none.

        Args:
            sha256: of the image's file.
            request: what was asked, and of whom; the order of its keys does not matter.
        """
        file = self._file(sha256, request)
        try:
            entry = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        # A disk may lose what it said it had written.
        except ValueError:
            return None
        return entry.get("answer") if isinstance(entry, dict) else None

    def add(self, sha256: str, request: Mapping[str, Any], answer: Any) -> Any:
        """Keep an answer, whatever ends the program or the machine afterwards.

        Returns:
            The answer that counts: another process may have been first.

        Raises:
            DiskFullError: little room is left.
            OSError: it cannot be written.
        """
        file = self._file(sha256, request)
        entry = json_line({"sha256": sha256, "request": dict(request), "answer": answer})
        file.parent.mkdir(parents=True, exist_ok=True)
        keep_first(file, entry)
        first = self.known(sha256, request)
        if first is None:
            write_bytes(file, entry)
            first = answer
        sync_folder(file.parent)
        return first

    def _file(self, sha256: str, request: Mapping[str, Any]) -> Path:
        asked = json.dumps(request, sort_keys=True, separators=(",", ":")).encode()
        name = f"{sha256}-{hashlib.sha256(asked).hexdigest()[:32]}.json"
        return self._folder / sha256[:3] / name
