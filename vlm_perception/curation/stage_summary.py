# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A stage in words."""

from __future__ import annotations

from collections.abc import Mapping

from vlm_perception.curation.stage_folder import Manifest, missing_part


def stage_summary(manifest: Manifest) -> str:
    """The counts of a stage in words, and what people should know of it."""
    if part := missing_part(manifest):
        return f"{manifest.kept} passed on as they are: the recipe has no `{part}`"
    rules, faults = map(_in_brackets, (manifest.rules, manifest.faults))
    written = "".join(f"; {count} captions by {by}" for by, count in manifest.written.items())
    counts = (
        f"{manifest.received} received, {manifest.kept} kept, {manifest.rejected} rejected{rules}, "
        f"{manifest.failed} failed{faults}{written}"
    )
    return "; ".join([counts, *manifest.notes])


def _in_brackets(counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f" ({listed})" if listed else ""
