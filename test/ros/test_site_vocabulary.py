# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A site's vocabulary on a real node: at the start, while it runs, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.ros_graph import Graph, wait_until
from support.site_vocabularies import LABELS, write_site_vocabulary

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.msg import EmbeddingInfo
from vlm_perception.nodes.io.qos import latched
from vlm_perception.srv import LoadVocabulary, SetVocabulary


def test_a_node_takes_vocabulary_files_and_keeps_what_it_has_when_one_is_bad(
    graph: Graph, tmp_path: Path
) -> None:
    bundle = ModelBundle.load("roadworld-nano")
    first = write_site_vocabulary(tmp_path / "site.vocabulary", bundle)
    second = write_site_vocabulary(tmp_path / "other.vocabulary", bundle, LABELS[:1])
    info = graph.listen(EmbeddingInfo, "embedding_info", latched())
    node = graph.start("vision_encoder", vocabulary=first)

    def load(file: Path) -> Any:
        sent = LoadVocabulary.Request(file=str(file))
        return graph.call(LoadVocabulary, "/vision_encoder/load_vocabulary", sent)

    told = info.wait(lambda message: message.vocabulary_version == 1)
    assert list(told.vocabulary) == ["my loading bay", "car"], node.log()
    taken = load(second)
    assert taken.accepted and taken.vocabulary_version == 2, taken.message
    told = info.wait(lambda message: message.vocabulary_version == 2)
    assert list(told.vocabulary) == ["my loading bay"] and abs(told.thresholds[0] - 0.2) < 1e-6
    second.write_text(second.read_text().replace("loading", "leading"))
    for file, reason in [
        (second, "edited or damaged"),
        (Path("/nope"), "there is no vocabulary /nope"),
    ]:
        refused = load(file)
        assert not refused.accepted and reason in refused.message
        assert refused.vocabulary_version == 2
    own = SetVocabulary.Request()
    restored = graph.call(SetVocabulary, "/vision_encoder/set_vocabulary", own)
    assert restored.vocabulary_version == 3
    told = info.wait(lambda message: message.vocabulary_version == 3)
    assert list(told.vocabulary) == list(bundle.manifest.vocabulary.names)
    for label in ("deactivate", "cleanup"):
        assert graph.transition("vision_encoder", label)
    assert graph.set_parameter("vision_encoder", "vocabulary", str(second)).successful
    before = node.log()
    assert not graph.transition("vision_encoder", "configure")
    wait_until("the reason", lambda: "edited or damaged" in node.log()[len(before) :])
