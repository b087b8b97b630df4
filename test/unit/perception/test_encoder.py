# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The vision encoder: tags, regions and vocabularies on a random bundle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.preprocess import place
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.perception.vision.regions import find_regions
from vlm_perception.perception.vision.vocabulary import Vocabulary, VocabularyError
from vlm_perception.types import FUSED_TOKEN, Frame

LABELS = ["car", "truck", "pedestrian", "red traffic light"]
"""What the random checkpoints are given as vocabulary."""


def frame(seed: int = 0) -> Frame:
    image = np.random.default_rng(seed).integers(0, 256, (72, 128, 3), np.uint8)
    return Frame(image=image, stamp_ns=1_000 + seed, frame_id="camera")


def test_an_embedding_is_complete(siglip_bundle: ModelBundle) -> None:
    encoder = VisionEncoder(siglip_bundle, run_id="run")
    encoder.warm_up()
    embedding = encoder.encode(frame(), sequence=7)
    assert (embedding.stamp_ns, embedding.frame_id, embedding.sequence) == (1_000, "camera", 7)
    assert embedding.bundle_digest == siglip_bundle.digest
    assert embedding.image_size == (128, 72)
    assert embedding.grid_size == (16, 9)
    assert embedding.tokens.shape == (144, 48)
    assert embedding.tokens.dtype == np.float16
    assert embedding.token_index.tolist() == list(range(144))
    assert np.linalg.norm(embedding.pooled) == pytest.approx(1.0, abs=1e-5)
    assert embedding.stages["total"] >= embedding.stages["vision"] > 0


def test_the_slash_that_tf2_refuses_is_left_out(siglip_bundle: ModelBundle) -> None:
    old = replace(frame(), frame_id="/camera_link")
    assert VisionEncoder(siglip_bundle).encode(old, 0).frame_id == "camera_link"


def test_the_same_frame_gives_the_same_bytes(siglip_bundle: ModelBundle) -> None:
    encoder = VisionEncoder(siglip_bundle)
    first = encoder.encode(frame(1), 0)
    kept = first.pooled.tobytes(), first.tokens.tobytes(), first.tags, first.regions
    encoder.encode(frame(2), 1)
    again = encoder.encode(frame(1), 2)
    assert (again.pooled.tobytes(), again.tokens.tobytes(), again.tags, again.regions) == kept
    assert first.pooled.tobytes() == kept[0]


def test_tags_follow_the_checkpoints_formula(siglip_bundle: ModelBundle) -> None:
    """SigLIP: sigmoid(scale * cosine + bias), with the mean of a label's prompts."""
    encoder = VisionEncoder(siglip_bundle)
    embedding = encoder.encode(frame(), 0)
    text = siglip_bundle.manifest.text
    logits = text.logit_scale * encoder.vocabulary.embeddings @ embedding.pooled + text.logit_bias
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(encoder.scores(embedding.pooled), expected, atol=1e-6)
    assert {tag.label for tag in embedding.tags} == {
        label for label, score in zip(LABELS, expected, strict=True) if score >= 0.4
    }
    scores = [tag.score for tag in embedding.tags]
    assert scores == sorted(scores, reverse=True)


def test_clip_labels_share_one_probability(clip_bundle: ModelBundle) -> None:
    encoder = VisionEncoder(clip_bundle)
    assert encoder.scores(encoder.encode(frame(), 0).pooled).sum() == pytest.approx(1.0, abs=1e-5)


def test_a_new_vocabulary_takes_effect_on_the_next_frame(siglip_bundle: ModelBundle) -> None:
    encoder = VisionEncoder(siglip_bundle)
    old = encoder.vocabulary
    assert encoder.encode(frame(), 0).vocabulary_version == old.version
    assert encoder.set_vocabulary(["car", "dragon"]) == old.version + 1
    embedding = encoder.encode(frame(), 1)
    assert embedding.vocabulary_version == old.version + 1
    assert encoder.vocabulary.labels == ("car", "dragon")
    # A label that the bundle knows keeps its own prompts.
    np.testing.assert_array_equal(encoder.vocabulary.embeddings[0], old.embeddings[0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "at least one"),
        (["car", " "], "empty"),
        (["car", "car"], "twice"),
        (["x" * 1000], "1000 characters"),
        (["word " * 39], "text tower takes 24"),
        ([f"label {i}" for i in range(10_000)], "too many"),
        (["\udcff"], "UTF-8"),
    ],
)
def test_an_impossible_vocabulary_is_refused_and_the_old_one_stays(
    siglip_bundle: ModelBundle, labels: list[str], message: str
) -> None:
    encoder = VisionEncoder(siglip_bundle)
    with pytest.raises(VocabularyError, match=message):
        encoder.set_vocabulary(labels)
    assert encoder.vocabulary.version == 1
    assert encoder.vocabulary.labels == tuple(LABELS)


def two_labels() -> Vocabulary:
    return Vocabulary(
        version=1,
        labels=("car", "truck"),
        embeddings=np.eye(2, dtype=np.float32),
        thresholds=np.full(2, 0.5, np.float32),
        region_thresholds=np.full(2, 0.5, np.float32),
        scales=np.full(2, 10.0, np.float32),
        biases=np.full(2, -5.0, np.float32),
        exclusive=False,
    )


def test_regions_are_boxes_of_neighbouring_patches(siglip_bundle: ModelBundle) -> None:
    spec = siglip_bundle.manifest.image
    vocabulary = two_labels()
    patches = np.zeros((9, 16, 2), np.float32)
    patches[2:4, 3:6, 0] = 1.0
    patches[3, 4, 0] = 1.2
    patches[8, 15, 0] = 0.6
    patches[5, 5, 1] = 1.0
    # A camera image four times as large as the graph's, in pixels of 16 a patch.
    placement = place((256, 144), (spec.width, spec.height))
    everywhere = np.arange(9 * 16, dtype=np.uint16)
    found = find_regions(patches.reshape(-1, 2), everywhere, [0], vocabulary, spec, placement)
    boxes = [(region.label, region.x, region.y, region.width, region.height) for region in found]
    assert boxes == [("car", 48, 32, 48, 32), ("car", 240, 128, 16, 16)]
    assert found[0].score > found[1].score > 0.5
    both = find_regions(patches.reshape(-1, 2), everywhere, [1, 0], vocabulary, spec, placement)
    assert [region.label for region in both] == ["truck", "car", "car"], "in the order of the tags"
    assert not find_regions(patches.reshape(-1, 2), everywhere, [], vocabulary, spec, placement)
    stricter = replace(vocabulary, region_thresholds=np.full(2, 1.0, np.float32))
    assert not find_regions(patches.reshape(-1, 2), everywhere, [0], stricter, spec, placement)
    patches[:] = 0.0
    patches[::2, ::2, 0] = cosines = np.linspace(0.6, 1.0, 40, dtype=np.float32).reshape(5, 8)
    many = find_regions(patches.reshape(-1, 2), everywhere, [0], vocabulary, spec, placement)
    likeliest = 1 / (1 + np.exp(5 - 10 * np.sort(cosines.ravel())[:-9:-1]))
    np.testing.assert_allclose([region.score for region in many], likeliest, atol=1e-6)


def test_regions_of_a_pruned_image_stand_where_their_patches_do(
    siglip_bundle: ModelBundle,
) -> None:
    """A dropped patch parts what lies on both sides; the fused token is nowhere."""
    spec = siglip_bundle.manifest.image
    placement = place((256, 144), (spec.width, spec.height))
    patches = np.tile(np.array([[1.0, 0.0]], np.float32), (5, 1))
    index = np.array([16, 17, 19, 143, FUSED_TOKEN], np.uint16)
    found = find_regions(patches, index, [0], two_labels(), spec, placement)
    boxes = [(region.x, region.y, region.width, region.height) for region in found]
    assert boxes == [(0, 16, 32, 16), (48, 16, 16, 16), (240, 128, 16, 16)]
    lax = replace(two_labels(), region_thresholds=np.zeros(2, np.float32))
    assert len(find_regions(patches, index, [1], lax, spec, placement)) == 3
