# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of curation measures what 00_raw and 01_filtered do, on sets like real ones."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from vlm_perception.cli import app
from vlm_perception.curation.bench import bench, drawn
from vlm_perception.curation.bench.search import EMBEDDINGS, Search, growth
from vlm_perception.curation.filtering.hash_index import distances
from vlm_perception.evaluation import machine_load


def test_drawn_hashes_have_copies_and_crowds():
    found = drawn.hashes(2000)
    apart = distances(found[:, None], found[None, :])
    near = (apart <= 8).sum(axis=1) > 1
    # Copies and their originals, and frames of drives.
    assert 0.2 < near.mean() < 0.5
    others = apart[np.triu_indices(len(found), 1)]
    # Those of one camera are nearer than any two of 32 bits at random.
    assert 30 < others.mean() < 32
    assert (others < 20).mean() > 3 * (32 - others < -12).mean()
    assert (drawn.hashes(2000) == found).all()


def test_growth_is_a_power_of_the_number_of_images():
    cubic = [Search(n, 0, 2e-12 * n**3, 0.0, 0.0, 0.0) for n in (100, 1000, 3000)]
    assert growth(cubic).exponent == pytest.approx(3)
    assert growth(cubic).projected_seconds == pytest.approx(2e6)


@pytest.mark.slow
def test_the_benchmark_says_whether_its_bars_are_reached(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_load, "BEFORE_S", 0.1)
    monkeypatch.setattr(bench, "SEARCH_BAR", 4000)
    monkeypatch.setattr(bench, "HASH_SIZES", (2000, 4000))
    monkeypatch.setattr(bench, "EMBEDDING_SIZES", (500, 1000))
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    file = tmp_path / "figures.json"
    result = CliRunner().invoke(app, ["bench", "curation", "--images", "64", "--json", str(file)])
    figures = json.loads(file.read_text())
    assert result.exit_code == (0 if figures["valid"] else 1), result.output
    assert "Ray is not installed" in result.output
    filtering, hashes = figures["filtering"], figures["hashes"]
    rate = filtering["images_per_second_per_core"]
    assert 0 < rate < min(filtering["by_stage"].values())
    assert filtering["reached"] == (rate >= 100)
    assert filtering["projected_million"]["core_hours"] == pytest.approx(1e6 / rate / 3600)
    assert [each["images"] for each in hashes["searches"]] == [2000, 4000]
    assert hashes["reached"] == (hashes["searches"][-1]["seconds"] <= 30)
    assert figures[EMBEDDINGS]["searches"][0]["near_duplicates"] > 50
