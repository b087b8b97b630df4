# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A site's own vocabulary from a file: taken as it is, or refused while the old one stays."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.site_vocabularies import LABELS, write_site_vocabulary

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import manifest_digest
from vlm_perception.bundle.site_vocabulary import SiteVocabularyError, read_site_vocabulary
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.load("roadworld-nano")


@pytest.fixture
def file(bundle: ModelBundle, tmp_path: Path) -> Path:
    return write_site_vocabulary(tmp_path / "site.vocabulary", bundle)


def test_a_vocabulary_is_taken_as_the_file_has_it(bundle: ModelBundle, file: Path) -> None:
    began = VisionEncoder(bundle, vocabulary=file).vocabulary
    assert began.version == 1
    running = VisionEncoder(bundle)
    own = running.vocabulary
    image = np.random.default_rng(1).integers(0, 256, (72, 128, 3), np.uint8)
    assert running.read_vocabulary(file) == 2
    embedding = running.encode(Frame(image, stamp_ns=1), 0)
    assert embedding.vocabulary_version == 2
    site, rows = running.vocabulary, read_site_vocabulary(file, bundle).rows
    assert site.labels == began.labels == tuple(each.label for each in LABELS)
    assert site.embeddings.tobytes() == rows.tobytes() == began.embeddings.tobytes()
    text, defaults = bundle.manifest.text, bundle.manifest.vocabulary
    logits = text.logit_scale * rows @ embedding.pooled + text.logit_bias + [2.0, 0.0]
    scores = running.scores(embedding.pooled)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-4)
    assert site.thresholds.tolist() == pytest.approx([0.2, defaults.threshold])
    assert site.region_thresholds.tolist() == pytest.approx([0.3, defaults.region_threshold])
    # A label that the bundle knows has the bundle's own embedding again when it is set by name.
    running.set_vocabulary(["car"])
    assert (running.vocabulary.embeddings[0] == own.embeddings[own.labels.index("car")]).all()


def of_digest(content: dict[str, Any]) -> None:
    content["digest"] = manifest_digest(content)


def of_another_bundle(content: dict[str, Any]) -> None:
    content["bundle"] = {"name": "street", "digest": "0" * 64}
    of_digest(content)


def too_long(content: dict[str, Any]) -> None:
    rows = np.frombuffer(base64.b64decode(content["embeddings"]), "<f4")
    content["embeddings"] = base64.b64encode((2 * rows).tobytes()).decode()
    of_digest(content)


def cut(content: dict[str, Any]) -> None:
    content["embeddings"] = content["embeddings"][:-8]
    of_digest(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["labels"][0].update(threshold=0.9), "it was edited or damaged"),
        (of_another_bundle, r"made for bundle street \(0{12}\.\.\.\), and this is roadworld-nano"),
        (too_long, "not of length 1"),
        (cut, "the embeddings are (no base64|not 2 of)"),
        (lambda c: c.update(labels=[]), "labels: Tuple should have at least 1"),
        (lambda c: c.update(pickle="x"), "pickle: Extra inputs"),
    ],
)
def test_what_cannot_be_used_is_refused_and_the_old_labels_stay(
    bundle: ModelBundle, file: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    encoder = VisionEncoder(bundle)
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(SiteVocabularyError, match=f"{message}.*adapt classes"):
        encoder.read_vocabulary(file)
    assert encoder.vocabulary.version == 1 and len(encoder.vocabulary.labels) > 2
    assert encoder.read_vocabulary(write_site_vocabulary(file, bundle)) == 2


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04", b"[" * 100_000, b"\xff{}"])
def test_a_file_that_is_none_is_refused(bundle: ModelBundle, file: Path, content: bytes) -> None:
    file.unlink()
    if content is None:
        file.mkdir()
    elif content:
        file.write_bytes(content)
    with pytest.raises(SiteVocabularyError, match=r"there is no|cannot be (used|read)"):
        read_site_vocabulary(file, bundle)
