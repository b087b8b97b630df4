# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers on the robot: text is always text, whatever it pretends to be."""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import Tokenizer

from vlm_perception.bundle.bundle import BundleError
from vlm_perception.common.errors import VlmPerceptionError


class TextError(VlmPerceptionError):
    """A string is no text."""


def require_text(text: str) -> None:
    """Refuse what is no text.

    Raises:
        TextError: the string holds what undecodable bytes leave: halves of characters, or U+FFFD,
            which ROS puts in their place.
    """
    if "\ufffd" in text:
        raise TextError("the text is not valid UTF-8: some of its bytes could not be decoded")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(f"the text is not valid UTF-8: {error.reason}") from error


class TextTokenizer:
    """A tokenizer that takes a user's words for words and never for control tokens."""

    def __init__(self, path: Path) -> None:
        """Read a tokenizer.json.

        Raises:
            BundleError: the file is no tokenizer that this version reads.
        """
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        # The library raises bare Exceptions.
        except Exception as error:
            raise BundleError(f"{path} cannot be read as a tokenizer: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        self._special = {
            token.content: index
            for index, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special
        }

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, framed: bool = False, most: int | None = None) -> list[int]:
        """Ids of a text.

        Args:
            text: taken literally; `<eos>` in it is five characters.
            framed: with the begin and end tokens that the tokenizer adds to a text.
            most: the text is cut to so many ids, begin and end included, as transformers'
                tokenizers truncate; None: it is not.

        Raises:
            TextError: the text is no valid Unicode.
        """
        require_text(text)
        found = self._tokenizer.encode(text, add_special_tokens=framed)
        if most is None or len(found.ids) <= most:
            return list(found.ids)
        bare = self._tokenizer.encode(text, add_special_tokens=False)
        bare.truncate(most - (self._tokenizer.num_special_tokens_to_add(False) if framed else 0))
        return list(self._tokenizer.post_process(bare, add_special_tokens=framed).ids)

    def encode_template(self, template: str, text: str = "") -> list[int]:
        """Ids of a template whose special tokens count, with a text in which they do not.

        Args:
            template: may hold special tokens, as `<bos>question: {text} answer:`.
            text: takes the place of `{text}` literally.
        """
        ids: list[int] = []
        for piece in self._split(template):
            if piece in self._special:
                ids.append(self._special[piece])
            elif piece:
                ids += self.encode(piece.replace("{text}", text))
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of ids without control tokens; an unfinished character at the end is left out."""
        text = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        return text.rstrip("\ufffd").strip()

    def _split(self, template: str) -> list[str]:
        if not self._special:
            return [template]
        longest_first = sorted(self._special, key=len, reverse=True)
        return re.split("(" + "|".join(map(re.escape, longest_first)) + ")", template)
