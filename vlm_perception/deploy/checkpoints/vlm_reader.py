# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A vision-language checkpoint as transformers runs it, whatever its family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.files import checkpoint_digest, require_plain_weights
from vlm_perception.deploy.checkpoints.hub import fetch, find, require_room
from vlm_perception.deploy.checkpoints.quiet import quieten

# Modules and processors of transformers carry no types.
Module = Any


class VlmReader:
    """Model, processor and what a prompt becomes."""

    def __init__(self, path: str) -> None:
        """Load a checkpoint: in FP32 on a processor, as it is stored on a GPU.

        Args:
            path: a folder, or one that has the model in `vlm/`, or a model of the hub.

        Raises:
            ExportError: it is unavailable, damaged, or no vision-language model of transformers.
        """
        self.folder, name = language_folder(path)
        require_plain_weights(self.folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.processor, self.model = _loaded(self.folder, self.device)
        self.by = name or checkpoint_digest(self.folder)
        """Its name and commit on the hub, or its digest."""

    def inputs(self, image: Image.Image, prompt: str) -> Module:
        """What the model is given for a prompt about an image."""
        processor = self.processor
        if getattr(processor, "chat_template", None):
            inputs = processor.apply_chat_template(
                self._asked(prompt, image),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            mark = getattr(processor, "image_token", None)
            text = f"{mark}\n{prompt}" if mark else prompt
            inputs = processor(images=image, text=text, return_tensors="pt")
        return inputs.to(self.device, dtype=self.model.dtype)

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """Tokens of an answer to a prompt, the one that ends it included.

        Raises:
            ExportError: its chat template does not write answers behind prompts.
        """
        tokenizer, text = self.processor.tokenizer, answer
        if getattr(self.processor, "chat_template", None):
            asked = self._asked(prompt)
            said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
            before = self.processor.apply_chat_template(asked, add_generation_prompt=True)
            whole = self.processor.apply_chat_template([*asked, said])
            if not whole.startswith(before):
                raise ExportError(
                    f"{self.folder}: the chat template writes an answer otherwise than behind its "
                    "prompt, so that answers cannot be scored; correct chat_template.jinja"
                )
            text = whole[len(before) :]
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        ends = [place for place, token in enumerate(ids) if token in self.ends]
        return ids[: ends[0] + 1] if ends else [*ids, tokenizer.eos_token_id]

    @property
    def ends(self) -> set[int]:
        """Tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        return {*ends} if isinstance(ends, list) else {ends}

    def _asked(self, prompt: str, image: Image.Image | None = None) -> list[dict[str, Any]]:
        shown: dict[str, Any] = {"type": "image"}
        if image is not None:
            shown["image"] = image
        return [{"role": "user", "content": [shown, {"type": "text", "text": prompt}]}]


def language_folder(path: str) -> tuple[Path, str]:
    """The folder of a model, and its name with its commit where it is the hub's; fetched, then.

    Args:
        path: a folder, or one that has the model in `vlm/`, or a model of the hub.

    Raises:
        ExportError: it is unavailable.
    """
    folder = Path(path)
    if folder.is_dir():
        return (folder / "vlm" if (folder / "vlm").is_dir() else folder), ""
    model = find(path, lambda *_: None)
    require_room([model])
    fetch(model)
    return model.folder, f"{model.id}@{model.revision}"


def _loaded(folder: Path, device: torch.device) -> tuple[Module, Module]:
    quieten()
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
