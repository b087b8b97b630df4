# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a checkpoint's tokenizer, and where the text tower of a CLIP reads what it gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Siglip2Tokenizer

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.tokenizers.convert import convert_tokenizer
from vlm_perception.modeling.pixel_scaling import read_json

# Modules and tokenizers of transformers carry no types.
Model = Any

# In CLIPs from before transformers 4.31, all of OpenAI's among them.
_HIGHEST_ID = 2


def load_tokenizer(directory: Path, model: Model) -> Model:
    """The tokenizer that is saved beside a model, converted where there is no tokenizer.json.

    Raises:
        ExportError: there is none that the robot can read, or it belongs to another model.
    """
    read = _read if (directory / "tokenizer.json").is_file() else convert_tokenizer
    try:
        tokenizer = read(directory, model.config.model_type)
    except ExportError:
        raise
    # transformers, tokenizers and sentencepiece raise many kinds for damaged files.
    except Exception as error:
        raise ExportError(f"the tokenizer in {directory} cannot be loaded: {error}") from error
    rows = model.config.text_config.vocab_size
    _drop_unknown(tokenizer, rows)
    if len(tokenizer) > rows:
        raise ExportError(
            f"the tokenizer in {directory} has {len(tokenizer)} tokens but the model knows {rows}: "
            "they do not belong together; download both from the same model"
        )
    return tokenizer


def _drop_unknown(tokenizer: Model, rows: int) -> None:
    """Take out tokens that were added to the tokenizer and that the model has no row for.

    InternVL's are published so: `<video>` is one more than the model knows, and no prompt about an
    image holds it. In a user's text it is read as text.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    added = content["added_tokens"]
    kept = [token for token in added if token["id"] < rows]
    if len(kept) < len(added):
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content | {"added_tokens": kept}))


def _read(directory: Path, model_type: str) -> Model:
    settings = directory / "tokenizer_config.json"
    named = read_json(settings).get("tokenizer_class") if settings.is_file() else None
    # SigLIP 2 was trained on texts in lower case and published with Gemma's class, which leaves
    # them as they are.
    if model_type in ("siglip", "siglip2") and named in ("GemmaTokenizer", "GemmaTokenizerFast"):
        reader: Model = Siglip2Tokenizer
    else:
        # SigLIP's own class reads a SentencePiece file, which the robot cannot; tokenizer.json
        # says the same.
        reader = PreTrainedTokenizerFast if named == "SiglipTokenizer" else AutoTokenizer
    return reader.from_pretrained(directory, local_files_only=True)


def name_end_token(dual: Model, tokenizer: Model) -> None:
    """Write the true id of the end token into the configuration of a CLIP that says 2.

    There 2 means the highest id of a text, as transformers still reads it (CLIPTextTransformer);
    in the published ones that is `<|endoftext|>`, 49407.

    Raises:
        ExportError: the tokenizer ends a text with a lower id.
    """
    text = dual.config.text_config
    if text.model_type != "clip_text_model" or text.eos_token_id != _HIGHEST_ID:
        return
    end = tokenizer.eos_token_id
    if end is None or end != len(tokenizer) - 1:
        raise ExportError(
            f"dual/ has eos_token_id {_HIGHEST_ID}, with which CLIP pools a text at its highest "
            f"token id, but its tokenizer has {len(tokenizer)} tokens and ends a text with {end}; "
            "use the tokenizer that was published with it, without added tokens"
        )
    for config in (text, dual.text_model.config):
        config.eos_token_id = end
