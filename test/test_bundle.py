# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle is whole and unaltered, or it is refused with a sentence that helps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from vlm_perception.bundle import BundleError, ModelBundle
from vlm_perception.engines.base import EngineError
from vlm_perception.manifest import manifest_digest


@pytest.fixture
def copy(siglip_bundle: ModelBundle, tmp_path: Path) -> Path:
    return shutil.copytree(siglip_bundle.path, tmp_path / "copied")


def test_a_name_is_found_where_the_variable_points(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_PERCEPTION_BUNDLES", f"/nowhere:{copy.parent}")
    assert ModelBundle.load("copied").path == copy.resolve()


def test_an_unknown_name_says_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_PERCEPTION_BUNDLES", "/my/bundles")
    with pytest.raises(BundleError, match=r"no bundle 'nonesuch'.*/my/bundles"):
        ModelBundle.load("nonesuch")


def edit(path: Path, change: Callable[[dict[str, object]], object], *, sign: bool) -> None:
    content = yaml.safe_load((path / "manifest.yaml").read_text())
    change(content)
    if sign:
        content["digest"] = manifest_digest(content)
    (path / "manifest.yaml").write_text(yaml.safe_dump(content))


def truncate(path: Path) -> None:
    file = path / "vision.onnx"
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray((path / "decoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "decoder.onnx").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "text.onnx").unlink(), r"text\.onnx is missing"),
        (truncate, r"vision\.onnx has \d+ bytes instead of"),
        (flip_a_bit, r"decoder\.onnx was altered"),
        (lambda p: (p / "manifest.yaml").unlink(), "holds no manifest"),
        (lambda p: (p / "manifest.yaml").write_text("{"), "cannot be read"),
        (lambda p: (p / "manifest.yaml").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (lambda p: (p / "manifest.yaml").write_text("[]"), "no valid manifest"),
        (lambda p: edit(p, lambda c: c.update(name="other"), sign=False), "own digest"),
        (lambda p: edit(p, lambda c: c.update(extra=1), sign=True), "extra"),
        (lambda p: edit(p, lambda c: c.pop("image"), sign=True), "image: Field required"),
        (lambda p: edit(p, lambda c: c["image"].update(width="64"), sign=True), r"image\.width"),
        (lambda p: edit(p, lambda c: c["image"].update(width=65), sign=True), "does not cover"),
        (lambda p: edit(p, lambda c: c.update(format_version=2), sign=True), "format_version"),
    ],
)
def test_a_damaged_bundle_is_refused(
    copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy)
    with pytest.raises(BundleError, match=message):
        ModelBundle.load(copy)


def test_an_engine_that_computes_something_else_is_found_out(siglip_bundle: ModelBundle) -> None:
    assert max(siglip_bundle.verify_golden().values()) < 1e-3

    class Off:
        """The text tower, a little off."""

        def __init__(self) -> None:
            self._true = siglip_bundle.engine("text.onnx")
            self.name, self.inputs, self.outputs = "off", self._true.inputs, self._true.outputs

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: value + 0.01 for name, value in self._true.run(inputs).items()}

    with pytest.raises(BundleError, match=r"off gives another embedding of text\.onnx"):
        siglip_bundle.verify_golden({"text.onnx": Off()})


def test_an_engine_says_what_it_expected_and_what_came(siglip_bundle: ModelBundle) -> None:
    engine = siglip_bundle.engine("vision.onnx")
    with pytest.raises(
        EngineError, match=r"uint8 \[1, 36, 64, 3\] and is float32 \[1, 36, 64, 3\]"
    ):
        engine.run({"image": np.zeros((1, 36, 64, 3), np.float32)})
    with pytest.raises(EngineError, match=r"takes \['image'\] and was given \['picture'\]"):
        engine.run({"picture": np.zeros((1, 36, 64, 3), np.uint8)})
    with pytest.raises(EngineError, match="at least one thread"):
        siglip_bundle.engine("vision.onnx", threads=0)
