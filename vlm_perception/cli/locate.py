# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception locate`: where in an image something is."""

from __future__ import annotations

import dataclasses
import importlib
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from vlm_perception.cli.options.common import (
    BAD_INPUT,
    FAILED,
    BundleOption,
    JsonOption,
    one_of,
    plain_errors,
    tell_error,
)
from vlm_perception.cli.options.served import (
    ENDPOINT,
    EndpointOption,
    KeyFileOption,
    PlainHttpOption,
    RemoteOption,
    ServedOption,
    served_settings,
)
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.outputs.console import say

app = typer.Typer()
BY_MODEL = "auto"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


@app.command("locate")
def locate(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    phrases: Annotated[
        list[str], typer.Argument(metavar="PHRASE...", help="What to look for; several at once.")
    ],
    bundle: BundleOption = "roadworld-nano",
    method: Annotated[
        str,
        typer.Option(
            help="`patch`: by the patch embeddings, with any bundle. `model`: as the bundle's "
            "language model, or that of a server (--served), writes it, if it was trained to write "
            "boxes."
        ),
    ] = "patch",
    json_file: JsonOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Also draw the boxes into this PNG or JPEG file.")
    ] = None,
    served: ServedOption = None,
    endpoint: EndpointOption = ENDPOINT,
    key_file: KeyFileOption = "",
    allow_remote: RemoteOption = False,
    allow_plain_http: PlainHttpOption = False,
    locate_format: Annotated[
        str,
        typer.Option(
            help="How the model on the server writes boxes, as the parameter `locate_format` of "
            "the nodes says it; `auto`: as its name says."
        ),
    ] = BY_MODEL,
) -> None:
    """Locate things in an image: a phrase in, boxes in pixels of the image out, the best one first.

    A phrase names a thing, in the words of the bundle's labels or others, and may add its colour
    ("the red car", "the pedestrian in blue") and its place ("on the left", "on the right", "in the
    middle", "leftmost", "rightmost", "nearest", "farthest", "largest", "smallest"), in English.

    `vlm-perception locate street.png "the red car" "the pedestrian on the left" --out boxes.png`

    Exit code: 0, also where nothing was found; 1 if a model's answer to some of the phrases could
    not be had or read, which are marked as failed; 2 if it was so with all of them, and for an
    image, a phrase or a bundle that cannot be used.
    """
    with plain_errors():
        one_of("--method", method, importlib.import_module(f"{_LOCATING}.locator").METHODS)
        if out is not None:
            _require_picture(out)
        settings = served_settings(served, endpoint, key_file, allow_remote, allow_plain_http)
        if settings is None and locate_format != BY_MODEL:
            raise typer.BadParameter(
                "is for a model on a server; name it", param_hint="--locate-format"
            )
        if settings is not None:
            _require_model(method)
            settings = dataclasses.replace(settings, locate_format=locate_format)
        pixels = importlib.import_module("vlm_perception.media.image_folder").read_image(image)
        model = importlib.import_module("vlm_perception.bundle.bundle").ModelBundle.load(bundle)
        still = importlib.import_module(f"{_LOCATING}.still")
        found = still.locate_all(model, pixels, phrases, method, settings)
        Console().print(_table(found))
        if json_file is not None:
            height, width = pixels.shape[:2]
            content = {
                "image": str(image),
                "width": width,
                "height": height,
                "method": method,
                "bundle_digest": model.digest,
                "phrases": [_phrase_as_json(phrase, each) for phrase, each in found.items()],
            }
            importlib.import_module(_OUTPUTS).write_figures(json_file, content)
            say(Console(), f"Written to {json_file}")
        placed = {phrase: each for phrase, each in found.items() if not _failed(each)}
        if out is not None and placed:
            _draw(out, pixels, placed)
            say(Console(), f"Written to {out}")
    for phrase, each in found.items():
        if _failed(each):
            tell_error(f"{phrase!r}: {each}")
    if len(placed) < len(found):
        raise typer.Exit(FAILED if placed else BAD_INPUT)


_LOCATING = "vlm_perception.perception.locating"
_OUTPUTS = "vlm_perception.outputs.file"
_VERB = "locate"


def _require_model(method: str) -> None:
    if method != "model":
        raise typer.BadParameter("is for --method model; give that, too", param_hint="--served")


def _require_picture(out: Path) -> None:
    if out.suffix.lower() not in PICTURE_SUFFIXES:
        raise typer.BadParameter(
            f"{out} must end in {', '.join(PICTURE_SUFFIXES)}", param_hint="--out"
        )
    importlib.import_module(_OUTPUTS).require_free(out, _VERB)


def _draw(out: Path, pixels: Any, found: Any) -> None:
    drawn = importlib.import_module("vlm_perception.perception.rendering.boxes").draw_boxes(
        pixels, found
    )
    with importlib.import_module(_OUTPUTS).result_file(out, _VERB) as part:
        importlib.import_module("PIL.Image").fromarray(drawn).save(part)


def _as_json(box: Any) -> dict[str, float | None]:
    score = None if math.isnan(box.score) else box.score
    return {"x": box.x, "y": box.y, "width": box.width, "height": box.height, "score": score}


def _phrase_as_json(phrase: str, found: Any) -> dict[str, Any]:
    """What was found of a phrase, or why it is not known, in place of the boxes."""
    if _failed(found):
        return {"phrase": phrase, "error": str(found)}
    return {"phrase": phrase, "boxes": [_as_json(box) for box in found]}


def _failed(found: Any) -> bool:
    return isinstance(found, VlmPerceptionError)


def _table(found: Any) -> Table:
    table = Table("phrase", *(_right(name) for name in ("x", "y", "width", "height", "score")))
    for phrase, boxes in found.items():
        if _failed(boxes):
            table.add_row(Text(phrase), Text("failed"))
            continue
        for number, box in enumerate(boxes):
            figures = (f"{value:.0f}" for value in (box.x, box.y, box.width, box.height))
            score = "unknown" if math.isnan(box.score) else f"{box.score:.3f}"
            table.add_row(Text("" if number else phrase), *figures, score)
        if not boxes:
            table.add_row(Text(phrase), Text("not found"))
    return table


def _right(name: str) -> Column:
    return Column(name, justify="right")
