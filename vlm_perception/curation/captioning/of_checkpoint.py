# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Captions by a vision-language checkpoint of Hugging Face, by transformers; needs torch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import logging as transformers_logging

from vlm_perception.common.export_error import ExportError
from vlm_perception.curation.captioning.writer import ENGLISH, Answer, NoAnswerError
from vlm_perception.deploy.checkpoints.files import checkpoint_digest, require_plain_weights
from vlm_perception.deploy.checkpoints.hub import fetch, find, require_room
from vlm_perception.perception.language.token_sampling import Sampling

# Modules and processors of transformers carry no types.
Module = Any


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
        folder, name = _folder(path)
        require_plain_weights(folder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._processor, self._model = _loaded(folder, self._device)
        self._max_tokens, self._turn = max_tokens, threading.Lock()
        self.by = name or checkpoint_digest(folder)
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
        devices = [self._device] if self._device.type == "cuda" else []
        try:
            with self._turn, torch.random.fork_rng(devices):
                torch.manual_seed(sampling.seed)
                inputs = self._inputs(Image.fromarray(image), prompt)
                ids = self._model.generate(
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
        text = self._processor.decode(ids, skip_special_tokens=True)
        return Answer(text, bool(ids) and ids[-1] in self._ends())

    def interrupt(self) -> None:
        """Nothing: an answer takes a moment."""

    def _inputs(self, image: Image.Image, prompt: str) -> Module:
        processor = self._processor
        if getattr(processor, "chat_template", None):
            content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            mark = getattr(processor, "image_token", None)
            text = f"{mark}\n{prompt}" if mark else prompt
            inputs = processor(images=image, text=text, return_tensors="pt")
        return inputs.to(self._device, dtype=self._model.dtype)

    def _ends(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        return {*ends} if isinstance(ends, list) else {ends}


def _folder(path: str) -> tuple[Path, str]:
    """The folder of a model, and its name with its commit where it is the hub's."""
    folder = Path(path)
    if folder.is_dir():
        return (folder / "vlm" if (folder / "vlm").is_dir() else folder), ""
    model = find(path, lambda *_: None)
    require_room([model])
    fetch(model)
    return model.folder, f"{model.id}@{model.revision}"


def _loaded(folder: Path, device: torch.device) -> tuple[Module, Module]:
    transformers_logging.disable_progress_bar()
    dtype = torch.float32 if device.type == "cpu" else "auto"
    try:
        processor = _processor(folder)
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, local_files_only=True
        )
    # transformers and safetensors raise many kinds for damaged files, and for other models.
    except Exception as error:
        raise ExportError(
            f"{folder} cannot be loaded as a vision-language model: {' '.join(str(error).split())}"
        ) from error
    if not callable(getattr(processor, "apply_chat_template", None)):
        raise ExportError(
            f"{folder} has no processor for images and texts; download the model again with "
            "processor_config.json"
        )
    return processor, model.eval().to(device)


def _processor(folder: Path) -> Module:
    """The checkpoint's own processor, without what reads videos, which needs torchvision."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    whole: Module = PROCESSOR_MAPPING[type(config)]
    accepts = {"check_argument_for_proper_class": lambda _self, _name, argument: type(argument)}
    images_only: Module = type(whole.__name__, (whole,), accepts)
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True
        ),
        "tokenizer": AutoTokenizer.from_pretrained(folder, local_files_only=True),
    }
    settings, _ = whole.get_processor_dict(folder, local_files_only=True)
    given = [parts.get(name) for name in whole.get_attributes()]
    return images_only.from_args_and_dict(given, settings)
