# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The recipe of a set: where images come from and what is left out; one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from vlm_perception.bundle.manifest import describe_errors
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.yaml_files import YamlError, read_as_json
from vlm_perception.datasets.captions_file import UNKNOWN, is_language
from vlm_perception.datasets.final_set import RECIPE

ROUNDING = 1e-6


class CurationError(VlmPerceptionError):
    """A set cannot be made as it was asked for; the text says why and what to do."""


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _language(tag: str) -> str:
    if not is_language(tag):
        raise ValueError(f"{tag!r} is no language; write tags such as en or pt-BR")
    return tag


Language = Annotated[str, AfterValidator(_language)]
"""A tag of BCP 47."""


class _Source(_Model):
    path: Annotated[str, Field(min_length=1)]
    """Relative to the recipe's folder, or absolute."""
    licence: str = ""
    """Of the images, where they do not carry one themselves."""
    place: str = ""
    """Where it was taken: images of one place are never in two splits."""
    unrelated: bool = False
    """Its images have nothing to do with each other, and each may be in any split."""

    @model_validator(mode="after")
    def _related_by_place(self) -> _Source:
        if self.place and self.unrelated:
            raise ValueError("unrelated images have no common place; leave one of the two out")
        return self


class ImageFolderSource(_Source):
    """All image files of a folder, its subfolders included."""

    kind: Literal["folder"]
    camera: str = ""


class RecordingSource(_Source):
    """A video, or a bag of any kind that `replay` reads, at a rate or by its key frames."""

    kind: Literal["recording"]
    rate_hz: Annotated[float, Field(gt=0, le=1000)] = 1.0
    key_frames: Annotated[str, Field(min_length=1)] | None = None
    """The bundle whose gate chooses the frames in place of the rate: a path, or its name."""
    topic: str | None = None

    @model_validator(mode="after")
    def _either(self) -> RecordingSource:
        if self.key_frames is not None and "rate_hz" in self.model_fields_set:
            raise ValueError("rate_hz and key_frames both choose the frames; leave one of them out")
        return self


class HarvestSource(_Source):
    """A folder that `vlm-perception harvest` has written."""

    kind: Literal["harvest"]


class CaptionsSource(_Source):
    """A folder with captions.jsonl, and perhaps objects.jsonl."""

    kind: Literal["captions"]


class CocoSource(_Source):
    """A file of captions as COCO has them, and the folder of its images."""

    kind: Literal["coco"]
    images: Annotated[str, Field(min_length=1)]
    language: Language = "en"


class WebDatasetSource(_Source):
    """Tars of WebDataset; the path may contain * and ?."""

    kind: Literal["webdataset"]
    language: Language = UNKNOWN


Source = Annotated[
    ImageFolderSource
    | RecordingSource
    | HarvestSource
    | CaptionsSource
    | CocoSource
    | WebDatasetSource,
    Field(discriminator="kind"),
]


class BundleEncoder(_Model):
    """The towers of a bundle."""

    kind: Literal["bundle"]
    path: Annotated[str, Field(min_length=1)]
    """Relative to the recipe's folder, or absolute, or the name of a bundle that is found by it."""


class CheckpointEncoder(_Model):
    """A dual encoder that transformers reads; needs torch."""

    kind: Literal["checkpoint"]
    path: Annotated[str, Field(min_length=1)]
    """Relative to the recipe's folder, or absolute, or a model of the hub: ORG/NAME@REVISION."""


EncoderSpec = Annotated[BundleEncoder | CheckpointEncoder, Field(discriminator="kind")]
"""What embeds images and texts, as recipes say it."""


class EmbeddingRule(_Model):
    """Near-duplicates by the cosine of their embeddings."""

    encoder: EncoderSpec
    cosine: Annotated[float, Field(gt=0, le=1)] | Literal["calibrated"] = 0.95
    """The least of near-duplicates, or what `vlm-perception curate calibrate` has found."""
    false_accept: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of different images that the calibrated one may take for copies."""


class Filter(_Model):
    """What is rejected in 01_filtered."""

    min_side: Annotated[int, Field(ge=1)] = 224
    phash_distance: Annotated[int, Field(ge=0, le=16)] | None = 8
    embedding: EmbeddingRule | None = None
    blur: tuple[Literal["faces", "plates"], ...] = ()
    min_sharpness: Annotated[float, Field(gt=0)] | None = None
    min_brightness: Annotated[float, Field(ge=0, le=255)] | None = None
    max_brightness: Annotated[float, Field(ge=0, le=255)] | None = None


class BundleCaptioner(_Model):
    """The language model of a bundle."""

    kind: Literal["bundle"]
    path: Annotated[str, Field(min_length=1)]
    """Relative to the recipe's folder, or absolute, or the name of a bundle that is found by it."""


class CheckpointCaptioner(_Model):
    """A vision-language model that transformers reads; needs torch."""

    kind: Literal["checkpoint"]
    path: Annotated[str, Field(min_length=1)]
    """Relative to the recipe's folder, or absolute, or a model of the hub: ORG/NAME@REVISION."""


class EndpointCaptioner(_Model):
    """A model on an OpenAI-compatible server."""

    kind: Literal["endpoint"]
    url: str
    model: str
    key_file: str = ""
    """Relative to the recipe's folder, or absolute; only its owner may read it."""
    allow_remote: bool = False
    allow_plain_http: bool = False
    slots: Annotated[int, Field(ge=1, le=256)] = 1
    """Requests at once, of each worker."""
    image_size: Annotated[int, Field(ge=64, le=4096)] = 768
    """Longer side in pixels of the images that are sent; larger ones are shrunk."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """For a whole answer."""


class Captions(_Model):
    """Which captions 02_captioned has written."""

    captioner: (
        Annotated[
            BundleCaptioner | CheckpointCaptioner | EndpointCaptioner, Field(discriminator="kind")
        ]
        | None
    ) = None
    languages: Annotated[tuple[Language, ...], Field(min_length=1)] = ("en",)
    tries: Annotated[int, Field(ge=1, le=3)] = 3
    """Answers about an image in a language, at most, and in each run as many requests without."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 128
    """Of a caption; one that is longer counts as none."""
    prompts: dict[str, Annotated[str, Field(min_length=1)]] = {}
    """What asks for a caption, by language."""

    @field_validator("languages")
    @classmethod
    def _can_be_asked_for(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        if UNKNOWN in map(str.lower, languages):
            raise ValueError(f"{UNKNOWN} is no language to write in")
        if len({tag.lower() for tag in languages}) < len(languages):
            raise ValueError("a language is named twice")
        return languages

    @model_validator(mode="after")
    def _prompts_are_used(self) -> Captions:
        unused = {tag.lower() for tag in self.prompts} - {tag.lower() for tag in self.languages}
        if unused:
            raise ValueError(f"prompts has {min(unused)}, which is none of the languages")
        return self


class Translations(_Model):
    """How captions in languages are checked that the scoring encoder does not know."""

    encoder: EncoderSpec
    """Embeds texts of all languages."""
    min_cosine: Annotated[float, Field(ge=-1, le=1)]
    """Least cosine of the embeddings of a caption and one that was scored."""


class Retrieval(_Model):
    """When a checked set is bad as a whole."""

    pool: Annotated[int, Field(ge=20)] = 1000
    """Images, and their captions."""
    most_missed: Annotated[float, Field(gt=0, le=1)] = 0.2
    """From this share of images on whose caption is not among the first ten, the run stops."""


SCALES = {"cosine": 1.0, "clipscore": 2.5, "torchmetrics": 100.0}
"""What a score is called -> how many times the cosine it is."""
_THRESHOLDS = (
    "a threshold needs its scale: `scale: cosine` (0.28 and 0.20 are raw cosines of OpenAI's "
    "ViT-B/32), `scale: clipscore` (2.5 times the cosine: 0.70 and 0.50) or `scale: torchmetrics` "
    "(100 times: 28 and 20)"
)


class Quality(_Model):
    """Which captions 03_quality_checked takes."""

    encoder: EncoderSpec
    prefix: str = "A photo depicts "
    """Of each caption, when it is embedded."""
    languages: Annotated[tuple[str, ...], Field(min_length=1)] = ("en",)
    """Those that the encoder knows; captions of unknown language (`und`) are scored, too."""
    scale: Literal["cosine", "clipscore", "torchmetrics"] | None = None
    accept: float | None = None
    """Captions above it go on."""
    reject: float | None = None
    """Captions below it are rejected at once; others are written again, if there is a captioner."""
    thresholds: Literal["calibrated"] | None = None
    """Instead of accept and reject: what `vlm-perception curate calibrate` has found."""
    false_accept: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of captions of other images above the upper threshold."""
    false_reject: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of good captions below the lower threshold."""
    good_pairs: str | None = None
    """A folder with captions.jsonl whose captions are right; the set's own by default."""
    tagger: Annotated[str, Field(min_length=1)] | None = None
    """The bundle whose tags mark captions; None: the encoder, if it is a bundle.
    Relative to the recipe's folder, or absolute, or the name of a bundle that is found by it."""
    reject_contradicted: bool = False
    """Whether captions that name what the tagger is sure is absent are rejected, or only marked."""
    reject_incomplete: bool = False
    """The same of captions that do not name what it is sure is there."""
    translations: Translations | None = None
    retrieval: Retrieval | None = Retrieval()

    @model_validator(mode="after")
    def _one_kind_of_thresholds(self) -> Quality:
        given = (self.accept, self.reject)
        if self.thresholds is None and None in given:
            raise ValueError("give `accept` and `reject`, or `thresholds: calibrated`")
        if self.thresholds is not None and (given != (None, None) or self.scale is not None):
            raise ValueError("`thresholds: calibrated` takes the place of accept, reject and scale")
        if self.thresholds is None and self.scale is None:
            raise ValueError(_THRESHOLDS)
        if self.accept is not None and self.reject is not None and self.reject > self.accept:
            raise ValueError("`reject` must not be above `accept`")
        if self.scale is not None:
            least, most = (-1.0 if self.scale == "cosine" else 0.0), SCALES[self.scale]
            if any(each is not None and not least <= each <= most for each in given):
                raise ValueError(
                    f"scores on the scale {self.scale} lie between {least:g} and {most:g}, and "
                    "`accept` and `reject` with them; see `scale`"
                )
        tagged = self.reject_contradicted or self.reject_incomplete
        if tagged and self.tagging_bundle is None:
            raise ValueError(
                "`reject_contradicted` and `reject_incomplete` need the tags of a bundle; name one "
                "in `tagger`, or leave them out"
            )
        return self

    @property
    def tagging_bundle(self) -> BundleEncoder | None:
        """The bundle whose tags mark captions; None: there is none."""
        if self.tagger is not None:
            return BundleEncoder(kind="bundle", path=self.tagger)
        return self.encoder if isinstance(self.encoder, BundleEncoder) else None


class Final(_Model):
    """How 04_final is divided."""

    splits: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")],
            Annotated[float, Field(gt=0, le=1)],
        ],
        Field(min_length=1),
    ] = {"train": 0.8, "validation": 0.1, "test": 0.1}
    """Shares of the images."""
    seed: Annotated[int, Field(ge=0)] = 0
    shard_mb: Annotated[int, Field(ge=1)] = 256
    shuffle: bool = True

    @model_validator(mode="after")
    def _whole(self) -> Final:
        if abs(sum(self.splits.values()) - 1) > ROUNDING:
            raise ValueError("the shares of the splits must add up to 1")
        return self


class Health(_Model):
    """What the report says of the images; no stage depends on it."""

    bundle: Annotated[str, Field(min_length=1)] | None = None
    """Gives tags, and answers its typed questions; None: a bundle that the recipe names elsewhere.
    Relative to the recipe's folder, or absolute, or the name of a bundle that is found by it."""
    images: Annotated[int, Field(ge=0)] = 500
    """How many it looks at in each stage."""


class Recipe(_Model):
    """A whole recipe."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    filter: Filter = Filter()
    captions: Captions | None = None
    """None: images keep the captions that they came with, and need none."""
    quality: Quality | None = None
    final: Final = Final()
    health: Health = Health()


def path_or_name(folder: Path, text: str) -> str:
    """What a recipe names: a path, relative to its folder, if something is there, else a name."""
    path = folder / Path(text).expanduser()
    return str(path) if path.exists() else text


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe of a folder.

    Raises:
        CurationError: there is none, or it is wrong; the message lists the faults.
    """
    file = folder / RECIPE
    try:
        return Recipe.model_validate_json(read_as_json(file))
    except ValidationError as error:
        raise CurationError(f"{file} is not a recipe: {describe_errors(error)}") from error
    except FileNotFoundError as error:
        raise CurationError(
            f"{folder} has no {RECIPE}; `vlm-perception curate init {folder}` writes one"
        ) from error
    except (OSError, YamlError) as error:
        raise CurationError(f"{file} cannot be read: {error}") from error
