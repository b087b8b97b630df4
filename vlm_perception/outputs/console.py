# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Sentences for people, on a console or in a log."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


def say(console: Console, text: str | Text, style: str | None = None) -> None:
    """Print a sentence as it is: one line, which a log keeps whole, and brackets are no markup.

    What bytes of a file's name leave that are no UTF-8 is escaped in a string.
    """
    if isinstance(text, str):
        text = text.encode("utf-8", "backslashreplace").decode()
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)
