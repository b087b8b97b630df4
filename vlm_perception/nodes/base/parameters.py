# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""ROS parameters as one typed, frozen settings object: declared once, checked at each change."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.nodes.base.qos_overrides import check_overrides, is_known
from vlm_perception.nodes.process.errors import StartError

SettingsT = TypeVar("SettingsT")
Value = bool | int | float | str | tuple[str, ...]

FIXED = "fixed"
"""Cannot change after the process has started."""
CONFIGURE = "configure"
"""Takes effect at the next configure; refused while the node is configured."""
LIVE = "live"
"""Takes effect immediately."""


FOREIGN = ("use_sim_time", "start_type_description_service")
"""What ROS itself takes from a parameter file, besides QoS overrides."""


class SettingError(StartError):
    """A parameter has a value that cannot be used."""


@dataclass(frozen=True)
class Setting:
    """What is known of a parameter besides its name, type and default."""

    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    change: str = LIVE
    number_as_text: bool = False
    validate: Callable[[Any], object] | None = None
    """Raises VlmPerceptionError for what the fields above cannot express."""

    def check(self, name: str, kind: type, value: object) -> Value:
        """Return the value in the setting's own type.

        Raises:
            SettingError: The type or the value is not allowed.
        """
        converted = self._convert(name, kind, value)
        if self.choices and converted not in self.choices:
            allowed = ", ".join(self.choices)
            raise SettingError(f"{name} is {converted!r}; choose one of: {allowed}")
        if isinstance(converted, int | float) and not isinstance(converted, bool):
            self._check_range(name, converted)
        if self.validate is not None:
            try:
                self.validate(converted)
            except VlmPerceptionError as error:
                raise SettingError(f"{name}: {error}") from error
        return converted

    def _convert(self, name: str, kind: type, value: object) -> Value:
        if kind is tuple and isinstance(value, Sequence) and not isinstance(value, str):
            if all(isinstance(item, str) for item in value):
                return tuple(str(item) for item in value)
            if not value:
                return ()
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif kind is str and self.number_as_text and type(value) is int:
            return str(value)
        elif type(value) is kind:
            return value  # type: ignore[return-value]  # kind is one of the types of Value
        wanted = {tuple: "a list of strings", float: "a number", str: "a string", int: "an integer"}
        needed = wanted.get(kind, "true or false")
        raise SettingError(f"{name} is {value!r} ({type(value).__name__}); give {needed}")

    def _check_range(self, name: str, value: float) -> None:
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        if not low <= value <= high:  # false for NaN, too
            raise SettingError(f"{name} is {value:g}; allowed is {low:g} to {high:g}")

    def descriptor(self, kind: type) -> ParameterDescriptor:
        """Return the descriptor that `ros2 param describe` shows."""
        notes = {CONFIGURE: "Requires reconfigure.", FIXED: "", LIVE: ""}[self.change]
        constraints = "One of: " + ", ".join(self.choices) + "." if self.choices else ""
        descriptor = ParameterDescriptor(
            description=self.description,
            additional_constraints=" ".join(text for text in (constraints, notes) if text),
            read_only=self.change == FIXED,
            # rclpy's static typing refuses 30 where 30.0 is meant; check() does it better.
            dynamic_typing=kind in (float, tuple) or self.number_as_text,
        )
        if self.minimum is not None and self.maximum is not None:
            if kind is int:
                descriptor.integer_range = [
                    IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum), step=0)
                ]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(
                        from_value=float(self.minimum), to_value=float(self.maximum), step=0.0
                    )
                ]
        return descriptor


def setting(
    default: Value,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
    change: str = LIVE,
    number_as_text: bool = False,
    check: Callable[[Any], object] | None = None,
) -> Any:
    """Declare a field of a settings class: its default, its description and what it may hold."""
    about = Setting(description, minimum, maximum, tuple(choices), change, number_as_text, check)
    return dataclasses.field(default=default, metadata={"setting": about})


class TakesWhatItHas(Node):
    """A node that accepts the value which a parameter has, also of one that cannot change.

    So a node takes its own `ros2 param dump` back.
    """

    def declare_parameters(self, *args: Any, **named: Any) -> Any:
        """Declare parameters, but none beside QoS overrides that cannot be used.

        Each node declares some before it makes its first publisher or subscription.

        Raises:
            StartError: such an override was given.
        """
        check_overrides(self._parameter_overrides)
        return super().declare_parameters(*args, **named)

    def set_parameters_atomically(self, parameter_list: Any) -> Any:
        """Set what differs; rclpy refuses a read-only parameter whatever its value is."""
        changed = [given for given in parameter_list if not self._holds(given)]
        if parameter_list and not changed:
            return SetParametersResult(successful=True)
        return super().set_parameters_atomically(changed)

    def _holds(self, given: Any) -> bool:
        if not self.has_parameter(given.name):
            return False
        held = self.get_parameter(given.name)
        return bool(held.type_ == given.type_ and held.value == given.value)


class Parameters(Generic[SettingsT]):
    """The parameters of a node, declared from a settings dataclass and kept as one of it."""

    def __init__(self, node: Node, settings_class: type[SettingsT]) -> None:
        """Declare all parameters and read the values that the command line or a file gave.

        Raises:
            SettingError: A given value is refused; the message says which and why.
        """
        self._node = node
        self._lock = threading.Lock()
        self._kinds = {
            field.name: type(field.default)
            for field in dataclasses.fields(settings_class)  # type: ignore[arg-type]
        }
        self._settings: dict[str, Setting] = {
            field.name: field.metadata["setting"]
            for field in dataclasses.fields(settings_class)  # type: ignore[arg-type]
        }
        self.configured: bool = False
        """While true, changes of parameters that require reconfigure are refused."""
        defaults = settings_class()
        values = {name: self._declare(name, getattr(defaults, name)) for name in self._settings}
        self._value = settings_class(**values)
        self._warn_of_unknown()
        node.add_on_set_parameters_callback(self._on_set)

    @property
    def value(self) -> SettingsT:
        """The settings in force."""
        with self._lock:
            return self._value

    def _declare(self, name: str, default: Value) -> Value:
        about, kind = self._settings[name], self._kinds[name]
        first = list(default) if isinstance(default, tuple) else default
        # rclpy would end a node that was given a wrong type with a traceback.
        given = self._node._parameter_overrides.get(name)
        if given is not None:
            about.check(name, kind, given.value)
        declared: Any = self._node.declare_parameter(name, first, about.descriptor(kind))
        return about.check(name, kind, declared.value)

    def _warn_of_unknown(self) -> None:
        for name in self._node._parameter_overrides:
            if name in self._settings or name in FOREIGN or is_known(name):
                continue
            near = get_close_matches(name, self._settings, n=1)
            remedy = (
                f"did you mean {near[0]}?" if near else "docs/parameters.md lists its parameters"
            )
            self._node.get_logger().warning(
                f"there is no parameter {name}, so its value is not used: {remedy}"
            )

    def _on_set(self, parameters: Sequence[Any]) -> SetParametersResult:
        try:
            changes = {p.name: self._checked(p) for p in parameters if p.name in self._settings}
            if changes:
                with self._lock:
                    self._value = dataclasses.replace(self._value, **changes)  # type: ignore[type-var]
        except SettingError as error:
            self._node.get_logger().warning(f"parameter refused: {error}")
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _checked(self, parameter: Any) -> Value:
        about = self._settings[parameter.name]
        value = about.check(parameter.name, self._kinds[parameter.name], parameter.value)
        held = getattr(self.value, parameter.name)
        if about.change == CONFIGURE and self.configured and value != held:
            raise SettingError(
                f"{parameter.name} requires reconfigure: deactivate and clean up the node first"
            )
        return value
