# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Prints notes about a recording on the console."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console


def tell_notes(notes: Iterable[str], console: Console) -> None:
    """Say what is unusual about a recording."""
    for note in notes:
        console.print(f"note: {note}", style="dim", soft_wrap=True, markup=False)


def tell_losses(losses: Iterable[str], console: Console) -> None:
    """Say what of a recording could not be read."""
    for loss in losses:
        console.print(f"lost: {loss}", style="yellow", soft_wrap=True, markup=False)
