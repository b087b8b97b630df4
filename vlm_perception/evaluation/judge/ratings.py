# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The ratings of people who filled in a sheet: what they prefer, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.table import Table

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.ordinary_files import open_ordinary
from vlm_perception.evaluation.judge.agreement import agreement
from vlm_perception.evaluation.judge.figures import EVEN, Kind, Record, figures
from vlm_perception.evaluation.judge.sheet import SheetItem, SheetKey, key_file
from vlm_perception.evaluation.judge.tables import languages, result_table
from vlm_perception.evaluation.report import Report, figure_table

MOST_BYTES = 1 << 24
SHOWN = 8
"""Items that a sentence names; it counts the others."""
_OF_LEFT = {"left": 1.0, "equal": EVEN, "right": 0.0}


class RatingsError(VlmPerceptionError):
    """Files of raters cannot be used; the message says which, why and what to do."""


class Ratings(BaseModel):
    """The file that a rater saves."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sheet: str = Field(pattern="^[0-9a-f]{64}$")
    rater: str = Field(min_length=1, max_length=100)
    ratings: dict[str, int | Literal["left", "equal", "right"]]
    """By the number of the item."""


def run(files: Sequence[Path], out: Path) -> Report:
    """Read what people have rated, and unblind it.

    Args:
        files: one of each rater.
        out: the folder that the sheet's key was written to.

    Raises:
        RatingsError: a file is damaged, incomplete, of another sheet or of the same rater as
            another, there are fewer than two, or the key is missing.
    """
    read = [_read(file) for file in files]
    key = _key(read[0].sheet, out)
    for file, each in zip(files, read, strict=True):
        _check(file, each, key, files[0])
    _require_raters(files, read)
    values = [[_value(key, each, number) for number in range(len(key.items))] for each in read]
    records = _records(key, values)
    result = figures(records, key.kind)
    agreed = _agreement(key, values)
    for language, part in result["by_language"].items():
        part.update(agreed["by_language"].get(language, {}))
    raters = [" ".join(each.rater.split()) for each in read]
    left = {rater: _left(each) for rater, each in zip(raters, read, strict=True)}
    notes = [f"{len(key.items)} items, rated by {', '.join(raters)}"]
    people: dict[str, Any] = {
        "kind": key.kind.value,
        **result,
        **{name: value for name, value in agreed.items() if name != "by_language"},
        "sheet": key.sheet,
        "raters": raters,
        "records": records,
    }
    if key.kind is Kind.PAIRS:
        people["left"] = left
        notes += [
            f"{rater} preferred the left text in {share:.3f} of the items without a tie"
            for rater, share in left.items()
            if share is not None
        ]
    if key.equal:
        notes.append(f"{len(key.equal)} pairs of equal texts were not rated and count as ties")
    return Report(
        [result_table(result, key.kind, key.bundles), _agreement_table(people, key.kind), *notes],
        {
            "people": people,
            "bundle_digest": key.digests[0],
            "against_digest": key.digests[1] if len(key.digests) > 1 else None,
            "sets": [key.described],
        },
    )


def _read(file: Path) -> Ratings:
    try:
        with open_ordinary(file) as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise RatingsError(
            f"{file} cannot be read ({error.strerror or error}); give a file that the page saved"
        ) from error
    if len(content) > MOST_BYTES:
        raise RatingsError(
            f"{file} is not what the page saves (it has more than {MOST_BYTES} bytes); let the "
            "rater save it again"
        )
    try:
        read = Ratings.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise RatingsError(
            f"{file} is not what the page saves ({place}: {first['msg']}); let the rater save it "
            "again"
        ) from error
    if not read.rater.strip():
        raise RatingsError(
            f"{file} is not what the page saves (the rater has no name); let the rater save it "
            "again"
        )
    return read


def _key(sheet: str, out: Path) -> SheetKey:
    file = key_file(out, sheet)
    try:
        key = SheetKey.model_validate_json(file.read_bytes())
    except OSError as error:
        raise RatingsError(
            f"{out} has no key to the sheet {sheet[:12]} that was rated; give the folder that "
            "--export used as --out, or export the same sheet again"
        ) from error
    except ValidationError as error:
        raise RatingsError(f"{file} is damaged; export the same sheet again") from error
    if key.sheet != sheet:
        raise RatingsError(f"{file} is the key to another sheet; export the same sheet again")
    return key


def _check(file: Path, read: Ratings, key: SheetKey, first: Path) -> None:
    if read.sheet != key.sheet:
        raise RatingsError(
            f"{file} is of the sheet {read.sheet[:12]} and {first} of {key.sheet[:12]}; give files "
            "of one sheet"
        )
    wanted = [str(number) for number in range(1, len(key.items) + 1)]
    missing = [number for number in wanted if number not in read.ratings]
    if missing:
        rest = len(missing) - SHOWN
        raise RatingsError(
            f"{file} lacks {len(missing)} of {len(wanted)} ratings (items "
            f"{', '.join(missing[:SHOWN])}{f' and {rest} more' if rest > 0 else ''}); let "
            f"{read.rater} rate them and save again"
        )
    foreign = [number for number in read.ratings if number not in wanted]
    if foreign:
        raise RatingsError(
            f"{file} rates {len(foreign)} items that the sheet does not have, such as "
            f"{foreign[0]!r}; let {read.rater} save it again"
        )
    allowed = set(_OF_LEFT) if key.kind is Kind.PAIRS else set(range(1, 6))
    wrong = next((number for number in wanted if read.ratings[number] not in allowed), None)
    if wrong is not None:
        raise RatingsError(
            f"{file} rates item {wrong} with {read.ratings[wrong]!r}, which is none of "
            f"{', '.join(map(str, sorted(allowed, key=str)))}; let {read.rater} save it again"
        )


def _require_raters(files: Sequence[Path], read: Sequence[Ratings]) -> None:
    by_name: dict[str, Path] = {}
    for file, each in zip(files, read, strict=True):
        other = by_name.setdefault(" ".join(each.rater.split()).casefold(), file)
        if other is not file:
            raise RatingsError(
                f"{other} and {file} are both of the rater {each.rater.strip()}; give one file of "
                "each rater"
            )
    if len(read) < 2:
        raise RatingsError(
            "agreement needs two raters; give --import once for the file of each of them"
        )


def _value(key: SheetKey, read: Ratings, at: int) -> float:
    """A score, or how far the first bundle is preferred."""
    rating = read.ratings[str(at + 1)]
    if key.kind is Kind.SCORES:
        return float(rating)
    left = _OF_LEFT[str(rating)]
    return 1.0 - left if key.items[at].swapped else left


def _records(key: SheetKey, values: Sequence[Sequence[float]]) -> list[Record]:
    name = "scores" if key.kind is Kind.SCORES else "preference"
    rated = [
        {**_about(item), name: [each[at] for each in values]} for at, item in enumerate(key.items)
    ]
    return [*rated, *({**_about(item), "preference": [EVEN]} for item in key.equal)]


def _about(item: SheetItem) -> dict[str, str]:
    return {"image": item.image, "question": item.question, "language": item.language}


def _agreement(key: SheetKey, values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Of all items, and by language."""
    by_language: dict[str, list[int]] = {}
    for at, item in enumerate(key.items):
        by_language.setdefault(item.language, []).append(at)
    return {
        **agreement(values, key.kind),
        "by_language": {
            language: agreement([[each[at] for at in places] for each in values], key.kind)
            for language, places in sorted(by_language.items())
        },
    }


def _left(read: Ratings) -> float | None:
    """How often the left text was preferred, of all choices without a tie."""
    sides = [rating for rating in read.ratings.values() if rating in ("left", "right")]
    return sides.count("left") / len(sides) if sides else None


def _agreement_table(people: Mapping[str, Any], kind: Kind) -> Table:
    headings = {"kappa": "Cohen's kappa", "kappa_weighted": "weighted", "alpha": "alpha"}
    level = "ordinal" if kind is Kind.SCORES else "nominal"
    names = [name for name in headings if name in people]
    table = figure_table(
        "Agreement of the raters",
        *("language", *(headings[name] for name in names)),
        caption=("weighted: kappa with quadratic weights; " if kind is Kind.SCORES else "")
        + f"alpha: Krippendorff's, {level}; a dash where all ratings, or for kappa all of any two "
        "raters, are the same",
    )
    for language, part in languages(people):
        cells = (part.get(name) for name in names)
        table.add_row(language, *("-" if each is None else f"{each:.3f}" for each in cells))
    return table
