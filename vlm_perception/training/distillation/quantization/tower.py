# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A tower with quantizers at the points of its graph."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from vlm_perception.deploy.compression.points import Point
from vlm_perception.deploy.compression.precision_config import PrecisionConfig
from vlm_perception.deploy.compression.steps import PointSteps, largest_code
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.modeling.transformer_layers import FusedAttention
from vlm_perception.training.distillation.quantization.fake import InputQuantizer, WeightQuantizer

# Modules of transformers carry no types.
Module = Any


class QuantizedTower(nn.Module):
    """A tower as its quantized graph computes; its steps can be learned."""

    def __init__(
        self,
        tower: VisionTower,
        points: Sequence[Point],
        steps: Mapping[str, PointSteps],
        plan: PrecisionConfig,
        *,
        learned: bool,
    ) -> None:
        """Put quantizers into a tower, until `taken_out`.

        Args:
            tower: the modules that the graph was made of.
            points: of the graph.
            steps: to start with, by the names of the points.
            plan: how ranges are found, where they are not learned.
            learned: whether the steps are.
        """
        super().__init__()
        self.tower = tower
        self._points = tuple(points)
        self._calls: Counter[str] = Counter()
        self.inputs = nn.ModuleDict()
        self.weights = nn.ModuleDict()
        of_place: dict[str, list[Point]] = defaultdict(list)
        for point in points:
            of_place[_place(point.name)].append(point)
            step = steps[point.name].input
            self.inputs[_key(point.name)] = InputQuantizer(
                step,
                point.bits.inputs,
                learned=learned,
                method=plan.method,
                percentile=plan.percentile,
            )
        self._hooks = [tower.patch_embedding.register_forward_pre_hook(self._begin)]
        for place, here in of_place.items():
            module: Module = tower.get_submodule(place)
            fused = isinstance(module, FusedAttention)
            tap = module.input if fused else module
            self._hooks.append(tap.register_forward_pre_hook(self._hook(place)))
            weight = steps[place].weight
            if weight is None:
                continue
            bits = here[0].bits.weights
            quantizer = WeightQuantizer(weight, bits, learned=learned, method=plan.method)
            self.weights[_key(place)] = quantizer
            # What a token reads alone goes through the same weight, in float.
            if fused:
                of_weight: Any = partial(_of_weight, quantizer)
                self._hooks.append(module.joined.register_forward_pre_hook(of_weight))
            else:
                parametrize.register_parametrization(module, "weight", quantizer)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `VisionTower.look`."""
        return self.tower.look(images)

    def steps(self) -> dict[str, NDArray[np.float32]]:
        """As a checkpoint has them."""
        values = {}
        for point in self._points:
            values[f"{point.name}.input"] = self._input(point.name).steps.numpy()
            if point.weight is not None:
                values[f"{point.name}.weight"] = self._weight(point.name).steps.numpy()
        return values

    def point_steps(self) -> dict[str, PointSteps]:
        """As the export takes them."""
        values = self.steps()
        found = {}
        for point in self._points:
            step = float(values[f"{point.name}.input"])
            reach = step * largest_code(point.bits.inputs)
            found[point.name] = PointSteps(step, reach, values.get(f"{point.name}.weight"))
        return found

    @torch.no_grad()
    def codes(self, name: str, values: Tensor) -> Tensor:
        """The integers of an input at a point."""
        quantizer = self._input(name)
        quantized: Tensor = quantizer(values)
        return quantized.div(quantizer.steps()).round().to(torch.int32)

    @torch.no_grad()
    def layer(self, names: Sequence[str], values: Sequence[Tensor]) -> Tensor:
        """What a layer, or a product, gives for the inputs at its points."""
        one, *others = (self._input(n)(v) for n, v in zip(names, values, strict=True))
        if others:
            return torch.matmul(one, others[0])
        module: Module = self.tower.get_submodule(_place(names[0]))
        weight = module.weight
        if isinstance(module, FusedAttention):
            weight = self._weight(names[0])(weight)
        return functional.linear(one, weight, module.bias)

    def _input(self, name: str) -> InputQuantizer:
        quantizer = self.inputs[_key(name)]
        assert isinstance(quantizer, InputQuantizer)
        return quantizer

    @torch.no_grad()
    def take_out(self) -> None:
        """Give the tower back in float, with weights as FP16 holds them."""
        for hook in self._hooks:
            hook.remove()
        for place in sorted({_place(point.name) for point in self._points if point.weight}):
            module: Module = self.tower.get_submodule(place)
            if parametrize.is_parametrized(module):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            quantizer = self._weight(place)
            if not quantizer.steps.learned:
                quantizer.renew(module.weight.half().float())

    def _weight(self, name: str) -> WeightQuantizer:
        quantizer = self.weights[_key(_place(name))]
        assert isinstance(quantizer, WeightQuantizer)
        return quantizer

    def _begin(self, *_: Any) -> None:
        self._calls.clear()

    def _hook(self, place: str) -> Any:
        def quantize(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            self._calls[place] += 1
            number = self._calls[place]
            quantizer = self._input(place if number == 1 else f"{place}#{number}")
            return quantizer(inputs[0]), *inputs[1:]

        return quantize


def _of_weight(quantizer: WeightQuantizer, _: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    quantized: Tensor = quantizer(inputs[0])
    return quantized


def _place(name: str) -> str:
    """The module of a point."""
    return name.partition("#")[0]


def _key(name: str) -> str:
    """A name of a point as one of a module."""
    return name.replace(".", "/")
