# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Labels that the export has embedded need no text tower; others get one in a process apart."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.edited_bundle import edited

from vlm_perception.bundle.bundle import TEXT_GRAPH, BundleError, ModelBundle
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.perception.vision.text_process import embed_apart
from vlm_perception.perception.vision.text_tower import TextTower
from vlm_perception.perception.vision.vocabulary import VocabularyBuilder, VocabularyError
from vlm_perception.types import Frame

STORED = "label_embeddings.npy"
NEW = ["car", "a dragon", "bus"]


@pytest.fixture
def copy(siglip_bundle: ModelBundle, tmp_path: Path) -> Path:
    return shutil.copytree(siglip_bundle.path, tmp_path / "copied")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that this process loads, in their order."""
    graphs: list[str] = []
    load = ModelBundle.engine

    def engine(self: ModelBundle, graph: str, **options: Any) -> Any:
        graphs.append(graph)
        return load(self, graph, **options)

    monkeypatch.setattr(ModelBundle, "engine", engine)
    return graphs


def frame() -> Frame:
    image = np.random.default_rng(0).integers(0, 256, (72, 128, 3), np.uint8)
    return Frame(image=image, stamp_ns=1_000, frame_id="camera")


def test_an_encoder_leaves_the_text_tower_on_the_disk(
    siglip_bundle: ModelBundle, loaded: list[str]
) -> None:
    encoder = VisionEncoder(siglip_bundle)
    encoder.warm_up()
    known = [spec.label for spec in siglip_bundle.manifest.vocabulary.labels]
    assert encoder.set_vocabulary(known[:2]) == 2
    assert TEXT_GRAPH not in loaded


def test_a_bundle_without_stored_embeddings_gives_the_same_tags(
    siglip_bundle: ModelBundle, copy: Path, loaded: list[str]
) -> None:
    old = edited(copy, lambda content: content.pop("label_embeddings"))
    stored, computed = VisionEncoder(siglip_bundle), VisionEncoder(old)
    assert loaded.count(TEXT_GRAPH) == 1
    assert stored.vocabulary.embeddings.tobytes() == computed.vocabulary.embeddings.tobytes()
    assert stored.encode(frame(), 0).tags == computed.encode(frame(), 0).tags
    computed.set_vocabulary(NEW)
    assert loaded.count(TEXT_GRAPH) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["vocabulary"].update(templates=["the {label}"]),
        lambda content: content["vocabulary"]["labels"][0].update(label="tram"),
        lambda content: content["vocabulary"]["labels"].pop(),
        lambda content: content["text"].update(pad_token_id=1),
    ],
)
def test_embeddings_of_another_vocabulary_are_not_used(
    copy: Path,
    loaded: list[str],
    caplog: pytest.LogCaptureFixture,
    change: Callable[[dict[str, Any]], object],
) -> None:
    bundle = edited(copy, change)
    vocabulary = VocabularyBuilder(bundle).build(None, version=1)
    assert TEXT_GRAPH in loaded and "made for other labels" in caplog.text
    assert vocabulary.labels == tuple(each.label for each in bundle.manifest.vocabulary.labels)


def test_thresholds_may_change_without_a_new_embedding(copy: Path, loaded: list[str]) -> None:
    changed = edited(copy, lambda content: content["vocabulary"]["labels"][0].update(threshold=0.1))
    assert VisionEncoder(changed).vocabulary.thresholds[0] == np.float32(0.1)
    assert TEXT_GRAPH not in loaded


@pytest.mark.parametrize(
    "rows", [np.zeros((4, 3), np.float32), np.zeros(4), np.full((4, 48), np.nan, np.float32)]
)
def test_a_file_that_holds_something_else_is_refused(copy: Path, rows: Any) -> None:
    np.save(copy / STORED, rows)
    with pytest.raises(BundleError, match=rf"{STORED} does not hold .*Export the bundle again"):
        VisionEncoder(edited(copy, lambda _: None))


def test_new_labels_are_embedded_while_images_are(
    siglip_bundle: ModelBundle, loaded: list[str]
) -> None:
    encoder = VisionEncoder(siglip_bundle)
    setting = threading.Thread(target=encoder.set_vocabulary, args=(NEW,))
    setting.start()
    versions = []
    while setting.is_alive():
        versions.append(encoder.encode(frame(), len(versions)).vocabulary_version)
    assert versions.count(1) > 3 and versions == sorted(versions)
    assert encoder.encode(frame(), len(versions)).vocabulary_version == 2
    assert TEXT_GRAPH not in loaded
    templates = siglip_bundle.manifest.vocabulary.templates
    prompts = {label: [each.replace("{label}", label) for each in templates] for label in NEW}
    here = TextTower.load(siglip_bundle).embed(prompts)
    assert encoder.vocabulary.embeddings.tobytes() == here.tobytes()


def test_labels_of_the_newest_vocabulary_are_not_embedded_again(copy: Path) -> None:
    builder = VocabularyBuilder(ModelBundle.load(copy))
    first = builder.build(NEW, version=1)
    (copy / TEXT_GRAPH).unlink()
    again = builder.build(NEW[::-1], version=2)
    assert again.embeddings.tobytes() == first.embeddings[::-1].tobytes()
    builder.build(None, version=3)
    with pytest.raises(VocabularyError):
        builder.build(NEW, version=4)


def test_a_text_tower_that_does_not_load_is_told_and_the_old_labels_stay(copy: Path) -> None:
    encoder = VisionEncoder(ModelBundle.load(copy))
    graph = copy / TEXT_GRAPH
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(VocabularyError, match=r"text\.onnx .*(changed|load)"):
        encoder.set_vocabulary(NEW)
    assert encoder.vocabulary.version == encoder.encode(frame(), 0).vocabulary_version == 1
    assert encoder.set_vocabulary(["truck"]) == 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("bash", "-c", "kill -9 $$"), "SIGKILL.*memory is full"),
        (("bash", "-c", "echo Segfault >&2; exit 3"), r"exit code 3 \(Segfault\)"),
        (("/nowhere",), "no process can be started"),
    ],
)
def test_a_process_that_ends_early_is_told(
    siglip_bundle: ModelBundle, command: tuple[str, ...], message: str
) -> None:
    with pytest.raises(VocabularyError, match=message):
        embed_apart(siglip_bundle, {"car": ["a car"]}, command)
