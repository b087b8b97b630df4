# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The package's own parameters, without what means nothing to a bundle.

config/perception.yaml names labels and questions of the bundle that comes with the package. Of
another bundle some are unknown: a hazard that has no tag, a question that is never asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlm_perception.bundle.manifest import Manifest
from vlm_perception.common.share import share_folder
from vlm_perception.common.yaml_files import read_yaml
from vlm_perception.perception.fusion.rules import Answer, Contradiction, Hazard

PARAMETERS = "ros__parameters"


def fitting_parameters(manifest: Manifest, bundle: str) -> dict[str, Any]:
    """The content of a parameter file for a bundle.

    Args:
        manifest: of the bundle.
        bundle: its name or directory, as the nodes are to find it.
    """
    content: dict[str, Any] = read_yaml(share_folder() / "config" / "perception.yaml")
    rules = _Rules(manifest)
    fits: dict[str, Callable[[str], str | None]] = {
        "hazards": rules.hazard,
        "contradictions": rules.contradiction,
        "keep_questions": rules.question,
    }
    for section in content.values():
        parameters = section[PARAMETERS]
        if "bundle" in parameters:
            parameters["bundle"] = bundle
        for name in fits.keys() & parameters.keys():
            lines = [line for each in parameters.pop(name) if (line := fits[name](each))]
            # ROS reads no empty list; without one the parameter is empty.
            if lines:
                parameters[name] = lines
    return content


class _Rules:
    """What is left of a rule with the labels and the questions of a bundle; None: nothing."""

    def __init__(self, manifest: Manifest) -> None:
        self._labels = {spec.label for spec in manifest.vocabulary.labels}
        self._choices = {each.name: each.choices for each in manifest.questions}

    def hazard(self, line: str) -> str | None:
        rule = Hazard.parse(line)
        if rule.answer is not None and self._can_come(rule.answer):
            return line
        return rule.label if rule.label in self._labels else None

    def contradiction(self, line: str) -> str | None:
        rule = Contradiction.parse(line)
        return line if rule.label in self._labels and self._can_come(rule.answer) else None

    def question(self, name: str) -> str | None:
        return name if name in self._choices else None

    def _can_come(self, answer: Answer) -> bool:
        return answer.value in self._choices.get(answer.attribute, ())
