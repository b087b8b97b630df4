# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers from before tokenizer.json are converted id for id, or refused with the remedy."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from support.checkpoints import (
    LABELS,
    SENTENCES,
    make_checkpoint,
    make_clip_tokenizer,
    set_config,
)
from tokenizers import Tokenizer
from transformers import LlamaTokenizer, SiglipTokenizer, XLMRobertaTokenizer

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.load import load_checkpoint

TEXTS = [
    *LABELS,
    "Is there a Truck? yes, no.",
    "Fu\u00dfg\u00e4nger",
    "\u6b69\u884c\u8005",
    "3 km/h",
]


def train(path: Path, kind: str, **settings: Any) -> Path:
    """A SentencePiece file, as those of the published models were trained."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([*SENTENCES, *TEXTS] * 4),
        model_writer=model,
        model_type=kind,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())
    return path


def llama_file(path: Path) -> Path:
    own = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    return train(path, "bpe", vocab_size=700, byte_fallback=True, split_digits=True, **own)


def as_on_the_robot(tokenizer: Any) -> Tokenizer:
    """What a bundle keeps of it."""
    return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


@pytest.mark.parametrize("family", ["siglip", "metaclip_2"])
def test_siglips_sentencepiece_file_is_converted_id_for_id(tmp_path: Path, family: str) -> None:
    """As of so400m-patch14-224's first commit: spiece.model and no tokenizer.json.

    Some MetaCLIP 2s read texts with the same class.
    """
    ends = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    file = train(tmp_path / "spiece.model", "unigram", vocab_size=200, **ends)
    original = SiglipTokenizer(str(file))
    kind: dict[str, Any] = {"family": family, "language": None}
    make_checkpoint(tmp_path / "siglip", dual_tokenizer=original, **kind)
    assert not (tmp_path / "siglip/dual/tokenizer.json").exists()
    ours = load_checkpoint(tmp_path / "siglip", "same").dual_tokenizer
    assert ours.pad_token_id == original.pad_token_id
    robot = as_on_the_robot(ours)

    @settings(max_examples=300, deadline=None)
    @given(st.one_of(st.sampled_from(TEXTS), st.text(max_size=12)).map(str.lstrip).filter(len))
    def same(text: str) -> None:
        assert robot.encode(text).ids == original(text)["input_ids"]

    same()


def test_metaclips_sentencepiece_file_is_converted(tmp_path: Path) -> None:
    """XLM-RoBERTa's ids are those of SentencePiece and one more, as fairseq put them."""
    file = train(tmp_path / "sentencepiece.bpe.model", "unigram", vocab_size=200)
    tokenizer = XLMRobertaTokenizer.from_pretrained(tmp_path)
    make_checkpoint(tmp_path / "clip", family="metaclip_2", language=None, dual_tokenizer=tokenizer)
    (tmp_path / "clip/dual/tokenizer.json").unlink()
    shutil.copy(file, tmp_path / "clip/dual")
    robot = as_on_the_robot(load_checkpoint(tmp_path / "clip", "same").dual_tokenizer)
    original = SentencePieceProcessor(model_file=str(file))
    for text in TEXTS:
        pieces = [index + 1 if index else 3 for index in original.encode(text)]
        assert robot.encode(text).ids == [0, *pieces, 2]


def test_llavas_sentencepiece_file_is_converted_id_for_id(tmp_path: Path) -> None:
    """AutoTokenizer would take a class for it that knows of no space before the first word."""
    file = llama_file(tmp_path / "mine/tokenizer.model")
    checkpoint = make_checkpoint(tmp_path / "llava", language_tokenizer=_llama(file))
    (checkpoint / "vlm/tokenizer.json").unlink()
    shutil.copy(file, checkpoint / "vlm")
    tokenizer = load_checkpoint(checkpoint, "same").vlm_tokenizer
    assert tokenizer is not None
    robot, original = as_on_the_robot(tokenizer), SentencePieceProcessor(model_file=str(file))
    for text in TEXTS:
        assert robot.encode(text, add_special_tokens=False).ids == original.encode(text)
    image = robot.token_to_id("<image>")
    assert image == len(original)
    assert robot.encode("<image>", add_special_tokens=False).ids == [image]


def _llama(file: Path) -> LlamaTokenizer:
    tokenizer = LlamaTokenizer.from_pretrained(file.parent)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


def test_a_vocabulary_with_merges_is_read(clip_checkpoint: Path, tmp_path: Path) -> None:
    """As in openai/clip-vit-base-patch32's first commits."""
    checkpoint = shutil.copytree(clip_checkpoint, tmp_path / "clip")
    (checkpoint / "dual/tokenizer.json").unlink()
    make_clip_tokenizer().backend_tokenizer.model.save(str(checkpoint / "dual"))
    robot = as_on_the_robot(load_checkpoint(checkpoint, "same").dual_tokenizer)
    wanted = as_on_the_robot(load_checkpoint(clip_checkpoint, "same").dual_tokenizer)
    for text in TEXTS:
        assert robot.encode(text).ids == wanted.encode(text).ids


def unnamed(directory: Path) -> None:
    llama_file(directory / "tokenizer.model")
    (directory / "tokenizer_config.json").unlink()


def of_no_class(directory: Path) -> None:
    """Named as most are today, and built from the file without the space before a text."""
    llama_file(directory / "tokenizer.model")
    set_config(directory / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def without_merges(directory: Path) -> None:
    (directory / "vocab.json").write_text(json.dumps({"a": 0}))
    set_config(directory / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")


def damaged(directory: Path) -> None:
    (directory / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    set_config(directory / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unnamed, "no tokenizer.json; take tokenizer.json from a revision"),
        (
            of_no_class,
            "TokenizersBackend does not split 'a photo of .* as SentencePiece does; take",
        ),
        (without_merges, "no tokenizer.json and no merges.txt of a Qwen2Tokenizer; take"),
        (damaged, "tokenizer.model is damaged or no SentencePiece file; take"),
    ],
)
def test_what_would_be_converted_wrongly_is_refused(
    siglip_checkpoint: Path, tmp_path: Path, change: Any, message: str
) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "old")
    (checkpoint / "vlm/tokenizer.json").unlink()
    change(checkpoint / "vlm")
    with pytest.raises(ExportError, match=message):
        load_checkpoint(checkpoint, "same")
