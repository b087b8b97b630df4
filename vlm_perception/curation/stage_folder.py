# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a stage: complete or absent, with what it was made from."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vlm_perception.bundle.files import file_sha256
from vlm_perception.common.recipe_changes import changes
from vlm_perception.curation.json_lines import DamagedError, json_line
from vlm_perception.curation.models import MODELS, changed_models, model_digests
from vlm_perception.curation.recipe import CurationError, Recipe
from vlm_perception.curation.tasks import Record
from vlm_perception.curation.thresholds.stored import referred_to
from vlm_perception.datasets.final_set import STAGE
from vlm_perception.evaluation.hallucination.synonyms import SYNONYMS_FILE, synonyms_digest
from vlm_perception.outputs.durable import sync_folder, whole_file, write_bytes
from vlm_perception.outputs.swap import swap

RAW, FILTERED, CAPTIONED = "00_raw", "01_filtered", "02_captioned"
QUALITY, FINAL = "03_quality_checked", STAGE
DEPENDS_ON: dict[str, tuple[str, ...]] = {
    RAW: ("sources",),
    FILTERED: ("filter",),
    CAPTIONED: ("captions",),
    QUALITY: ("quality", "captions"),
    FINAL: ("final", "sources"),
}
"""The stages in their order, and the parts of the recipe that each depends on."""
PASSES_ON = {CAPTIONED: "captions", QUALITY: "quality"}
"""Stages that pass on what they receive where the recipe lacks a part, and that."""
STAGES = tuple(DEPENDS_ON)
GROUPING = {"sources": {"__all__": {"place", "unrelated"}}}
"""Keys that only the splits depend on."""
ACCESS = {
    "captions": {
        "captioner": {"key_file", "allow_remote", "allow_plain_http", "slots", "timeout_s"}
    }
}
"""Keys that say how an answer is got, and not which."""
PHASH, EMBEDDING = "phash_distance", "embedding_cosine"
"""The rules by which 01_filtered leaves out near-duplicates."""
STATUSES = ("kept", "rejected", "failed")
KEPT, REJECTED, FAILED = (f"{status}.jsonl" for status in STATUSES)
MANIFEST = "stage.json"
_OWN_FILES = (
    r"(kept|rejected|failed)\.jsonl",
    r"(stage|retrieval|set)\.json",
    r"images/[0-9a-f]{2}/[0-9a-f]{64}\.(jpg|png|webp)",
)
_OWN_OF_SPLIT = r"{split}(\.parquet|/\d{{6,}}\.tar)"
"""Patterns of what stages hold."""


class Manifest(BaseModel):
    """What a complete stage was made from, and how much of it there is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    recipe: dict[str, Any]
    """The part of the recipe that it depends on, as JSON has it."""
    input: str
    """The digest of the stage before; empty for the first."""
    sources: str = ""
    """Of the first stage: what the sources held, as `source_digest` has it."""
    received: int
    kept: int
    rejected: int
    failed: int
    rules: dict[str, int]
    """Rejected images by rule."""
    faults: dict[str, int] = {}
    """Failed images by the kind of their fault, where the stage knows kinds."""
    written: dict[str, int] = {}
    """Captions that the stage has had written, by the model."""
    digest: str
    """Of the lists of images; these name the images by digest."""
    lists: dict[str, str]
    """By status the digest of its list, as it was written."""
    notes: tuple[str, ...] = ()
    """What people should know of it, a sentence each."""


def recipe_part(folder: Path, stage: str, recipe: Recipe) -> dict[str, Any]:
    """What a stage depends on, with the thresholds, models and synonyms that it refers to.

    Raises:
        CurationError: the file of these is damaged.
    """
    if stage == FINAL:
        return recipe.model_dump(mode="json", include={"final": True, **GROUPING})
    part = recipe.model_dump(mode="json", include=set(DEPENDS_ON[stage]), exclude=GROUPING | ACCESS)
    known = {
        "thresholds": referred_to(folder, part),
        MODELS: model_digests(folder, part),
        SYNONYMS_FILE: synonyms_digest(folder) if _has_tags(part.get("quality")) else "",
    }
    return {**part, **{name: content for name, content in known.items() if content}}


def _has_tags(quality: dict[str, Any] | None) -> bool:
    """Whether captions are read for names of objects."""
    if quality is None:
        return False
    return quality["tagger"] is not None or quality["encoder"]["kind"] == "bundle"


def missing_part(manifest: Manifest) -> str:
    """The part of the recipe without which a stage has given on what it received; empty: none."""
    part = PASSES_ON.get(manifest.name, "")
    return part if part and manifest.recipe.get(part) is None else ""


def read_manifest(folder: Path, stage: str) -> Manifest | None:
    """The manifest of a complete stage; None: it is absent.

    Raises:
        CurationError: what is there was not made by this program.
    """
    place = folder / stage
    if not place.exists():
        return None
    try:
        return Manifest.model_validate_json((place / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise CurationError(
            f"{place} is no stage of this program, or is damaged; move it away"
        ) from error


def why_stale(folder: Path, stage: str, manifest: Manifest, recipe: Recipe) -> str:
    """What has changed since a stage was made; empty: nothing."""
    old, new = dict(manifest.recipe), recipe_part(folder, stage, recipe)
    different = changed_models(old.pop(MODELS, {}), new.pop(MODELS, {}))
    if old.pop(SYNONYMS_FILE, "") != new.pop(SYNONYMS_FILE, ""):
        different.append(f"{SYNONYMS_FILE} has changed")
    different = [*changes(old, new), *different]
    if different:
        return "; ".join(different)
    return "" if input_digest(folder, stage) == manifest.input else f"{before(stage)} has changed"


def before(stage: str) -> str:
    """The stage before; empty for the first."""
    place = STAGES.index(stage)
    return STAGES[place - 1] if place else ""


def after(stage: str) -> str | None:
    """The stage after; None for the last."""
    place = STAGES.index(stage) + 1
    return STAGES[place] if place < len(STAGES) else None


def input_digest(folder: Path, stage: str) -> str:
    """The digest of the stage before; empty for the first, and where it is absent."""
    earlier = read_manifest(folder, before(stage)) if before(stage) else None
    return earlier.digest if earlier else ""


@dataclass(frozen=True)
class Inputs:
    """What came into a stage."""

    digest: str
    """Of the stage before; empty for the first."""
    sources: str
    """Of the sources; empty for all others."""
    received: int
    """Images."""


def write_stage(
    folder: Path,
    made: Path,
    stage: str,
    recipe: Recipe,
    inputs: Inputs,
    records: Iterable[Record],
    notes: Sequence[str] = (),
) -> Manifest:
    """Write the lists and the manifest of a stage.

    Args:
        folder: that of the whole set.
        made: its folder, which is not yet in its place.
        stage: its name.
        recipe: it was made by.
        inputs: what came in.
        records: what became of each.
        notes: what people should know of it; read when the records are at their end.
    """
    counts: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    written: Counter[str] = Counter()
    digest, lists = hashlib.sha256(), {status: hashlib.sha256() for status in STATUSES}
    with ExitStack() as stack:
        streams = {
            status: stack.enter_context(whole_file(made / f"{status}.jsonl")) for status in STATUSES
        }
        for record in records:
            status = record.pop("status")
            line = json_line(record)
            streams[status].write(line)
            digest.update(status.encode() + line)
            lists[status].update(line)
            counts[status] += 1
            if status == "rejected":
                rules[record["rule"]] += 1
            if "fault" in record:
                faults[record["fault"]] += 1
            if stage == CAPTIONED:
                written.update(each["by"] for each in new_captions(record))
    # A stage that lost an image on its way must not take its place.
    if sum(counts.values()) != inputs.received:
        raise AssertionError(
            f"{stage} received {inputs.received} images and accounts for {dict(counts)}"
        )
    manifest = Manifest(
        name=stage,
        recipe=recipe_part(folder, stage, recipe),
        input=inputs.digest,
        sources=inputs.sources,
        received=inputs.received,
        **{status: counts[status] for status in STATUSES},
        rules=dict(sorted(rules.items())),
        faults=dict(sorted(faults.items())),
        written=dict(sorted(written.items())),
        digest=digest.hexdigest(),
        lists={status: each.hexdigest() for status, each in lists.items()},
        notes=tuple(notes),
    )
    write_bytes(made / MANIFEST, manifest.model_dump_json(indent=1).encode() + b"\n")
    return manifest


def new_captions(record: Record) -> list[dict[str, str]]:
    """The captions that 02_captioned has had written for an image; they are its last ones."""
    count = len(record.get("written", ()))
    return list(record["captions"][-count:]) if count else []


def require_whole(folder: Path, stage: str) -> None:
    """Refuse a stage whose lists are not those that were written: what follows would be wrong.

    Raises:
        DamagedError: one is missing, or was altered; the message says how it is made again.
    """
    manifest = read_manifest(folder, stage)
    for status, digest in manifest.lists.items() if manifest else ():
        file = folder / stage / f"{status}.jsonl"
        if not file.is_file() or file_sha256(file) != digest:
            raise DamagedError(
                f"{file} is not as it was written; make it again with --redo {stage}"
            )


def require_own_files(folder: Path, manifest: Manifest) -> None:
    """Refuse to let a stage go that holds what this program has not written.

    Raises:
        CurationError: it does; the message names a file.
    """
    place = folder / manifest.name
    splits = manifest.recipe.get("final", {}).get("splits", ())
    of_splits = (_OWN_OF_SPLIT.format(split=re.escape(split)) for split in splits)
    own = re.compile("|".join((*_OWN_FILES, *of_splits)))
    for parent, _, names in os.walk(place):
        for name in names:
            file = Path(parent, name).relative_to(place)
            if not own.fullmatch(file.as_posix()):
                raise CurationError(
                    f"{place} is removed when it is made again, and holds {file}, which this "
                    "program has not made; move that away"
                )


def put_in_place(made: Path, place: Path) -> None:
    """Move a whole stage to its place; a stale one that was there is then in the folder it left."""
    sync_folder(made)
    swap(made, place)
    sync_folder(place.parent)
