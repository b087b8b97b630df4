# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The manifest of a model bundle: everything that must be known about a model."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

FORMAT_VERSION: Final = 1

MOST_LABELS = 512
LONGEST_LABEL = 200
MOST_TEMPLATES = 100
"""Prompts of a label; each is a run of the text tower."""
MOST_QUESTIONS = MOST_CHOICES = 100
LONGEST_TEXT = 1000
"""Characters of a question, a choice or a template."""
MOST_FAULTS, LONGEST_FAULT = 5, 300
"""What an error message shows."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1)]
Family = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
"""Of a vision tower, as its exporter names it; what runs a bundle needs to know none."""
Line = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1, le=1 << 31)]
Pixels = Annotated[int, Field(ge=1, le=1 << 14)]
Tokens = Annotated[int, Field(ge=1, le=(1 << 16) - 1)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
"""Messages carry their places in 16 bits."""
Bias = Annotated[float, Field(ge=-1e4, le=1e4)]
Scale = Annotated[float, Field(gt=0.0, le=1e4)]
Tolerance = Annotated[float, Field(ge=0.0, le=0.1)]
Colour = Annotated[int, Field(ge=0, le=255)]


def _inside(name: str) -> str:
    """Refuse a name that may lead out of the bundle, or that some system reads otherwise."""
    parts = name.split("/")
    if {"", ".", ".."} & set(parts) or any(sign in name for sign in "\\:\0"):
        raise ValueError(f"{name[:LONGEST_LABEL]!r} is not the name of a file inside the bundle")
    return name


FileName = Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(_inside)]


def _with_places(prompt: str) -> str:
    """Refuse a prompt without a place for its image and its text, or with several of one."""
    image, text = prompt.find("{image}"), prompt.find("{text}")
    if image < 0 or text < image:
        raise ValueError(f"the prompt {prompt!r} must contain {{image}} and then {{text}}")
    for place in ("{image}", "{text}"):
        if prompt.count(place) > 1:
            raise ValueError(
                f"the prompt {prompt!r} holds {place} {prompt.count(place)} times, and one is taken"
            )
    return prompt


Prompt = Annotated[str, AfterValidator(_with_places)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class FileEntry(_Strict):
    """One file of the bundle and what it must hash to."""

    sha256: Sha256
    bytes: int = Field(ge=0)


class ProcessorSpec(_Strict):
    """How the checkpoint's own image processor brings an image to the graph's size."""

    resample: Literal["bilinear", "hamming", "bicubic", "lanczos", "area"]
    """Pillow's filter; `area`: OpenCV's averages, as a letterbox does it, fast and not the same."""
    resize: Pixels | tuple[Pixels, Pixels]
    """Length of the shorter edge, the aspect is kept; or width and height, whatever the aspect."""
    crop: tuple[Pixels, Pixels] | None
    """Width and height of the middle that is then cut out, black where there is no image."""

    @model_validator(mode="after")
    def _size_is_fixed(self) -> ProcessorSpec:
        if isinstance(self.resize, int) and self.crop is None:
            raise ValueError("a processor that keeps the aspect ratio must crop to a size")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of what the processor gives."""
        if self.crop is not None:
            return self.crop
        assert not isinstance(self.resize, int)
        return self.resize


class ImageSpec(_Strict):
    """What the vision graph takes: uint8 RGB [1, height, width, 3], and how images get there."""

    width: Pixels
    height: Pixels
    patch: Pixels
    columns: Pixels
    rows: Pixels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad: tuple[Colour, Colour, Colour]
    processor: ProcessorSpec | None = None
    """None: letterbox, whole, centred and undistorted."""

    @property
    def fit(self) -> Literal["letterbox", "stretch", "crop", "stretch_crop"]:
        """How an image is brought to this size, in a word."""
        if self.processor is None:
            return "letterbox"
        if isinstance(self.processor.resize, int):
            return "crop"
        return "stretch" if self.processor.crop is None else "stretch_crop"

    @model_validator(mode="after")
    def _grid_fits(self) -> ImageSpec:
        if (self.columns * self.patch, self.rows * self.patch) != (self.width, self.height):
            raise ValueError(
                f"a grid of {self.columns}x{self.rows} patches of {self.patch} pixels does not "
                f"cover {self.width}x{self.height}"
            )
        made = self.processor.size if self.processor is not None else (self.width, self.height)
        if made[0] < self.width or made[1] < self.height:
            raise ValueError(
                f"the processor outputs {made[0]}x{made[1]} pixels, but the model takes "
                f"{self.width}x{self.height}"
            )
        return self


class KeepStep(_Strict):
    """A step of token pruning: how many tokens come out of a layer, the fused one included."""

    layer: int = Field(ge=0)
    tokens: Annotated[int, Field(ge=2)]


class HeadStep(_Strict):
    """What a step of head pruning cost: the pooled embedding beside that of all heads."""

    heads: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Left in each layer."""
    cosine_mean: float
    cosine_min: float


class VisionSpec(_Strict):
    """What the vision graph gives."""

    family: Family
    tokens: Tokens
    token_width: Count
    embedding_width: Count
    keep: tuple[KeepStep, ...] = ()
    head_steps: tuple[HeadStep, ...] = ()

    @model_validator(mode="after")
    def _steps_fall(self) -> VisionSpec:
        for step, later in itertools.pairwise(self.keep):
            if later.layer <= step.layer or later.tokens >= step.tokens:
                raise ValueError("a later step of keep must have a later layer and fewer tokens")
        return self


class TextSpec(_Strict):
    """The text tower, and how a text and an image are compared."""

    tokenizer: FileName
    length: Tokens
    pad_token_id: TokenId
    score: Literal["sigmoid", "softmax"]
    logit_scale: Scale
    logit_bias: Bias


class LabelSpec(_Strict):
    """One label of a vocabulary, its prompts, and where its scores begin to mean yes.

    A probability is sigmoid(calibration_scale * logit + calibration_bias).
    """

    label: Annotated[str, Field(min_length=1, max_length=LONGEST_LABEL)]
    templates: Annotated[tuple[Line, ...], Field(max_length=MOST_TEMPLATES)] = ()
    threshold: Probability | None = None
    region_threshold: Probability | None = None
    calibration_scale: Scale = 1.0
    calibration_bias: Bias = 0.0


class VocabularySpec(_Strict):
    """The labels that a bundle starts with, and what holds for labels set later."""

    labels: Annotated[tuple[LabelSpec, ...], Field(min_length=1, max_length=MOST_LABELS)]
    templates: Annotated[tuple[Line, ...], Field(min_length=1, max_length=MOST_TEMPLATES)] = (
        "{label}",
    )
    threshold: Probability = 0.5
    region_threshold: Probability = 0.5

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as texts."""
        return tuple(spec.label for spec in self.labels)

    @model_validator(mode="after")
    def _labels_differ(self) -> VocabularySpec:
        _require_unique(self.names, "label")
        for template in self.templates:
            if "{label}" not in template:
                raise ValueError(f"the template {template!r} does not contain {{label}}")
        return self


class LabelEmbeddingsSpec(_Strict):
    """The text embeddings of the vocabulary's labels, float32 [labels, D], made at export."""

    file: FileName
    made_of: Sha256
    """Hash of the prompts, the tokenizer and the text tower that they follow from."""


class QuestionSpec(_Strict):
    """A typed question: its wording and the closed list of its answers."""

    name: Line
    question: Line
    choices: Annotated[tuple[Line, ...], Field(min_length=2, max_length=MOST_CHOICES)]
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0

    @model_validator(mode="after")
    def _choices_differ(self) -> QuestionSpec:
        _require_unique(list(self.choices), f"choice of question {self.name!r}")
        return self


class TilesSpec(_Strict):
    """Tiles of a view's size that an image is cut into, row by row, beside a view of the whole."""

    columns: Pixels
    rows: Pixels
    whole: Literal["first", "last"]
    """Place of the view of the whole among the views."""
    content: tuple[Pixels, Pixels] | None
    """Width and height of the middle of all tiles that an image is fitted into, undistorted, with
    black around it; None: it is stretched over all tiles."""
    apart: bool = False
    """The whole is not made of what was stretched over all tiles, but of the image itself."""

    @property
    def views(self) -> int:
        """How many views of an image there are: the tiles and the whole."""
        return self.columns * self.rows + 1


class TowerSpec(_Strict):
    """A language model's own vision tower, which looks at one view of an image after the other."""

    family: Family
    image: ImageSpec
    """One view: what the graph takes, and how the checkpoint's processor fits an image into it."""
    longest_edge: Pixels | None = None
    """Before that the longer edge is brought to this length, in the way of Idefics3's processor."""
    square: tuple[Colour, Colour, Colour] | None = None
    """Before that an image that is no square is filled up to one with this colour."""
    tiles: TilesSpec | None = None
    """None: the image as a whole is the only view."""
    tokens: Tokens
    """Of a view."""
    token_width: Count

    @property
    def views(self) -> int:
        """How many views of an image there are."""
        return 1 if self.tiles is None else self.tiles.views

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """Shape of all views of an image, uint8 RGB."""
        return self.views, self.image.height, self.image.width, 3


BoxFormatName = Literal["qwen2-vl", "qwen2.5-vl", "qwen3-vl", "paligemma", "kosmos-2"]
"""How a language model writes boxes, by the family that it was first used in."""


class LocateSpec(_Strict):
    """How a language model writes where things are."""

    format: BoxFormatName
    whole: tuple[Pixels, Pixels] | None = None
    """Width and height of the picture that its coordinates refer to, where the image of the vision
    graph is only the middle of it, in whole patches; None: they refer to what the tower is shown,
    and where that is tiles, to the whole."""


class LanguageSpec(_Strict):
    """The language model: projector, decoder and how a prompt is put together.

    `prompt` contains `{image}` followed by `{text}`; special tokens are written as in the
    tokenizer.
    """

    tokenizer: FileName
    embeddings: FileName
    prompt: Prompt
    answer_separator: str
    caption_prompt: Text
    stop_token_ids: Annotated[tuple[TokenId, ...], Field(min_length=1)]
    width: Count
    stacked: Annotated[int, Field(ge=0, le=64)] = 0
    """Layers of the decoder that read features of an image beside its embeddings, which then follow
    each of these; texts have zeros there."""
    layers: Count
    kv_heads: Count
    head_dim: Count
    vocabulary_size: Count
    max_positions: Count
    image_tokens: Count
    max_images: Count
    kv_bytes_per_token: Count
    tower: TowerSpec | None = None
    """None: it reads the patch tokens of the vision graph."""
    locate: LocateSpec | None = None
    """None: it is not known to write boxes."""

    @property
    def read_width(self) -> int:
        """Width of what the decoder reads of a token."""
        return self.width * (1 + self.stacked)

    @property
    def kv_bytes_per_image(self) -> int:
        """Keys and values of an image."""
        return self.kv_bytes_per_token * self.image_tokens


class ReadoutSpec(_Strict):
    """A typed question whose answer can be guessed from the temporal state alone."""

    name: Text
    choices: Annotated[tuple[Text, ...], Field(min_length=2)]


class TemporalSpec(_Strict):
    """The trained temporal module."""

    slots: Count
    """Earlier embeddings that it remembers."""
    event_width: Count
    drift_unit: float = Field(gt=0.0)
    """Cosine distance of two events at which an answer to one hardly counts for the other."""
    readouts: tuple[ReadoutSpec, ...] = ()
    """In the order of the columns of the output `evidence`."""


class GoldenSpec(_Strict):
    """Stored inputs and outputs, and how far an engine may be from them."""

    file: FileName
    absolute: Tolerance
    relative: Tolerance
    cosine: dict[str, Annotated[float, Field(ge=0.9, le=1.0)]] = {}
    """For each quantized graph the mean cosine that an output's vectors must reach, instead of
    `absolute` and `relative`. PyTorch cannot compute such a graph, so its stored outputs are those
    of ONNX Runtime on the machine that exported it; other engines and processors round INT8
    products otherwise. The graph for TensorRT is compared with the outputs of vision.onnx."""


class Agreement(_Strict):
    """How near a bundle comes to a reference on the same images."""

    cosine_mean: float
    cosine_min: float
    """Of the pooled embedding, over the images."""
    tag_top1: Probability
    """Share of the images for which the likeliest label is the same."""
    tag_top1_tied: Probability | None = None
    """The same, and labels count that the reference holds for as likely, within 0.1."""
    tags_f1: Probability | None = None
    """F1 of the labels that hold, over all images, taking the reference's as the truth; None where
    no label holds."""
    attributes: Probability | None = None
    """Share of the typed questions that get the same answer; None without a language model."""
    attributes_tied: Probability | None = None
    """The same, and answers count that the reference holds for as likely, within 0.1."""
    captions: Probability | None = None
    """Mean similarity of the captions, word by word: 1 means the same words in the same order."""
    tower_cosine_mean: float | None = None
    tower_cosine_min: float | None = None
    """Of the tokens of the language model's own vision tower, the mean of an image; over the
    images. None where it has none, and against transformers."""


class ValidationSpec(_Strict):
    """What the export measured on images that it was not calibrated on."""

    images: Count
    images_digest: Sha256
    """Hash over the validation images' pixels."""
    dense: Agreement
    """Against the same checkpoint at the same geometry: all tokens, all heads, FP32."""
    checkpoint: Agreement | None
    """Compared with transformers using the checkpoint's own processor, which may crop or distort.

    None: that processor makes images of various sizes or cuts them up, as NaFlex's does.
    """
    drift_accepted: bool
    """Whether the tolerances were exceeded and the user accepted that."""


class HubSource(_Strict):
    """A model of the Hugging Face hub, at one commit."""

    id: Text
    revision: Text
    """The commit."""
    licence: Text
    """As its model card names it."""


class MadeBy(_Strict):
    """How the bundle came to be."""

    command: Text
    checkpoint: Text
    weights: dict[str, Sha256]
    versions: dict[str, str]
    sources: dict[str, HubSource] = {}
    """By the part of the checkpoint, `dual` or `vlm`; empty where it was a folder."""


class Manifest(_Strict):
    """Everything that a node must know about a model."""

    format_version: Literal[1]
    name: Text
    digest: Sha256
    precision: Literal["float16-weights", "int8-mixed"]
    precision_plan: FileName | None = None
    """File that says which layers compute in INT8."""
    image: ImageSpec
    vision: VisionSpec
    text: TextSpec
    vocabulary: VocabularySpec
    label_embeddings: LabelEmbeddingsSpec | None = None
    """None: whoever runs the bundle embeds its labels with the text tower."""
    language: LanguageSpec | None
    temporal: TemporalSpec | None = None
    """None: the training-free form is used."""
    questions: Annotated[tuple[QuestionSpec, ...], Field(max_length=MOST_QUESTIONS)]
    golden: GoldenSpec
    licences: Annotated[dict[str, str], Field(min_length=1)]
    model_card: FileName
    made_by: MadeBy
    validation: ValidationSpec | None = None
    """None: the export was given no images."""
    files: Annotated[dict[FileName, FileEntry], Field(min_length=1)]

    @model_validator(mode="after")
    def _questions_differ(self) -> Manifest:
        _require_unique([question.name for question in self.questions], "question")
        return self


def _require_unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name!r} is listed twice")
        seen.add(name)


def manifest_digest(content: Mapping[str, Any]) -> str:
    """Hash of a manifest's content without its own digest; it holds every file's hash."""
    body = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def describe_errors(error: ValidationError) -> str:
    """The faults that pydantic found, each with its place, on one line."""
    faults = error.errors(include_url=False)
    shown = [
        f"{'.'.join(str(part) for part in fault['loc']) or 'the whole'}: {fault['msg']}"
        for fault in faults[:MOST_FAULTS]
    ]
    more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
    return "; ".join([each[:LONGEST_FAULT] for each in shown] + more)
