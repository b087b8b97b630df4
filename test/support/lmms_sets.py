# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Small sets with the columns of MMBench, RealWorldQA and MMMU, and lmms-eval's tasks for them.

Run by a Python that has lmms-eval: `python lmms_sets.py FOLDER`. A task is lmms-eval's own, with
`dataset_path` replaced.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROWS = 12
SIDE = 48
"""Pixels of RealWorldQA's images, the size of the towers of the small checkpoints."""
TWO_IMAGES = (3, 8)
"""Rows of MMMU that have two images."""
INTERRUPTED_AT = 20
"""At which row of all sets the first run of the tests is interrupted."""
MMBENCH, REALWORLDQA, MMMU, JUDGED, HUB = "mmbench", "realworldqa", "mmmu", "judged", "hub"
TASKS = {
    MMBENCH: "mmbench/mmbench_en_dev_static.yaml",
    REALWORLDQA: "realworldqa/realworldqa.yaml",
    MMMU: "mmmu/mmmu_val.yaml",
    JUDGED: "mmbench/mmbench_en_dev.yaml",
    HUB: "realworldqa/realworldqa.yaml",
}
"""By the name here: the file of lmms-eval's task."""
ON_HUB = "maker/realworldqa"
"""Where the task `hub` looks for RealWorldQA's rows."""
README = """---
configs:
- config_name: {config}
  data_files:
  - split: {split}
    path: {split}-*
---
"""


def picture(number: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """A few coloured areas."""
    colours = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BILINEAR)


def mmbench_rows() -> list[dict[str, Any]]:
    """Rows with MMBench's columns; images of several sizes."""
    return [
        {
            "index": number,
            "question": f"what is the weather in picture {number}",
            "hint": "nan" if number % 2 else "it is night",
            "answer": "ABCD"[number % 4],
            "A": "clear",
            "B": "rain",
            "C": "fog",
            "D": "nan" if number % 3 else "snow",
            "category": "image_scene",
            "image": picture(number, 40 + 8 * number, 60),
            "source": "made",
            "L2-category": "coarse_perception",
            "comment": "nan",
            "split": "dev",
        }
        for number in range(ROWS)
    ]


def realworldqa_rows() -> list[dict[str, Any]]:
    """Rows with RealWorldQA's columns; images of the towers' size."""
    return [
        {
            "image": picture(100 + number),
            "image_path": f"{number}.webp",
            "question": f"is there a car left of the truck {number}? A. yes B. no",
            "answer": "AB"[number % 2],
        }
        for number in range(ROWS)
    ]


def mmmu_rows() -> list[dict[str, Any]]:
    """Rows with MMMU's columns; some have two images, some have text before the image."""
    rows = []
    for number in range(ROWS):
        images = 2 if number in TWO_IMAGES else 1
        row: dict[str, Any] = {f"image_{place}": None for place in range(1, 8)}
        for place in range(1, images + 1):
            row[f"image_{place}"] = picture(200 + 10 * number + place, 64, 36)
        places = " ".join(f"<image {place}>" for place in range(1, images + 1))
        open_ended = number % 4 == 1
        question = "what is the state of the traffic light"
        rows.append(
            {
                "id": f"validation_Physics_{number + 1}",
                "question": f"{places} {question}" if number % 2 else f"{question} {places}",
                "options": "[]" if open_ended else "['red', 'yellow', 'green', 'none']",
                "explanation": "",
                **row,
                "img_type": "['Photographs']",
                "answer": "red" if open_ended else "ABCD"[number % 4],
                "topic_difficulty": "Easy",
                "question_type": "open" if open_ended else "multiple-choice",
                "subfield": "made",
            }
        )
    return rows


SETS = {
    MMBENCH: ("en", "dev", mmbench_rows),
    REALWORLDQA: ("default", "test", realworldqa_rows),
    MMMU: ("default", "validation", mmmu_rows),
}


def main(folder: Path) -> None:
    """Write the sets and the folder of tasks."""
    # ruff: noqa: PLC0415 - they are not where the rows are compared
    import datasets

    lmms_eval = find_spec("lmms_eval")
    assert lmms_eval is not None and lmms_eval.origin is not None
    for name, (config, split, make) in SETS.items():
        rows = make()
        features = {
            column: datasets.Image()
            if any(
                isinstance(row[column], Image.Image) or column.startswith("image_") for row in rows
            )
            and column != "image_path"
            else datasets.Value("int64" if column == "index" else "string")
            for column in rows[0]
        }
        made = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        place = folder / name
        place.mkdir(parents=True)
        made.to_parquet(place / f"{split}-00000-of-00001.parquet")
        (place / "README.md").write_text(README.format(config=config, split=split))
    tasks = folder / "tasks"
    tasks.mkdir()
    for name, file in TASKS.items():
        original = Path(lmms_eval.origin).parent / "tasks" / file
        data = ON_HUB if name == HUB else folder / (MMBENCH if name == JUDGED else name)
        text = (
            f"include: {original}\ntask: made_{name}\ndataset_path: {data}\ndataset_kwargs: {{}}\n"
        )
        (tasks / f"{name}.yaml").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
