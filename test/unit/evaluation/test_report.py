# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found is printed, and written as JSON, in one way."""

from __future__ import annotations

import json
import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vlm_perception.evaluation.machine_load import Load
from vlm_perception.evaluation.report import Report


def test_tables_and_sentences_are_printed_in_their_order(tmp_path: Path) -> None:
    console, file = Console(record=True, width=60), tmp_path / "deep" / "figures.json"
    table = Table("what", title="A table")
    sentence = "one [sentence] that stays one line, however narrow the console or the log is"
    figures = {"nested": [{"ms": math.nan}, (1, 2.5)], "by_minute": {1: 20}}
    assert Report([table, sentence], figures, code=3).show(console, file) == 3
    text = console.export_text()
    assert text.index("A table") < text.index(sentence) < text.index("Written to")
    written = {"valid": True, "nested": [{"ms": None}, [1, 2.5]], "by_minute": {"1": 20}}
    assert json.loads(file.read_text()) == written


def test_nothing_is_written_of_what_was_interrupted(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert Report([], code=130).show(Console(quiet=True), file) == 130
    assert not file.exists()


def test_figures_of_a_loaded_machine_are_not_called_valid(tmp_path: Path) -> None:
    console, file = Console(record=True, width=200), tmp_path / "figures.json"
    assert Report([], {"ms": math.nan}, Load(before=0.0, during=50.0)).show(console, file) == 1
    assert "NOT valid" in console.export_text()
    figures = json.loads(file.read_text())
    assert (figures["valid"], figures["ms"]) == (False, None)
    assert Report([], {}, Load(1.0, 1.0)).show(console, file) == 0
    assert json.loads(file.read_text())["valid"] is True
