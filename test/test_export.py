# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle gives what transformers gives for the same checkpoint, or there is no bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoModel, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from checkpoints import LABELS, make_checkpoint, write_spec
from vlm_perception.bundle import ModelBundle, QuestionSpec
from vlm_perception.deploy.checkpoint import round_to_half
from vlm_perception.deploy.errors import ExportError
from vlm_perception.deploy.export import export_bundle
from vlm_perception.deploy.geometry import positions_for
from vlm_perception.deploy.vision_graph import VisionGraph
from vlm_perception.perception.encoder import VisionEncoder
from vlm_perception.perception.language import LanguageModel
from vlm_perception.types import Frame

TOLERANCE = 1e-3
PROMPT = "question: {} answer:"


@dataclass
class Pair:
    """A bundle and transformers' own models with the weights that it holds."""

    bundle: ModelBundle
    dual: Any
    vlm: Any
    tokenizer: PreTrainedTokenizerFast
    image: NDArray[np.uint8]

    @property
    def pixels(self) -> torch.Tensor:
        """The image as a processor of transformers would give it."""
        scaled = torch.from_numpy(self.image).permute(2, 0, 1)[None].float() / 255
        spec = self.bundle.manifest.image
        mean = torch.tensor(spec.mean).reshape(1, 3, 1, 1)
        std = torch.tensor(spec.std).reshape(1, 3, 1, 1)
        return (scaled - mean) / std


@pytest.fixture(params=["siglip", "clip"])
def pair(request: pytest.FixtureRequest) -> Pair:
    checkpoint: Path = request.getfixturevalue(f"{request.param}_checkpoint")
    bundle: ModelBundle = request.getfixturevalue(f"{request.param}_bundle")
    dual = AutoModel.from_pretrained(checkpoint / "dual", dtype=torch.float32).eval()
    vlm = LlavaForConditionalGeneration.from_pretrained(
        checkpoint / "vlm", dtype=torch.float32
    ).eval()
    for model in (dual, vlm):
        round_to_half(model)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint / "vlm")
    spec = bundle.manifest.image
    image = np.random.default_rng(5).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
    return Pair(bundle, dual, vlm, tokenizer, image)


def run_vision(pair: Pair) -> dict[str, NDArray[Any]]:
    return pair.bundle.engine("vision.onnx").run({"image": pair.image[np.newaxis]})


@torch.no_grad()
def test_image_embedding_is_that_of_transformers(pair: Pair) -> None:
    theirs = pair.dual.get_image_features(pixel_values=pair.pixels).pooler_output
    theirs = theirs / theirs.norm(dim=-1, keepdim=True)
    assert np.abs(run_vision(pair)["pooled"] - theirs.numpy()).max() <= TOLERANCE


@torch.no_grad()
def test_positions_are_interpolated_as_transformers_does(pair: Pair) -> None:
    """A geometry with another number of patches than the tower has positions."""
    spec = pair.bundle.manifest.image
    graph = VisionGraph(
        pair.dual,
        positions=positions_for(pair.dual.vision_model.embeddings, columns=20, rows=8),
        mean=spec.mean,
        std=spec.std,
        feature_layers=[-1],
        drop_class_token=True,
    )
    pair.image = np.random.default_rng(6).integers(0, 256, (32, 80, 3), np.uint8)
    theirs = pair.dual.get_image_features(pixel_values=pair.pixels, interpolate_pos_encoding=True)
    theirs = theirs.pooler_output / theirs.pooler_output.norm(dim=-1, keepdim=True)
    pooled, tokens, _ = graph(torch.from_numpy(pair.image[np.newaxis]))
    assert tokens.shape[1] == 20 * 8
    assert float((pooled - theirs).abs().max()) <= TOLERANCE


@torch.no_grad()
def test_text_embedding_is_that_of_transformers(pair: Pair) -> None:
    length = pair.bundle.manifest.text.length
    texts = [f"a {label}" for label in LABELS]
    padded = pair.tokenizer(texts, padding="max_length", max_length=length)
    ids = torch.tensor(padded["input_ids"])
    theirs = pair.dual.get_text_features(input_ids=ids).pooler_output
    theirs = theirs / theirs.norm(dim=-1, keepdim=True)
    ours = pair.bundle.engine("text.onnx").run({"input_ids": ids.numpy()})["embedding"]
    assert np.abs(ours - theirs.numpy()).max() <= TOLERANCE


@torch.no_grad()
def test_projected_tokens_are_those_of_llava(pair: Pair) -> None:
    tokens = run_vision(pair)["tokens"]
    ours = pair.bundle.engine("projector.onnx").run({"tokens": tokens})["embeds"]
    theirs = pair.vlm.get_image_features(pixel_values=pair.pixels).pooler_output[0]
    assert np.abs(ours[0] - theirs.numpy()).max() <= TOLERANCE


@torch.no_grad()
def test_a_patch_alone_is_pooled_as_siglip_pools_it(pair: Pair) -> None:
    """Each patch in text space is what SigLIP's own head says of an image of that patch only."""
    if pair.bundle.manifest.vision.family != "siglip":
        pytest.skip("CLIP has no pooling head")
    tower = pair.dual.vision_model
    last = tower(pair.pixels).last_hidden_state[0]
    alone = tower.head(last[:, None])
    alone = alone / alone.norm(dim=-1, keepdim=True)
    assert np.abs(run_vision(pair)["patches"][0] - alone.numpy()).max() <= TOLERANCE


@torch.no_grad()
def test_captions_are_those_of_generate_token_for_token(pair: Pair) -> None:
    language = LanguageModel(pair.bundle)
    prefix = language.prefill(run_vision(pair)["tokens"][0].astype(np.float16))
    for text in ("describe the scene", "what is the weather"):
        ids = prompt_ids(pair, text)
        theirs = pair.vlm.generate(
            input_ids=ids, pixel_values=pair.pixels, max_new_tokens=24, do_sample=False
        )[0, ids.shape[1] :].tolist()
        ours = language.generate(prefix, text, max_tokens=24)
        stop = pair.tokenizer.eos_token_id
        assert list(ours.token_ids) == [token for token in theirs if token != stop]
        assert ours.finished == (theirs[-1] == stop)


@torch.no_grad()
def test_packed_questions_score_as_one_by_one_in_transformers(pair: Pair) -> None:
    language = LanguageModel(pair.bundle)
    prefix = language.prefill(run_vision(pair)["tokens"][0].astype(np.float16))
    questions = pair.bundle.manifest.questions
    ours = language.log_likelihoods(prefix, language.pack(questions))
    theirs = [
        log_likelihood(pair, question, choice)
        for question in questions
        for choice in question.choices
    ]
    assert np.abs(ours - np.array(theirs)).max() <= TOLERANCE


def prompt_ids(pair: Pair, text: str) -> torch.Tensor:
    image = "<image>" * pair.bundle.manifest.vision.tokens
    whole = f"<bos>{image}{PROMPT.format(text)}"
    return torch.tensor([pair.tokenizer(whole, add_special_tokens=False)["input_ids"]])


def log_likelihood(pair: Pair, question: QuestionSpec, choice: str) -> float:
    """Mean log-likelihood of a choice's tokens and the end token, one sequence at a time."""
    image = "<image>" * pair.bundle.manifest.vision.tokens
    whole = f"<bos>{image}{PROMPT.format(question.question)} {choice}<eos>"
    ids = torch.tensor([pair.tokenizer(whole, add_special_tokens=False)["input_ids"]])
    start = prompt_ids(pair, question.question).shape[1]
    logits = pair.vlm(input_ids=ids, pixel_values=pair.pixels).logits[0]
    scores = logits.log_softmax(dim=-1)[start - 1 : -1]
    return float(scores.gather(1, ids[0, start:, None]).mean())


def test_other_batches_and_lengths_of_the_decoder_agree(siglip_bundle: ModelBundle) -> None:
    """A batch gives what each of its rows gives alone, token by token as at once."""
    spec = siglip_bundle.manifest.language
    assert spec is not None
    engine = siglip_bundle.engine("decoder.onnx")
    embeds = np.random.default_rng(0).normal(size=(3, 4, spec.width)).astype(np.float32)

    def run(rows: NDArray[np.float32], past: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        batch, new, seen = rows.shape[0], rows.shape[1], past.shape[4]
        mask = np.triu(np.full((new, seen + new), -1e9, np.float32), seen + 1)
        return engine.run(
            {
                "inputs_embeds": rows,
                "past": past,
                "position_ids": np.tile(np.arange(seen, seen + new), (batch, 1)),
                "mask": np.tile(mask, (batch, 1, 1, 1)),
                "logit_rows": np.array([new - 1]),
            }
        )

    empty = np.zeros((spec.layers, 2, 3, spec.kv_heads, 0, spec.head_dim), np.float32)
    whole = run(embeds, empty)["logits"]
    for row in range(3):
        past = empty[:, :, :1]
        for step in range(4):
            outputs = run(embeds[row : row + 1, step : step + 1], past)
            past = np.concatenate([past, outputs["new_kv"]], axis=4)
        np.testing.assert_allclose(outputs["logits"][0], whole[row], atol=1e-4)


def test_same_checkpoint_gives_the_same_bundle(
    siglip_checkpoint: Path, siglip_bundle: ModelBundle, tmp_path: Path
) -> None:
    again = export_bundle(siglip_checkpoint, tmp_path / "again")
    assert again.digest == siglip_bundle.digest


def test_dual_alone_makes_a_bundle_without_language(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "dual-only", language=False)
    bundle = export_bundle(checkpoint, tmp_path / "bundle")
    assert bundle.manifest.language is None
    assert bundle.graphs() == ("text.onnx", "vision.onnx")
    encoder = VisionEncoder(bundle)
    encoder.warm_up()
    frame = Frame(image=np.zeros((36, 64, 3), np.uint8), stamp_ns=1)
    assert encoder.encode(frame, 0).tokens.shape == (144, 48)


def test_weights_are_stored_in_half(siglip_bundle: ModelBundle) -> None:
    for graph in siglip_bundle.graphs():
        weights = onnx.load(siglip_bundle.file(graph)).graph.initializer
        assert any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in weights)
        whole = [weight for weight in weights if weight.data_type == onnx.TensorProto.FLOAT]
        assert all(np.prod(weight.dims) < 256 for weight in whole)


def test_a_key_that_is_missing_or_foreign_is_an_error(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "broken")
    file = checkpoint / "dual" / "model.safetensors"
    weights = load_file(file)
    lost = weights.pop("vision_model.post_layernorm.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"missing keys .*post_layernorm"):
        export_bundle(checkpoint, tmp_path / "out")
    named = weights | {"vision_model.post_layernorm.weight": lost}
    save_file(named | {"foreign.weight": lost.clone()}, file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"unexpected keys foreign\.weight"):
        export_bundle(checkpoint, tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))
    assert not (tmp_path / "out").exists()


def test_two_different_towers_need_a_choice(siglip_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "two-towers")
    file = checkpoint / "vlm" / "model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if key.endswith("vision_tower.post_layernorm.weight"))
    weights[name] += 0.5
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match="vision_tower: dual or vision_tower: vlm"):
        export_bundle(checkpoint, tmp_path / "out")
    write_spec(checkpoint, vision_tower="vlm")
    bundle = export_bundle(checkpoint, tmp_path / "out")
    assert bundle.manifest.language is not None


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "dual" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def other_family(checkpoint: Path) -> None:
    (checkpoint / "dual" / "config.json").write_text(json.dumps({"model_type": "bert"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "cannot be loaded"),
        (other_family, "bert checkpoint; supported in dual/ are clip, siglip, siglip2"),
        (lambda c: (c / "dual" / "config.json").unlink(), "config.json is missing"),
        (lambda c: (c / "dual" / "model.safetensors").unlink(), "no .safetensors file"),
        (lambda c: (c / "dual" / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda c: (c / "dual" / "preprocessor_config.json").unlink(), "image_mean"),
        (lambda c: (c / "bundle.yaml").unlink(), "no bundle.yaml"),
        (lambda c: write_spec(c, licences={}), "licences"),
        (lambda c: write_spec(c, colour="red"), "colour"),
        (lambda c: write_spec(c, geometry={"width": 65, "height": 36}), "nearest is 64x36"),
        (lambda c: write_spec(c, model_card="NONE.md"), "model card NONE.md"),
    ],
)
def test_a_broken_checkpoint_gets_a_sentence_and_no_bundle(
    siglip_checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "broken")
    damage(checkpoint)
    with pytest.raises(ExportError, match=message):
        export_bundle(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_folder_that_is_no_bundle_is_left_alone(siglip_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    with pytest.raises(ExportError, match="is no bundle"):
        export_bundle(siglip_checkpoint, tmp_path / "photos")
    assert (tmp_path / "photos" / "mine.jpg").is_file()
