# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The published models: their numbers are transformers', their costs those of exported graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import make_checkpoint, write_spec
from transformers import (
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    LlavaOnevisionConfig,
    SiglipConfig,
    SiglipModel,
    SmolVLMConfig,
)
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import VISION_GRAPH
from vlm_perception.cli import app
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.families import DUAL_FAMILIES
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.onnx.graph import load_graph
from vlm_perception.deploy.profiling.cost import Cost, CostModel
from vlm_perception.deploy.profiling.dual_encoder import count_parameters, encoder_layers
from vlm_perception.deploy.profiling.models_report import COLUMNS
from vlm_perception.deploy.tables.models import PublishedModel, hub_id, hub_ids, models_table

MODELS = models_table().models
PUBLISHED = {"siglip2-base": 375_187_970}
"""As the hub counts them in the file of weights."""


def tower_config(sizes: dict[str, int]) -> dict[str, int]:
    names = {
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "inner": "intermediate_size",
        "image": "image_size",
        "patch": "patch_size",
        "vocabulary": "vocab_size",
        "length": "max_position_embeddings",
    }
    return {names[name]: size for name, size in sizes.items()}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_transformers(name: str) -> None:
    model = MODELS[name]
    sees, reads = (tower_config(each.model_dump()) for each in (model.vision, model.text))
    assert model.family in DUAL_FAMILIES
    with torch.device("meta"):
        built: Any = (
            SiglipModel(SiglipConfig(vision_config=sees, text_config=reads))
            if model.family == "siglip"
            else CLIPModel(
                CLIPConfig(
                    vision_config=sees, text_config=reads, projection_dim=model.embedding_width
                )
            )
        )
    counted = count_parameters(model)
    assert counted.all == sum(each.numel() for each in built.parameters())
    seen = ("vision_model", "visual_projection")
    vision = [each for part, each in built.named_parameters() if part.startswith(seen)]
    assert counted.vision == sum(each.numel() for each in vision)
    assert counted.all == PUBLISHED.get(name, counted.all)


# What their config.json says; what is left out equals transformers' defaults.
PAIRS: dict[str, Any] = {
    "smolvlm2-256m": SmolVLMConfig(
        scale_factor=4,
        vision_config=tower_config(
            {"width": 768, "layers": 12, "heads": 12, "inner": 3072, "image": 512, "patch": 16}
        ),
        text_config={
            **tower_config({"width": 576, "layers": 30, "heads": 9, "inner": 1536}),
            "model_type": "llama",
            "num_key_value_heads": 3,
            "vocab_size": 49280,
        },
    ),
    "llava-onevision-0.5b": LlavaOnevisionConfig(
        tie_word_embeddings=True,
        vision_config={
            **tower_config(
                {"width": 1152, "layers": 26, "heads": 16, "inner": 4304, "image": 384, "patch": 14}
            ),
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
        },
        text_config={
            **tower_config({"width": 896, "layers": 24, "heads": 14, "inner": 4864}),
            "model_type": "qwen2",
            "num_key_value_heads": 2,
            "vocab_size": 152000,
        },
    ),
}


@pytest.mark.parametrize("name", models_table().pairs)
def test_a_pair_has_the_numbers_of_its_language_model(name: str) -> None:
    config, row = PAIRS[name], models_table().pairs[name]
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    assert row.parameters == sum(each.numel() for each in model.parameters())
    vision = config.vision_config
    assert row.view == vision.image_size
    patches = (vision.image_size // vision.patch_size) ** 2
    # LLaVA-OneVision ends an image with a newline.
    joined = getattr(config, "scale_factor", None)
    assert row.image_tokens == (patches // joined**2 if joined else patches + 1)


def small_model(checkpoint: Path, family: str) -> PublishedModel:
    """The row that a small checkpoint would have."""
    config = json.loads((checkpoint / "dual/config.json").read_text())
    vision, text = config["vision_config"], config["text_config"]
    shared = {
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "inner": "intermediate_size",
    }
    return PublishedModel(
        dual="lab/nano",
        licence="mit",
        languages="English",
        tasks=(),
        family=family,  # type: ignore[arg-type]
        embedding_width=config.get("projection_dim") or vision["hidden_size"],
        vision={  # type: ignore[arg-type]
            **{name: vision[key] for name, key in shared.items()},
            "image": vision["image_size"],
            "patch": vision["patch_size"],
        },
        text={  # type: ignore[arg-type]
            **{name: text[key] for name, key in shared.items()},
            "vocabulary": text["vocab_size"],
            "length": text["max_position_embeddings"],
        },
        sources=("here",),
    )


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_an_image_costs_what_the_exported_graph_costs(family: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "nano", family=family, language=None)
    write_spec(checkpoint, geometry=None)
    bundle = export_bundle(checkpoint, tmp_path / "bundle")
    graph = load_graph(bundle.file(VISION_GRAPH))
    counter = CostModel(graph, float_bytes=2)
    counted = sum((counter.cost(node) for node in graph.nodes), Cost())
    said = sum(encoder_layers(small_model(checkpoint, family), float_bytes=2), Cost())
    assert said.flops == counted.flops
    assert said.weight_bytes == pytest.approx(counted.weight_bytes, rel=0.01)
    assert said.activation_bytes == pytest.approx(counted.activation_bytes, rel=0.01)


def test_models_fit_into_a_terminal_and_tell_what_is_projected() -> None:
    shown = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    for name, model in MODELS.items():
        assert (
            f"{name}: {model.dual}, labels in {model.languages}, licence {model.licence}"
            in shown.output
        )
    for name, pair in models_table().pairs.items():
        assert f"{name}: {pair.dual} with {pair.vlm}, " in shown.output
    assert "images a second are projected" in shown.output
    # What does not fit is cut, with an ellipsis.
    assert "…" not in shown.output


def test_models_for_a_task_as_json(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    shown = CliRunner().invoke(app, ["models", "--task", "documents", "--json", str(file)])
    assert shown.exit_code == 0, shown.output
    content = json.loads(file.read_text())
    assert content["models"] == []
    assert {"Qwen/Qwen2.5-VL-3B-Instruct"} < {each["vlm"] for each in content["not_yet"]}
    assert content["pairs"] == {}
    CliRunner().invoke(app, ["models", "--task", "video", "--json", str(file)])
    rows = {row["name"]: row for row in json.loads(file.read_text())["models"]}
    base = rows["siglip2-base"]
    assert base["tokens_per_image"] == 196
    assert set(base["projected"]) == set(COLUMNS)
    rates = [base["projected"][device]["hz"] for device in ("orin-nano", "orin-nx", "agx-orin-64")]
    assert rates == sorted(rates)
    # Twice the parameters are the least that FP16 needs.
    assert base["bundle_bytes"] == 2 * sum(base["parameters"].values())


def test_an_unknown_task_is_refused_with_those_there_are() -> None:
    refused = CliRunner().invoke(app, ["models", "--task", "ocr"])
    assert refused.exit_code == 2
    assert "documents" in refused.stderr


def test_names_stand_for_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_id("siglip2-base") == "google/siglip2-base-patch16-224"
    assert hub_id("siglip2-base@v1") == "google/siglip2-base-patch16-224@v1"
    assert hub_id("lab/model@main") == "lab/model@main"
    vlm = "HuggingFaceTB/SmolVLM2-256M-Video-Instruct"
    assert hub_ids("smolvlm2-256m") == ("google/siglip2-base-patch16-224", vlm)
    assert hub_ids("siglip2-base") == ("google/siglip2-base-patch16-224", None)
    with pytest.raises(ExportError, match=f"is a pair: give `--dual siglip2-base --vlm {vlm}`"):
        hub_id("smolvlm2-256m")
    with pytest.raises(ExportError, match=r"no model 'siglip2-bsae': give siglip2-base or"):
        hub_id("siglip2-bsae")
    (tmp_path / "siglip2-bsae").mkdir()
    assert hub_id("siglip2-bsae") == "siglip2-bsae"
