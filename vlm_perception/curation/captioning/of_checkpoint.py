# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Captions by a vision-language checkpoint of Hugging Face, by transformers; needs torch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vlm_perception.curation.captioning.writer import ENGLISH, Answer, NoAnswerError
from vlm_perception.deploy.checkpoints.vlm_reader import VlmReader
from vlm_perception.perception.language.token_sampling import Sampling


class CheckpointWriter:
    """See `Writer`."""

    english = ENGLISH
    slots = 1

    def __init__(self, path: str, max_tokens: int) -> None:
        """Load a checkpoint: in FP32 on a processor, as it is stored on a GPU.

        Args:
            path: a folder, or one that has the model in `vlm/`, or a model of the hub.
            max_tokens: of an answer.

        Raises:
            ExportError: it is unavailable, damaged, or no vision-language model of transformers.
        """
        self._reader = VlmReader(path)
        self._max_tokens, self._turn = max_tokens, threading.Lock()
        self.by = self._reader.by
        self.settings: Mapping[str, Any] = {"kind": "checkpoint"}

    def check(self, prompt: str) -> None:
        """Nothing: a checkpoint does not say which languages it was trained with."""

    @torch.inference_mode()
    def write(self, image: NDArray[np.uint8], prompt: str, sampling: Sampling) -> Answer:
        """Answer a prompt about an image."""
        # As for tokens of ours: temperature, then top_p, and nothing else.
        drawn: dict[str, Any] = {
            "do_sample": False,
            "temperature": None,
            "top_p": None,
            "top_k": None,
        }
        if sampling.temperature:
            drawn = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": 0,
            }
        devices = [self._reader.device] if self._reader.device.type == "cuda" else []
        try:
            with self._turn, torch.random.fork_rng(devices):
                torch.manual_seed(sampling.seed)
                inputs = self._reader.inputs(Image.fromarray(image), prompt)
                ids = self._reader.model.generate(
                    **inputs, max_new_tokens=self._max_tokens, num_beams=1, **drawn
                )[0].tolist()
        except torch.OutOfMemoryError as error:
            raise NoAnswerError(
                "the GPU has no memory left", str(error), again=True, absent=False
            ) from error
        # transformers raises many kinds for what a model does not take.
        except Exception as error:
            raise NoAnswerError(
                "the checkpoint cannot describe it", str(error), again=False, absent=False
            ) from error
        asked = inputs["input_ids"][0].tolist()
        # A decoder repeats what it was given, an encoder and decoder do not.
        ids = ids[len(asked) :] if ids[: len(asked)] == asked else ids
        text = self._reader.processor.decode(ids, skip_special_tokens=True)
        return Answer(text, bool(ids) and ids[-1] in self._reader.ends)

    def interrupt(self) -> None:
        """Nothing: an answer takes a moment."""
