# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint becomes a whole bundle, or none and a sentence that says why."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from support.checkpoints import make_checkpoint, write_spec

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.export import write_bundle
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.onnx import writer
from vlm_perception.outputs.mark import OutputError
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame


def test_other_batches_and_lengths_of_the_decoder_agree(siglip_bundle: ModelBundle) -> None:
    """A batch gives what each of its rows gives alone, token by token as at once."""
    spec = siglip_bundle.manifest.language
    assert spec is not None
    engine = siglip_bundle.engine("decoder.onnx")
    embeds = np.random.default_rng(0).normal(size=(3, 4, spec.width)).astype(np.float32)

    def run(rows: NDArray[np.float32], past: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        batch, new, seen = rows.shape[0], rows.shape[1], past.shape[4]
        mask = np.triu(np.full((new, seen + new), -1e9, np.float32), seen + 1)
        return engine.run(
            {
                "inputs_embeds": rows,
                "past": past,
                "position_ids": np.tile(np.arange(seen, seen + new), (batch, 1)),
                "mask": np.tile(mask, (batch, 1, 1, 1)),
                "logit_rows": np.array([new - 1]),
            }
        )

    empty = np.zeros((spec.layers, 2, 3, spec.kv_heads, 0, spec.head_dim), np.float32)
    whole = run(embeds, empty)["logits"]
    for row in range(3):
        past = empty[:, :, :1]
        for step in range(4):
            outputs = run(embeds[row : row + 1, step : step + 1], past)
            past = np.concatenate([past, outputs["new_kv"]], axis=4)
        np.testing.assert_allclose(outputs["logits"][0], whole[row], atol=1e-4)


def test_same_checkpoint_gives_the_same_bundle(
    siglip_checkpoint: Path,
    siglip_bundle: ModelBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where no graph is taken over from another export of this run."""
    monkeypatch.setattr(write_bundle, "write_graph", writer.write_graph)
    again = export_bundle(siglip_checkpoint, tmp_path / "again")
    assert again.digest == siglip_bundle.digest


def test_dual_alone_makes_a_bundle_without_language(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "dual-only", language=None)
    bundle = export_bundle(checkpoint, tmp_path / "bundle")
    assert bundle.manifest.language is None
    assert bundle.graphs() == ("text.onnx", "vision.onnx")
    encoder = VisionEncoder(bundle)
    encoder.warm_up()
    frame = Frame(image=np.zeros((36, 64, 3), np.uint8), stamp_ns=1)
    assert encoder.encode(frame, 0).tokens.shape == (144, 48)


def test_weights_are_stored_in_half(siglip_bundle: ModelBundle) -> None:
    for graph in siglip_bundle.graphs():
        weights = onnx.load(siglip_bundle.file(graph)).graph.initializer
        assert any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in weights)
        whole = [weight for weight in weights if weight.data_type == onnx.TensorProto.FLOAT]
        assert all(np.prod(weight.dims) < 256 for weight in whole)


def test_a_key_that_is_missing_or_foreign_is_an_error(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "broken")
    file = checkpoint / "dual" / "model.safetensors"
    weights = load_file(file)
    lost = weights.pop("vision_model.post_layernorm.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"missing keys .*post_layernorm"):
        export_bundle(checkpoint, tmp_path / "out")
    named = weights | {"vision_model.post_layernorm.weight": lost}
    save_file(named | {"foreign.weight": lost.clone()}, file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"unexpected keys foreign\.weight"):
        export_bundle(checkpoint, tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))
    assert not (tmp_path / "out").exists()


def test_two_different_towers_need_a_choice(siglip_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "two-towers")
    file = checkpoint / "vlm" / "model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if key.endswith("vision_tower.post_layernorm.weight"))
    weights[name] += 0.5
    save_file(weights, file, metadata={"format": "pt"})
    write_spec(checkpoint, vision_tower="same")
    with pytest.raises(ExportError, match=r"vision_tower: own .* to keep both, or dual or vlm to"):
        export_bundle(checkpoint, tmp_path / "out")
    write_spec(checkpoint, vision_tower="vlm")
    bundle = export_bundle(checkpoint, tmp_path / "out")
    assert bundle.manifest.language is not None


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "dual" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def other_family(checkpoint: Path) -> None:
    (checkpoint / "dual" / "config.json").write_text(json.dumps({"model_type": "bert"}))


def add_token(checkpoint: Path) -> None:
    file = checkpoint / "vlm" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["extra"] = 1 + max(
        *vocabulary.values(), *(token["id"] for token in content["added_tokens"])
    )
    file.write_text(json.dumps(content))


def drop_vlm(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "vlm")
    write_spec(checkpoint, vision_tower="vlm")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "cannot be loaded"),
        (other_family, r"bert model, and dual takes .* \(clip, metaclip_2, siglip"),
        (lambda c: (c / "dual" / "config.json").unlink(), "config.json is missing"),
        (lambda c: (c / "dual" / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda c: (c / "dual" / "tokenizer.json").unlink(), "no tokenizer.json"),
        (add_token, r"\d+ tokens but the model knows \d+"),
        (drop_vlm, "contains no vlm/"),
        (lambda c: (c / "dual" / "preprocessor_config.json").unlink(), "image_mean"),
        (lambda c: (c / "bundle.yaml").unlink(), "no bundle.yaml"),
        (lambda c: write_spec(c, licences={}), "licences"),
        (lambda c: write_spec(c, colour="red"), "colour"),
        (lambda c: write_spec(c, geometry={"width": 65, "height": 36}), "nearest is 64x36"),
        (lambda c: write_spec(c, model_card="NONE.md"), "model card NONE.md"),
    ],
)
def test_a_broken_checkpoint_gets_a_sentence_and_no_bundle(
    siglip_checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "broken")
    damage(checkpoint)
    with pytest.raises(ExportError, match=message):
        export_bundle(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_checkpoint_in_the_wrong_place_is_told_where_it_belongs(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"is a checkpoint itself; put it .* as dual/"):
        export_bundle(siglip_checkpoint / "dual", tmp_path / "out")


def test_a_processor_that_does_not_fit_the_tower_is_refused_before_any_work(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "misfit")
    file = checkpoint / "dual" / "preprocessor_config.json"
    settings = json.loads(file.read_text()) | {"size": {"height": 224, "width": 224}}
    file.write_text(json.dumps(settings))
    with pytest.raises(ExportError, match="outputs 224x224 pixels, but the tower takes 48x48"):
        export_bundle(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["misfit"]


def test_a_folder_that_is_no_bundle_is_left_alone(siglip_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    with pytest.raises(ExportError, match="is not a bundle"):
        export_bundle(siglip_checkpoint, tmp_path / "photos")
    assert (tmp_path / "photos" / "mine.jpg").is_file()
    (tmp_path / "photos" / "manifest.yaml").write_text("files: {}")
    with pytest.raises(ExportError, match=r"mine.jpg is not part of the bundle"):
        export_bundle(siglip_checkpoint, tmp_path / "photos")
    with pytest.raises(OutputError, match="which is the input"):
        export_bundle(siglip_checkpoint, siglip_checkpoint / "dual")
    assert (tmp_path / "photos" / "mine.jpg").is_file()


def test_what_a_killed_export_leaves_is_removed_by_the_next(
    siglip_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only that: a folder of the same kind without the mark of such a run is somebody's."""
    out, left = tmp_path / "made", tmp_path / ".made.unfinished"
    foreign = tmp_path / ".other.unfinished"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="was not made by this program"):
        export_bundle(siglip_checkpoint, tmp_path / "other")
    program = shutil.which("vlm-perception", path=str(Path(sys.executable).parent))
    assert program is not None
    command = [program, "export", str(siglip_checkpoint), "--out", str(out)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        while not (left / "bundle" / "text.onnx").exists():
            assert process.poll() is None, "the export ended before it was killed"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert left.is_dir() and not out.exists()
    export_bundle(siglip_checkpoint, out)
    assert f"removed {left}, left by an interrupted run" in caplog.text
    assert ModelBundle.load(out).path == out
    assert sorted(each.name for each in tmp_path.iterdir()) == [foreign.name, out.name]
    assert (foreign / "mine.txt").is_file()
