# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The recipe of a run of `vlm-perception distil`; one YAML file, a section for each part."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from vlm_perception.bundle.manifest import MOST_QUESTIONS, QuestionSpec, describe_errors
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.yaml_files import YamlError, read_as_json
from vlm_perception.datasets.captions_file import UNKNOWN
from vlm_perception.modeling.bridge_spec import BridgeSpec
from vlm_perception.training.distillation.images.mirrored_texts import is_understood
from vlm_perception.training.loop import Schedule


class DistillationError(VlmPerceptionError):
    """A run cannot be made as it was asked for; the text says why and what to do."""


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


PathText = Annotated[str, Field(min_length=1)]
"""Relative to the recipe's folder, or absolute; or, of a model, its name on the hub:
ORG/NAME@REVISION."""


class RoadWorldImages(_Model):
    """Scenes of the road world, with all that is true of them."""

    kind: Literal["road-world"]
    first_seed: Annotated[int, Field(ge=0)] = 0
    count: Annotated[int, Field(ge=1)] = 26_000
    small: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of small objects that is asked for."""
    easy: Annotated[int, Field(ge=0)] = 0
    """So many of the first scenes have few small objects; a student begins with them."""
    appearance: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far streets and cameras may be from the plain ones."""
    plain: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the scenes that look plain all the same."""
    photographs: PathText | None = None
    """A folder of images that sky, ground and boards on walls may show."""
    cache: PathText | None = None
    """Where the rendered scenes are kept, for several recipes; by default in the run's folder."""

    @model_validator(mode="after")
    def _fits(self) -> RoadWorldImages:
        if self.easy > self.count:
            raise ValueError(f"{self.easy} scenes are `easy`, and `count` is {self.count}")
        if not self.appearance and (self.plain or self.photographs):
            raise ValueError("`plain` and `photographs` go with an `appearance` above 0; give one")
        return self


class FinalSetImages(_Model):
    """A split of a curated set."""

    kind: Literal["final-set"]
    path: PathText
    split: str = "train"


class FolderImages(_Model):
    """All images of a folder, its subfolders included, with captions.jsonl where it has one."""

    kind: Literal["folder"]
    path: PathText


class Views(_Model):
    """The views of each image that teacher and student see."""

    count: Annotated[int, Field(ge=1, le=64)] = 1
    least_scale: Annotated[float, Field(ge=0.5, le=1)] = 1.0
    """Least share of the image's area that a view shows; its aspect ratio is the image's."""
    mirror: bool = False
    """Whether half of the views are mirrored, with left and right swapped in all texts. A mirrored
    street drives on the other side."""
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Most that brightness differs, as a share."""


class CheckpointLanguage(_Model):
    """A vision-language model that transformers reads."""

    kind: Literal["checkpoint"] = "checkpoint"
    path: PathText


class EndpointLanguage(_Model):
    """A vision-language model that an OpenAI-compatible server runs."""

    kind: Literal["endpoint"] = "endpoint"
    endpoint: Annotated[str, Field(min_length=1)]
    """As `http://127.0.0.1:8000/v1`."""
    model: Annotated[str, Field(min_length=1)]
    """Its name on the server."""
    key_file: str = ""
    """Relative to the recipe's folder, or absolute; only its owner may read it."""
    allow_remote: bool = False
    """Whether images may leave this machine."""
    allow_plain_http: bool = False
    slots: Annotated[int, Field(ge=1, le=256)] = 1
    """Views that are asked about at once."""
    image_size: Annotated[int, Field(ge=64, le=4096)] = 768
    """Longer side in pixels of the images that are sent; larger ones are shrunk."""
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """For a whole answer."""


def _kind(language: Any) -> str:
    """Of a teacher's language model, where a recipe does not say."""
    if not isinstance(language, dict):
        return str(getattr(language, "kind", "checkpoint"))
    return str(language.get("kind", "endpoint" if "endpoint" in language else "checkpoint"))


TeacherLanguage = Annotated[
    Annotated[CheckpointLanguage, Tag("checkpoint")] | Annotated[EndpointLanguage, Tag("endpoint")],
    Discriminator(
        _kind,
        custom_error_type="kind",
        custom_error_message="`kind` is none of checkpoint and endpoint",
    ),
]


class Teacher(_Model):
    """What is learned from, and what it is asked."""

    encoder: PathText | None = None
    """A dual encoder."""
    language: TeacherLanguage | None = None
    labels: tuple[str, ...] = ()
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = ("{label}", "a photo of a {label}")
    caption: Annotated[str, Field(min_length=1)] = (
        "Describe in one sentence what the image shows, the most important first."
    )
    """What asks the language model for a caption."""
    questions: Annotated[tuple[QuestionSpec, ...], Field(max_length=MOST_QUESTIONS)] = ()
    top_labels: Annotated[int, Field(ge=1, le=1024)] = 32
    """Labels of which the probabilities are stored, the likeliest ones of each view."""
    patches: bool = True
    """Whether the embeddings of patches are stored."""
    store: PathText | None = None
    """Where the outputs are kept, for several recipes; by default in the run's own folder."""

    @model_validator(mode="after")
    def _says_something(self) -> Teacher:
        if self.encoder is None and self.language is None:
            raise ValueError("a teacher is an `encoder`, a `language` model, or both; name one")
        asked = (("labels", self.labels), ("questions", [each.name for each in self.questions]))
        for key, names in asked:
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"`{key}` names {', '.join(twice)} more than once; name each once")
        return self


class ConfigStudent(_Model):
    """A dual encoder with random weights, by the configurations of its towers."""

    kind: Literal["config"]
    vision: dict[str, Any]
    """As transformers writes it, with `model_type: siglip_vision_model` or `clip_vision_model`."""
    text: dict[str, Any]
    tokenizer: PathText | Literal["teacher", "road-world"] = "teacher"


class CutStudent(_Model):
    """The teacher's dual encoder, with the least important parts left out (TinyCLIP)."""

    kind: Literal["cut"]
    vision_layers: Annotated[int, Field(ge=1)]
    text_layers: Annotated[int, Field(ge=1)]
    heads: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of attention heads that stay."""
    neurons: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the feed-forward layers' neurons that stay."""


class CheckpointStudent(_Model):
    """A dual encoder that goes on learning."""

    kind: Literal["checkpoint"]
    path: PathText


class Training(_Model):
    """How long, how fast, and in which batches."""

    steps: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=2)] = 256
    """Images whose losses are computed together, over all devices."""
    micro_batch: Annotated[int, Field(ge=1)] = 64
    """Images that a device takes at once; gradient caching makes the batch of them."""
    rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    final_rate: Annotated[float, Field(gt=0, le=1)] = 1e-6
    warm_up: Annotated[float, Field(ge=0.05, le=0.1)] = 0.06
    """Share of the steps."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.05
    frozen: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the steps for which an inherited vision tower waits; then all is trained, at a tenth
    of the rate. Random weights are never frozen."""

    def require_batch(self, images: int) -> None:
        """Refuse a set that does not fill a batch.

        Raises:
            DistillationError: it does not.
        """
        if images < self.batch:
            raise DistillationError(
                f"there are {images} images, fewer than the {self.batch} of a batch; add images, "
                "or choose a smaller `batch`"
            )

    @property
    def schedule(self) -> Schedule:
        """As the loop takes it."""
        return Schedule(
            self.steps,
            self.batch,
            self.rate,
            self.final_rate,
            self.warm_up,
            self.weight_decay,
            self.frozen,
        )


class Student(_Model):
    """The dual encoder that learns."""

    start: Annotated[ConfigStudent | CutStudent | CheckpointStudent, Field(discriminator="kind")]
    size: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]]
    """Width and height of its images in pixels."""
    keep: str = ""
    """Token pruning that it learns to live with, as `export --keep` takes it."""
    losses: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """Name -> weight."""
    held_out: RoadWorldImages | None = None
    """Scenes by which the probabilities of the road world's labels are fitted and of which nothing
    is learned; by default some of those of the training."""
    training: Training


LanguageLoss = Literal[
    "caption",
    "answers",
    "instructions",
    "locations",
    "patches",
    "taught_caption",
    "taught_answers",
    "taught_patches",
]


class Language(_Model):
    """The language model that learns to read the finished tower."""

    images: RoadWorldImages | None = None
    """Others than the student's, of which its tower knows more than it sees; by default those."""
    start: PathText | None = None
    """A checkpoint directory to go on from: its language model, and its dual encoder where the
    recipe has no student."""
    decoder: dict[str, Any] | None = None
    """One with random weights, as transformers writes its configuration, with `model_type: llama`
    or `qwen2`."""
    tokenizer: PathText | Literal["teacher", "road-world"] = "road-world"
    """Of a decoder with random weights; `teacher`: that of the teacher's language model."""
    bridge: BridgeSpec = BridgeSpec()
    keep: str | None = None
    """Token pruning that it learns to live with, as `export --keep` takes it; by default the
    student's."""
    losses: Annotated[dict[LanguageLoss, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    cache: PathText | None = None
    """Where rendered scenes and what the tower sees are kept, for several recipes; by default in
    the run's own folder."""
    training: Training

    @model_validator(mode="after")
    def _fits(self) -> Language:
        if (self.start is None) == (self.decoder is None):
            raise ValueError("a language model needs either `decoder` or `start`; give one")
        if self.training.batch > self.training.micro_batch:
            raise ValueError(
                f"its losses are computed for a whole batch at once: `batch` "
                f"{self.training.batch} is above `micro_batch` {self.training.micro_batch}"
            )
        for name in ("patches", "taught_patches"):
            if name in self.losses and self.bridge.kind != "q-former":
                raise ValueError(
                    f"the loss {name} reads keys and values of a q-former; leave it out with a "
                    f"bridge of kind {self.bridge.kind}"
                )
        taught = [name for name in self.losses if name.startswith("taught")]
        if taught and self.images is not None:
            raise ValueError(
                f"{', '.join(taught)} can be learned of those images that the teacher is asked "
                "about; leave `images` out"
            )
        return self


class Quantization(_Model):
    """Quantization-aware training at the points of a precision plan."""

    plan: PathText
    """A precision.yaml, as `export --precision-config` takes it."""
    checkpoint: PathText | None = None
    """A finished checkpoint directory; by default what the run has made before."""
    keep: str | None = None
    """Token pruning, as `export --keep` takes it; by default the student's."""
    ranges: Literal["learned", "moving"] = "learned"
    """Steps that are learned (LSQ), or that follow moving averages of what `method` of the plan
    finds."""
    calibration_images: Annotated[int, Field(ge=8)] = 256
    """The first ones, which the steps at the start come from."""
    training: Training


class Recipe(_Model):
    """A whole recipe."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    seed: Annotated[int, Field(ge=0)] = 0
    images: Annotated[RoadWorldImages | FinalSetImages | FolderImages, Field(discriminator="kind")]
    languages: Annotated[tuple[str, ...], Field(min_length=1)] = ("en", "und")
    """Of captions to learn from."""
    views: Views = Views()
    teacher: Teacher | None = None
    student: Student | None = None
    language: Language | None = None
    quantization: Quantization | None = None

    @model_validator(mode="after")
    def _can_mirror(self) -> Recipe:
        others = [
            tag for tag in self.languages if not is_understood(tag) and tag.lower() != UNKNOWN
        ]
        if self.views.mirror and self.images.kind != "road-world" and others:
            raise ValueError(
                "left and right are swapped in English captions alone; set `views.mirror` to "
                f"false, or leave {', '.join(others)} out of `languages`"
            )
        return self


def read_recipe(file: Path) -> Recipe:
    """Read a recipe.

    Raises:
        DistillationError: it cannot be read, or is wrong; the message lists the faults.
    """
    try:
        return Recipe.model_validate_json(read_as_json(file))
    except ValidationError as error:
        raise DistillationError(f"{file} is not a recipe: {describe_errors(error)}") from error
    except (OSError, YamlError) as error:
        raise DistillationError(f"{file} cannot be read: {error}") from error
