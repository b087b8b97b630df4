# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""03_quality_checked: the captions that fit their image, by the cosine of their embeddings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlm_perception.curation.captioning.captioned import is_asked_again, last_of_each
from vlm_perception.curation.captioning.captioner import Failure
from vlm_perception.curation.quality.further_tries import FurtherTries
from vlm_perception.curation.quality.languages import knows
from vlm_perception.curation.quality.pair_scores import Evidence, PairScores, pair_scores
from vlm_perception.curation.quality.retrieval_check import Pool, check, write_check
from vlm_perception.curation.recipe import Captions, CurationError, Quality, Recipe
from vlm_perception.curation.stage_folder import QUALITY, before
from vlm_perception.curation.step import Finish, kept_in
from vlm_perception.curation.tasks import Position, Record
from vlm_perception.curation.thresholds.pair_limits import Limits, compared, in_scale, limits
from vlm_perception.media.image_errors import ImageError
from vlm_perception.perception.preprocess import FrameError
from vlm_perception.perception.tokenizer import TextError

CaptionRecords = list[dict[str, Any]]
BELOW_REJECT, BELOW_ACCEPT = "below_reject", "below_accept"
CONTRADICTED, INCOMPLETE = "contradicted", "incomplete"
NO_CAPTION, LANGUAGE = "no_caption", "language"
UNTRANSLATED, UNALIGNED = "no_translation", "min_cosine"


def check_tasks(folder: Path, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Pieces of what the stage before has kept; see `step.Step`."""
    quality = recipe.quality
    asked: dict[str, Any] = {"folder": str(folder), "quality": None}
    if quality is not None:
        scores = pair_scores(folder, quality)
        found = limits(folder, quality, scores.encoder.digest, scores.tagger_digest)
        known = Limits(**found.model_dump(include=set(Limits.model_fields)))
        asked |= recipe.model_dump(mode="json", include={"quality", "captions"})
        tries = FurtherTries(folder, recipe.captions)
        asked |= {"limits": known.model_dump(), "by": tries.by, "encoders": scores.digests}
    for records in kept_in(folder, before(QUALITY)):
        yield {**asked, "records": records}


def do_check(task: dict[str, Any], unfinished: Path, position: Position) -> Iterator[Any]:
    """Judge the captions of each image of a task; see `tasks.Work`."""
    begin = position or 0
    judge = _CaptionJudge.of(task, unfinished) if task["quality"] else None
    for place, record in enumerate(task["records"][begin:], begin + 1):
        kept = {**record, "status": "kept"}
        yield (judge.judged(kept) if judge else kept), place


def check_retrieval(records: Iterable[Record], end: Finish) -> Iterable[Record]:
    """The records; a pool of those kept is tried once all were given."""
    quality = end.recipe.quality
    if quality is None or quality.retrieval is None:
        yield from _with_silent(records, end)
        return
    pool = Pool(quality.retrieval.pool)
    yield from pool.passing(_with_silent(records, end))
    chosen = pool.records()
    if chosen:
        scores = pair_scores(end.folder, quality)
        write_check(end.made, check(end.folder, chosen, scores, quality.retrieval))


def _with_silent(records: Iterable[Record], end: Finish) -> Iterator[Record]:
    """The records; says how many of them got no answer when a caption was to be written again."""
    silent = 0
    for record in records:
        silent += is_asked_again(record)
        yield record
    if silent:
        end.notes.append(
            f"{silent} images got no answer when captions were to be written again; --redo "
            f"{QUALITY} asks once more"
        )


class _CaptionJudge:
    """Judges images by one recipe."""

    def __init__(
        self, scores: PairScores, quality: Quality, bounds: Limits, tries: FurtherTries
    ) -> None:
        self._quality, self._limits = quality, bounds
        self._scores, self._tries = scores, tries

    @classmethod
    def of(cls, task: dict[str, Any], unfinished: Path) -> _CaptionJudge:
        """As a task has it.

        Raises:
            CurationError: the captioner or an encoder is another than when the stage was begun.
        """
        folder = Path(task["folder"])
        quality = Quality.model_validate_json(json.dumps(task["quality"]))
        captions = task["captions"] and Captions.model_validate_json(json.dumps(task["captions"]))
        tries = FurtherTries(folder, captions)
        if tries.by != task["by"]:
            raise CurationError(
                f"the captioner is another model than when {QUALITY} was begun ({task['by']} then, "
                f"{tries.by} now): take that one again, or remove {unfinished} to begin anew"
            )
        scores = pair_scores(folder, quality)
        if scores.digests != task["encoders"]:
            raise CurationError(
                f"an encoder of {QUALITY} changed since that was begun; put the old one back, or "
                f"remove {unfinished} to begin anew"
            )
        return cls(scores, quality, Limits.model_validate(task["limits"]), tries)

    def judged(self, record: Record) -> Record:
        """The record with the captions that pass; rejected by the rule of the best, if none."""
        failures: list[Failure] = []
        try:
            checked = self._checked(record, record.get("captions", []), failures)
        except (ImageError, FrameError, TextError) as error:
            return {**record, "status": "failed", "reason": str(error)}
        if failures:
            record = {**record, "answers": [each.record() for each in failures]}
        if any(each.unanswered for each in last_of_each(failures)):
            record["again"] = True
        passed = [each for each in checked if "rule" not in each]
        if passed:
            left_out = [each for each in checked if "rule" in each]
            rest = {"left_out": left_out} if left_out else {}
            return {**record, "captions": passed, **rest}
        best = max(checked, key=lambda each: each.get("score", -math.inf), default=None)
        rule, figure = (best["rule"], best.get("score", 0)) if best else (NO_CAPTION, 0)
        return {**record, "captions": checked, "status": "rejected", "rule": rule, "figure": figure}

    def _checked(
        self, record: Record, captions: CaptionRecords, failures: list[Failure]
    ) -> CaptionRecords:
        own = [each for each in captions if knows(self._quality, each["language"])]
        scored = self._all_scored(record, own)
        for language in dict.fromkeys(each["language"] for each in own):
            of_it = [each for each in scored if each["language"] == language]
            rules = {each.get("rule") for each in of_it}
            if None not in rules and BELOW_ACCEPT in rules:
                scored += self._tried_again(record, language, failures)
        good = [each for each in scored if "rule" not in each]
        others = [each for each in captions if not knows(self._quality, each["language"])]
        return scored + [self._aligned(record, each, good) for each in others]

    def _all_scored(self, record: Record, captions: CaptionRecords) -> CaptionRecords:
        found = self._scores.evidence(record, [each["text"] for each in captions])
        return [self._scored(each, known) for each, known in zip(captions, found, strict=True)]

    def _tried_again(
        self, record: Record, language: str, failures: list[Failure]
    ) -> CaptionRecords:
        """New captions, of which at most the last one is good; adds the attempts that gave none."""
        found: CaptionRecords = []
        for caption in self._tries.captions(record, language):
            if isinstance(caption, Failure):
                failures.append(caption)
                continue
            found += self._all_scored(record, [caption])
            if "rule" not in found[-1]:
                break
        return found

    def _aligned(
        self, record: Record, caption: dict[str, Any], good: CaptionRecords
    ) -> dict[str, Any]:
        """A caption in another language, compared with those that were scored and are good."""
        if self._quality.translations is None:
            return {**caption, "rule": LANGUAGE}
        if not good:
            return {**caption, "rule": UNTRANSLATED}
        cosines = self._scores.translation_cosines(
            record, caption["text"], [each["text"] for each in good]
        )
        nearest = max(range(len(good)), key=lambda place: cosines[place])
        found = {
            **caption,
            "translates": good[nearest]["language"],
            "alignment": cosines[nearest],
        }
        enough = cosines[nearest] >= self._quality.translations.min_cosine
        return found if enough else {**found, "rule": UNALIGNED}

    def _scored(self, caption: dict[str, Any], known: Evidence) -> dict[str, Any]:
        found = {**caption, "score": in_scale(known.cosine, self._quality)}
        absent = [label for label, margin in known.named.items() if margin < -self._limits.absent]
        there = [label for label, margin in known.unnamed.items() if margin > self._limits.there]
        found |= {} if self._scores.reads_whole(caption["text"]) else {"cut": True}
        found |= {"contradicts": absent} if absent else {}
        found |= {"omits": there} if there else {}
        rule = self._rule(known.cosine, absent, there)
        return {**found, "rule": rule} if rule else found

    def _rule(self, cosine: float, absent: list[str], there: list[str]) -> str:
        cosine = compared(cosine, self._quality)
        if cosine < self._limits.reject:
            return BELOW_REJECT
        if absent and self._quality.reject_contradicted:
            return CONTRADICTED
        if there and self._quality.reject_incomplete:
            return INCOMPLETE
        return "" if cosine > self._limits.accept else BELOW_ACCEPT
