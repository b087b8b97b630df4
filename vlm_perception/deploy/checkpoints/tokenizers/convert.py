# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the tokenizer that a robot reads of the files of those before tokenizer.json."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

import transformers
from sentencepiece import SentencePieceProcessor
from tokenizers import Regex, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, SiglipTokenizer
from transformers.convert_slow_tokenizer import SpmConverter

from vlm_perception.common.export_error import ExportError
from vlm_perception.modeling.pixel_scaling import read_json

_TARGET = "tokenizer.json"
_REMEDY = (
    f"take {_TARGET} from a revision of the model that has it, or write it with another version of "
    "transformers (save_pretrained)"
)
_SIGLIP = "spiece.model"
_OWN = {"siglip": "SiglipTokenizer"}
"""Where the settings name no class."""
# What Python takes for white space; Oniguruma leaves the last four out.
_SPACES = Regex(r"[\s\x1c-\x1f]+")
# None begins with white space, which classes treat each in its own way.
_SAMPLES = (
    "a photo of a red car, at night.",
    "Is there a pedestrian? yes no",
    "Fu\u00dfg\u00e4nger \u00e0 30 km/h",
    "\u6b69\u884c\u8005 \u043f\u0435\u0448\u0435\u0445\u043e\u0434",
)


def convert_tokenizer(directory: Path, model_type: str) -> Any:
    """A tokenizer without tokenizer.json, from a SentencePiece file or a vocabulary with merges.

    Args:
        directory: of a checkpoint, with tokenizer_config.json.
        model_type: in its config.json.

    Raises:
        ExportError: transformers has no way to convert it that gives the same ids.
    """
    settings = directory / "tokenizer_config.json"
    name = read_json(settings).get("tokenizer_class") if settings.is_file() else None
    # Some MetaCLIP 2s have it, too.
    if "SiglipTokenizer" in (name, _OWN.get(model_type)) and (directory / _SIGLIP).is_file():
        return _convert_siglip(directory)
    # Not AutoTokenizer: for some models, LLaVA's among them, it takes a class that knows of no
    # space before the first word.
    reader = getattr(transformers, str(name), None)
    names = getattr(reader, "vocab_files_names", {}).values()
    files = [file for file in names if file != _TARGET]
    missing = [file for file in files if not (directory / file).is_file()]
    # Without its files a class makes a vocabulary of a few tokens, and says nothing.
    if missing or not files:
        wants = f" and no {' and no '.join(missing)} of a {name}" if missing else ""
        raise ExportError(f"{directory} contains no {_TARGET}{wants}; {_REMEDY}")
    assert reader is not None
    pieces = [_open(directory / file) for file in files if file.endswith(".model")]
    tokenizer = reader.from_pretrained(directory, local_files_only=True)
    for original in pieces:
        _require_same_pieces(tokenizer, original, directory)
    return tokenizer


def _open(file: Path) -> SentencePieceProcessor:
    try:
        return SentencePieceProcessor(model_file=str(file))
    # sentencepiece raises RuntimeErrors; transformers would ask for a library of another format.
    except RuntimeError as error:
        raise ExportError(f"{file} is damaged or no SentencePiece file; {_REMEDY}") from error


def _require_same_pieces(tokenizer: Any, original: SentencePieceProcessor, where: Path) -> None:
    for text in _SAMPLES:
        if tokenizer.tokenize(text) != original.encode(text, out_type=str):
            raise ExportError(
                f"the tokenizer in {where} cannot be converted: transformers' "
                f"{type(tokenizer).__name__} does not split {text!r} as SentencePiece does; "
                f"{_REMEDY}"
            )


def _convert_siglip(directory: Path) -> PreTrainedTokenizerFast:
    """SigLIP's, with the ids of transformers' `SiglipTokenizer`, which only Python can run."""
    _open(directory / _SIGLIP)
    slow = SiglipTokenizer.from_pretrained(directory, local_files_only=True)
    converter: Any = _SiglipConverter
    tokens = {name: str(token) for name, token in slow.special_tokens_map.items()}
    return PreTrainedTokenizerFast(tokenizer_object=converter(slow).converted(), **tokens)


class _SiglipConverter(SpmConverter):
    """As SpmConverter, with what SiglipTokenizer does to a text beforehand.

    It lowers it, drops punctuation and joins white space, as big_vision's `canonicalize_text`.
    """

    def normalizer(self, proto: Any) -> normalizers.Normalizer:
        own = proto.normalizer_spec.precompiled_charsmap
        punctuation = Regex(f"[{re.escape(string.punctuation)}]")
        return normalizers.Sequence(
            [
                normalizers.Replace("\u2581", " "),
                *([normalizers.Lowercase()] if self.original_tokenizer.do_lower_case else []),
                normalizers.Replace(punctuation, ""),
                normalizers.Replace(_SPACES, " "),
                *([normalizers.Precompiled(own)] if own else []),
                normalizers.Replace(Regex(" {2,}"), " "),
                normalizers.Strip(),
            ]
        )

    def pre_tokenizer(self, replacement: str, add_prefix_space: bool) -> Any:
        del add_prefix_space
        return pre_tokenizers.Metaspace(replacement=replacement, split=False)

    def post_processor(self) -> Any:
        end = self.original_tokenizer.eos_token
        return processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, self.original_tokenizer.eos_token_id)]
        )
