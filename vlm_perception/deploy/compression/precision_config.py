# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""precision.yaml: which layers compute in INT8, in words that can be read and edited."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlm_perception.bundle.manifest import Sha256, describe_errors
from vlm_perception.common.export_error import ExportError
from vlm_perception.common.yaml_files import YamlError, read_as_json
from vlm_perception.deploy.compression.steps import Method

CONFIG_NAME = "precision.yaml"
HEADER = """\
# Where the vision tower computes in INT8. Both graphs quantize at the same points with the same
# scales; vision.onnx computes the rest in FP32 (CPU engines), vision.fp16.onnx in FP16 (TensorRT).
# language_vision says the same of the language model's own tower, where it has one.
# To change it, copy this file, move layers between groups or change a group's precision, and export
# with --precision-config FILE. Groups that are left out are the default ones. `measured` says what
# this export found, and is not read back.
"""
ATTENTIONS = "layers.attentions.*"
# Groups by the paths of their modules, first match wins; what matches none belongs to the heads.
GROUPS = {
    "feed-forward": ("layers.mlps.*",),
    "attention-projections": (ATTENTIONS,),
    "patch-embedding": ("patch_embedding*",),
}
HEADS = "heads"
# The heads meet the language model and the text tower, and cost little.
QUANTIZED_GROUPS = ("feed-forward", "attention-projections")
# Cosine to the FP32 tower on the shipped student: worst image 0.9996, where 99.99 gives 0.9991,
# the largest value 0.9991 and entropy 0.9987.
PERCENTILE = 99.999
SELDOM = frozenset({"bits", "attention_products", "weight_steps", "trained_steps"})


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Bits(_Strict):
    """Of the integers that quantized layers compute with, which are stored in INT8 in any case."""

    weights: Literal[4, 8] = 8
    inputs: Annotated[int, Field(ge=2, le=8)] = 8


class AttentionProducts(_Strict):
    """Products within the attention, query-key and attention-value, whose inputs are quantized."""

    bits: Annotated[int, Field(ge=2, le=8)] = 8
    layers: tuple[str, ...] = ()
    """Attentions, as `layers.attentions.3`; all those of the tower's layers when absent."""


class GroupConfig(_Strict):
    """Layers of the dual encoder's tower with one precision."""

    cpu: Literal["int8", "float32"] = Field(alias="vision.onnx")
    tensorrt: Literal["int8", "float16"] = Field(alias="vision.fp16.onnx")
    layers: tuple[str, ...]
    bits: Bits | None = None
    """Those of the tower when absent."""

    @model_validator(mode="after")
    def _streams_agree(self) -> GroupConfig:
        if (self.cpu == "int8") != (self.tensorrt == "int8"):
            raise ValueError(
                "both graphs of a tower quantize the same layers: set both to int8, or to float32 "
                "and float16"
            )
        return self


class LanguageGroupConfig(GroupConfig):
    """Layers of the language model's own tower with one precision."""

    cpu: Literal["int8", "float32"] = Field(alias="language_vision.onnx")
    tensorrt: Literal["int8", "float16"] = Field(alias="language_vision.fp16.onnx")


AnyGroup = TypeVar("AnyGroup", bound=GroupConfig)


class OthersConfig(_Strict):
    """What is no layer with weights: norms, softmax, products inside the attention."""

    cpu: Literal["float32"] = Field(default="float32", alias="vision.onnx")
    tensorrt: Literal["float16"] = Field(default="float16", alias="vision.fp16.onnx")


class LayerScales(_Strict):
    """What one quantized layer was measured to need; a step is the value of one INT8 unit."""

    input_range: float
    """Largest magnitude of the input that is not cut off."""
    input_step: float
    weight_steps: tuple[float, float] | None = None
    """Least and largest over the output channels; absent where the other factor is no constant."""


class Measured(_Strict):
    """The calibration, or the training, that the scales come from."""

    images: int | None = None
    images_digest: Sha256 | None = None
    trained_steps: Sha256 | None = None
    """Digest of the checkpoint's own steps, in place of images."""
    layers: dict[str, LayerScales]


def _listed_once(groups: dict[str, AnyGroup]) -> dict[str, AnyGroup]:
    layers = [layer for group in groups.values() for layer in group.layers]
    twice = sorted({layer for layer in layers if layers.count(layer) > 1})
    if twice:
        raise ValueError(f"the layer {twice[0]} is listed twice")
    return groups


class TowerPlan(_Strict):
    """Precision of every layer of a tower."""

    bits: Bits | None = None
    """Of quantized layers, where their group does not say; 8 when absent."""
    attention_products: AttentionProducts | None = None
    """They stay float when absent."""

    @abstractmethod
    def of_groups(self) -> Mapping[str, GroupConfig]:
        """The groups."""


AnyPlan = TypeVar("AnyPlan", bound=TowerPlan)


class LanguageVisionConfig(TowerPlan):
    """Precision of every layer of the language model's own vision tower."""

    groups: Annotated[dict[str, LanguageGroupConfig], AfterValidator(_listed_once)] = {}
    measured: Measured | None = None

    def of_groups(self) -> Mapping[str, GroupConfig]:
        """The groups."""
        return self.groups


class PrecisionConfig(TowerPlan):
    """Precision of every layer of the vision towers, and of the decoder's weights.

    Without groups those of `default_groups` are meant.
    """

    method: Method = "percentile"
    """How the ranges are found that calibration gives: up to a `percentile`, `min-max`, or `mse`,
    with the least squared error of inputs and weights."""
    percentile: float = Field(default=PERCENTILE, gt=50.0, le=100.0)
    """Share of an input's magnitudes, in percent, that its range holds."""
    groups: Annotated[dict[str, GroupConfig], AfterValidator(_listed_once)] = {}
    norms_softmax_attention: OthersConfig = OthersConfig()
    decoder: Literal["float16-weights", "int4-weights"] = "float16-weights"
    measured: Measured | None = None
    language_vision: LanguageVisionConfig | None = None

    def of_groups(self) -> Mapping[str, GroupConfig]:
        """The groups."""
        return self.groups


def default_groups(layers: Sequence[str], kind: type[AnyGroup]) -> dict[str, AnyGroup]:
    """Groups of a tower's layers: feed-forward layers and attention projections in INT8."""
    members: dict[str, list[str]] = {group: [] for group in (*GROUPS, HEADS)}
    for layer in layers:
        members[_group_of(layer)].append(layer)
    cpu, tensorrt = (str(kind.model_fields[name].alias) for name in ("cpu", "tensorrt"))
    groups = {}
    for group, inside in members.items():
        int8 = group in QUANTIZED_GROUPS
        content = {
            cpu: "int8" if int8 else "float32",
            tensorrt: "int8" if int8 else "float16",
            "layers": tuple(inside),
        }
        groups[group] = kind.model_validate(content)
    return groups


def quantized_layers(plan: TowerPlan) -> dict[str, Bits]:
    """The layers that compute in INT8, and the bits of their integers."""
    usual = plan.bits or Bits()
    return {
        layer: group.bits or usual
        for group in plan.of_groups().values()
        if group.cpu == "int8"
        for layer in group.layers
    }


def fewest_input_bits(plan: TowerPlan) -> int:
    """Of the integers that inputs of a tower's layers and products are rounded to."""
    products = [] if plan.attention_products is None else [plan.attention_products.bits]
    return min([8, *products, *(bits.inputs for bits in quantized_layers(plan).values())])


def attention_of(layer: str) -> bool:
    """Whether a layer is the attention of one of the tower's layers."""
    return fnmatchcase(layer, ATTENTIONS)


def with_all_groups(plan: AnyPlan, layers: Collection[str]) -> AnyPlan:
    """A plan with its groups, or the default ones of a tower's layers."""
    if plan.of_groups():
        return plan
    kind = GroupConfig if isinstance(plan, PrecisionConfig) else LanguageGroupConfig
    return plan.model_copy(update={"groups": default_groups(tuple(layers), kind)})


def read_config(path: Path) -> PrecisionConfig:
    """Read an edited precision config.

    Raises:
        ExportError: it cannot be read or contradicts itself; the message lists the faults.
    """
    try:
        return PrecisionConfig.model_validate_json(read_as_json(path))
    except ValidationError as error:
        raise ExportError(f"{path} is not a precision config: {describe_errors(error)}") from error
    except (OSError, YamlError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error


def check_groups(groups: Mapping[str, GroupConfig], layers: Mapping[str, bool]) -> None:
    """Check the groups of a precision config against their tower.

    Args:
        groups: of the precision config.
        layers: the tower's layers, and whether each can be quantized.

    Raises:
        ExportError: they name a layer that is not there, or one that cannot compute in INT8.
    """
    named = [layer for group in groups.values() for layer in group.layers]
    foreign = [layer for layer in named if layer not in layers]
    if foreign:
        raise ExportError(
            f"the precision config names the layer {foreign[0]}, which this tower does not have; "
            f"it has {', '.join(layers)}"
        )
    int8 = [layer for group in groups.values() if group.cpu == "int8" for layer in group.layers]
    for layer in int8:
        if not layers[layer]:
            raise ExportError(
                f"the precision config sets {layer} to int8; only linear layers can be quantized"
            )


def write_config(config: PrecisionConfig, path: Path) -> None:
    """Write a precision config as readable YAML."""
    content = _without_absent(json.loads(config.model_dump_json(by_alias=True)))
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    path.write_text(HEADER + text, encoding="utf-8")


def _without_absent(content: Any) -> Any:
    """Leave out those fields without a value that most plans do not have."""
    if not isinstance(content, dict):
        return content
    return {
        key: _without_absent(value)
        for key, value in content.items()
        if value is not None or key not in SELDOM
    }


def _group_of(layer: str) -> str:
    for group, patterns in GROUPS.items():
        if any(fnmatchcase(layer, pattern) for pattern in patterns):
            return group
    return HEADS
