# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A process that analyses images with a bundle and does nothing else, so that its memory counts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.machine import peak_memory
from vlm_perception.engines.registry import AUTO
from vlm_perception.evaluation.bench.scene_times import time_scene
from vlm_perception.evaluation.cost.energy import find_meter
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.prompts import Prompts
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

WARM_UP = 2
"""Images that are analysed before it is timed."""
LEAST_IMAGES, ENOUGH_S = 3, 60.0
"""After so many seconds no further image is begun, unless there are fewer."""


class Alone:
    """A bundle's networks, in the engines that nodes would choose."""

    def __init__(self, bundle: ModelBundle, threads: int) -> None:
        """Load them.

        Raises:
            BundleError: the bundle lacks a file.
            EngineError: no engine takes a graph.
        """
        self._bundle = bundle
        self._encoder = VisionEncoder(bundle, threads=threads, engine=AUTO, temporal=False)
        self._language = (
            LanguageModel(bundle, threads=threads, engine=AUTO)
            if bundle.manifest.language is not None
            else None
        )

    @property
    def engines(self) -> str:
        """Of the encoder and of the language model."""
        names = [self._encoder.engine_name]
        if self._language is not None:
            names.append(self._language.engine_name)
        return ", ".join(dict.fromkeys(names))

    def analyse(self, image: Path, sequence: int) -> dict[str, Any]:
        """Time an image, stored as an array; a record without its name."""
        embedding = self._encoder.encode(Frame(np.load(image), sequence), sequence)
        record: dict[str, Any] = {"encoder_ms": 1e3 * embedding.stages["total"]}
        if self._language is None:
            return record
        times = time_scene(self._bundle, self._language, embedding)
        return record | {
            "tower_ms": 1e3 * times.tower,
            "prefill_ms": 1e3 * (times.reading - times.tower),
            "questions_ms": 1e3 * times.questions,
            "decode_ms": 1e3 * times.caption,
            "caption_tokens": times.tokens,
        }


def measure(bundle: ModelBundle, images: Sequence[Path], threads: int) -> dict[str, Any]:
    """Analyse images one after the other.

    Args:
        bundle: the model.
        images: stored as arrays; the first ones are analysed before it is timed.
        threads: of the engines.

    Returns:
        Its records with the images' places, `peak_rss_mb`, `kv_bytes_in_all`, `engines`,
        `energy_j_per_image` and `energy_source`, None where the machine does not tell.
    """
    alone = Alone(bundle, threads)
    for sequence, image in enumerate(images[:WARM_UP]):
        alone.analyse(image, sequence)
    records: list[dict[str, Any]] = []
    meter = find_meter()
    with meter or nullcontext():
        began = time.monotonic()
        for sequence, image in enumerate(images[WARM_UP:], WARM_UP):
            records.append(alone.analyse(image, sequence))
            if len(records) >= LEAST_IMAGES and time.monotonic() - began > ENOUGH_S:
                break
    return {
        "records": records,
        "peak_rss_mb": peak_memory() / 1e6,
        "kv_bytes_in_all": _longest_cache(bundle, records),
        "engines": alone.engines,
        "energy_j_per_image": meter.joules / len(records) if meter is not None else None,
        "energy_source": meter.source if meter is not None else None,
    }


def _longest_cache(bundle: ModelBundle, records: Sequence[dict[str, Any]]) -> int | None:
    """Bytes of keys and values at the end of the longest caption: prompt, image and text."""
    spec = bundle.manifest.language
    if spec is None:
        return None
    prompts = Prompts(bundle, spec)
    prompt = len(prompts.before) + len(prompts.ids(spec.caption_prompt))
    # The last token is not read any more.
    text = max(int(record["caption_tokens"]) for record in records) - 1
    return spec.kv_bytes_per_token * (prompt + spec.image_tokens + text)


def main() -> None:
    """Measure, and print it as JSON."""
    path, threads, folder = sys.argv[1:]
    images = sorted(Path(folder).glob("*.npy"))
    json.dump(measure(ModelBundle.load(path), images, int(threads)), sys.stdout)


if __name__ == "__main__":
    main()
