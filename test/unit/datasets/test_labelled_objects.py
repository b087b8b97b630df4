# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Objects of images are read as they are meant, and each fault is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_perception.datasets.labelled_objects import ObjectsError, read_objects


def test_objects_are_read_and_each_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "objects.jsonl"
    file.write_text(
        '{"image": "b/1.jpg", "objects": ["Traffic  light", "bus", "bus"], "image_id": 7}\r\n'
        "\n"
        '{"image": "a.jpg", "objects": ["traffic light", "BUS"]}\n'
        '{"image": "c.jpg", "objects": []}',
        encoding="utf-8",
    )
    assert read_objects(file) == [
        ("b/1.jpg", ("Traffic light", "bus")),
        ("a.jpg", ("Traffic light", "bus")),
        ("c.jpg", ()),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no image"),
        ('{"image": "a.jpg", "objects": "bus"}', "line 1 .*must be a list"),
        ('{"image": "a.jpg"}', "must be a list"),
        ('{"image": 3, "objects": []}', "must be a name"),
        ('{"image": "a.jpg", "objects": ["bus", " "]}', "each of `objects`"),
        ('{"image": "a.jpg", "objects": ["\\ud800"]}', "line 1"),
        (
            '{"image": "a.jpg", "objects": []}\n{"image": "./a.jpg", "objects": []}',
            "line 2.*before",
        ),
        ('[{"image": "a.jpg"}]', "no JSON object"),
    ],
)
def test_faults_are_told_with_their_lines(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "objects.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ObjectsError, match=told):
        read_objects(file)
