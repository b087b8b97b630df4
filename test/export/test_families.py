# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle of each family gives what transformers gives for the same checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from support.checkpoints import (
    LABELS,
    make_checkpoint,
    make_siglip2_tokenizer,
    save_as,
    set_config,
    write_spec,
)
from support.decoders import check_fewer_bits
from support.places import ROOT
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Idefics3Config,
    PreTrainedTokenizerFast,
    Siglip2Model,
    Siglip2Tokenizer,
)
from transformers.models.idefics3.modeling_idefics3 import (
    Idefics3Connector,
    Idefics3VisionTransformer,
)

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.load import load_checkpoint, round_to_half
from vlm_perception.deploy.checkpoints.shared_tower import check_positions
from vlm_perception.deploy.checkpoints.unsupported import SIGLIP2, SMOL_2B, UNSUPPORTED
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.modeling.projectors import ShuffleProjectorGraph
from vlm_perception.perception.language.kv_cache import causal_mask
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.text_tower import TextTower
from vlm_perception.perception.vision.vocabulary import VocabularyBuilder

EXPORT_MD = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
TOLERANCE = 1e-3
PROMPT = "question: {} answer:"


@dataclass
class Pair:
    """A bundle and transformers' own models with the weights that it holds."""

    checkpoint: Path
    bundle: ModelBundle

    @cached_property
    def dual(self) -> Any:
        return self._load(AutoModel, "dual")

    @cached_property
    def vlm(self) -> Any:
        return self._load(AutoModelForImageTextToText, "vlm")

    def _load(self, kind: Any, name: str) -> Any:
        model = kind.from_pretrained(self.checkpoint / name, dtype=torch.float32).eval()
        round_to_half(model)
        return model

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast.from_pretrained(self.checkpoint / "vlm")

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        spec = self.bundle.manifest.image
        return np.random.default_rng(5).integers(0, 256, (1, spec.height, spec.width, 3), np.uint8)

    def dual_inputs(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """The image as a processor of transformers would give it."""
        spec = self.bundle.manifest.image
        mean, std = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (spec.mean, spec.std))
        pixels = (torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255 - mean) / std
        if not isinstance(self.dual, Siglip2Model):
            return {"pixel_values": pixels}
        rows, columns = image.shape[1] // spec.patch, image.shape[2] // spec.patch
        patches = pixels.reshape(1, 3, rows, spec.patch, columns, spec.patch)
        return {
            "pixel_values": patches.permute(0, 2, 4, 3, 5, 1).reshape(1, rows * columns, -1),
            "pixel_attention_mask": torch.ones(1, rows * columns, dtype=torch.int32),
            "spatial_shapes": torch.tensor([[rows, columns]]),
        }

    def vlm_inputs(self) -> dict[str, Any]:
        """The same for the language model: one tile and no more."""
        inputs = self.dual_inputs(self.image)
        family = self.vlm.config.model_type
        if family == "llava_onevision":
            # transformers cuts an image into tiles only where it is the only one of its prompt.
            several = {
                "image_sizes": torch.tensor([[48, 48]]),
                "batch_num_images": torch.tensor([2]),
            }
            return inputs | several
        if family in ("idefics3", "smolvlm"):
            return {"pixel_values": inputs["pixel_values"][:, None]}
        return inputs

    def prompt(self, text: str) -> torch.Tensor:
        """Ids of a prompt with the tokens that stand for the image."""
        language = self.bundle.manifest.language
        assert language is not None
        whole = f"<bos>{'<image>' * language.image_tokens}{text}"
        return torch.tensor([self.tokenizer(whole, add_special_tokens=False)["input_ids"]])

    def log_likelihood(self, question: QuestionSpec, choice: str) -> float:
        """Mean log-likelihood of a choice's tokens and the end token, one sequence at a time."""
        asked = PROMPT.format(question.question)
        ids = self.prompt(f"{asked} {choice}<eos>")
        start = self.prompt(asked).shape[1]
        logits = self.vlm(input_ids=ids, **self.vlm_inputs()).logits[0]
        scores = logits.log_softmax(dim=-1)[start - 1 : -1]
        return float(scores.gather(1, ids[0, start:, None]).mean())

    def run_vision(self) -> dict[str, NDArray[Any]]:
        return self.bundle.engine("vision.onnx").run({"image": self.image})


FAMILIES: dict[str, dict[str, Any]] = {
    "siglip-llava-llama": {},
    "clip-llava-qwen2": {"family": "clip", "decoder": "qwen2"},
    "siglip-onevision-qwen3": {"language": "llava_onevision", "decoder": "qwen3"},
    "siglip-idefics3-gemma2": {"language": "idefics3", "decoder": "gemma2"},
    "siglip2-smolvlm-gemma": {
        "language": "smolvlm",
        "decoder": "gemma",
        "dual_tokenizer": make_siglip2_tokenizer(),
    },
}
# Made once for all tests of a run.
SHARED = {"siglip-llava-llama": "siglip", "clip-llava-qwen2": "clip"}


@pytest.fixture(scope="module", params=list(FAMILIES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    if shared := SHARED.get(request.param):
        parts = (f"{shared}_checkpoint", f"{shared}_bundle")
        return Pair(*(request.getfixturevalue(part) for part in parts))
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = make_checkpoint(folder / "checkpoint", **FAMILIES[request.param])
    return Pair(checkpoint, export_bundle(checkpoint, folder / "bundle"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many different images as a calibration takes."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index in range(480):
        pixels = random.integers(0, 256, (2, 2, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.bmp")
    return folder


def normalised(features: torch.Tensor) -> NDArray[np.float32]:
    whole: NDArray[np.float32] = (features / features.norm(dim=-1, keepdim=True)).numpy()
    return whole


@torch.no_grad()
def test_image_embedding_is_that_of_transformers(pair: Pair) -> None:
    theirs = pair.dual.get_image_features(**pair.dual_inputs(pair.image)).pooler_output
    assert np.abs(pair.run_vision()["pooled"] - normalised(theirs)).max() <= TOLERANCE


def dual_tokenizer(pair: Pair) -> Any:
    # As for all checkpoints of SigLIP 2, whatever class they name.
    siglip2 = "GemmaTokenizer" in (pair.checkpoint / "dual/tokenizer_config.json").read_text()
    reader = Siglip2Tokenizer if siglip2 else AutoTokenizer
    return reader.from_pretrained(pair.checkpoint / "dual")


@torch.no_grad()
def test_label_embeddings_are_those_of_transformers(pair: Pair) -> None:
    """With the dual encoder's own tokenizer, which a capital letter may matter to."""
    labels = [*LABELS, "Red Car"]
    tokenizer = dual_tokenizer(pair)
    templates = pair.bundle.manifest.vocabulary.templates
    ours = VocabularyBuilder(pair.bundle).build(labels, version=1).embeddings
    for label, embedding in zip(labels, ours, strict=True):
        texts = [template.replace("{label}", label) for template in templates]
        length = pair.bundle.manifest.text.length
        ids = tokenizer(texts, padding="max_length", max_length=length)["input_ids"]
        theirs = pair.dual.get_text_features(input_ids=torch.tensor(ids)).pooler_output
        mean = normalised(theirs).mean(axis=0)
        assert np.abs(embedding - mean / np.linalg.norm(mean)).max() <= TOLERANCE


@torch.no_grad()
def test_captions_are_those_of_transformers_and_cut_as_there(pair: Pair) -> None:
    length = pair.bundle.manifest.text.length
    captions = ["a car", "a Red car and a bus " * length]
    full = {"padding": "max_length", "truncation": True, "max_length": length}
    ids = torch.tensor(dual_tokenizer(pair)(captions, **full)["input_ids"])
    theirs = normalised(pair.dual.get_text_features(input_ids=ids).pooler_output)
    tower = TextTower.load(pair.bundle)
    assert np.abs(tower.embed_each(captions) - theirs).max() <= TOLERANCE
    assert [tower.reads_whole(caption) for caption in captions] == [True, False]


@torch.no_grad()
def test_projected_tokens_are_those_of_transformers(pair: Pair) -> None:
    tokens = pair.run_vision()["tokens"]
    ours = pair.bundle.engine("projector.onnx").run({"tokens": tokens})["embeds"][0]
    theirs = pair.vlm.get_image_features(**pair.vlm_inputs()).pooler_output[0]
    # The decoder's graph scales them together with the texts' embeddings.
    theirs = (theirs / getattr(pair.vlm.get_input_embeddings(), "embed_scale", 1.0)).numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE
    language = pair.bundle.manifest.language
    assert language is not None
    assert language.image_tokens == len(theirs)


@torch.no_grad()
def test_logits_are_those_of_transformers(pair: Pair) -> None:
    """The whole prompt at once, without a cache."""
    language = pair.bundle.manifest.language
    assert language is not None
    ids = pair.prompt(PROMPT.format("what is the weather"))
    theirs = pair.vlm(input_ids=ids, **pair.vlm_inputs()).logits[0].numpy()
    tokens = pair.run_vision()["tokens"]
    image = pair.bundle.engine("projector.onnx").run({"tokens": tokens})["embeds"][0]
    embeds = np.load(pair.bundle.file(language.embeddings)).astype(np.float32)[ids[0]]
    embeds[1 : 1 + len(image)] = image
    count = len(embeds)
    shape = (language.layers, 2, 1, language.kv_heads, 0, language.head_dim)
    outputs = pair.bundle.engine("decoder.onnx").run(
        {
            "inputs_embeds": embeds[np.newaxis],
            "past": np.zeros(shape, np.float32),
            "position_ids": np.arange(count)[np.newaxis],
            "mask": causal_mask(count)[np.newaxis, np.newaxis],
            "logit_rows": np.arange(count),
        }
    )
    assert np.abs(outputs["logits"][0] - theirs).max() <= TOLERANCE
    assert outputs["new_kv"].nbytes == count * language.kv_bytes_per_token


@torch.no_grad()
def test_captions_are_those_of_generate_token_for_token(pair: Pair) -> None:
    language = LanguageModel(pair.bundle)
    prefix = language.prefill(pair.run_vision()["tokens"][0].astype(np.float16))
    for text in ("describe the scene", "what is the weather"):
        ids = pair.prompt(PROMPT.format(text))
        theirs = pair.vlm.generate(
            input_ids=ids, max_new_tokens=24, do_sample=False, **pair.vlm_inputs()
        )[0, ids.shape[1] :].tolist()
        ours = language.generate(prefix, text, max_tokens=24)
        stop = pair.tokenizer.eos_token_id
        assert list(ours.token_ids) == [token for token in theirs if token != stop]
        assert ours.finished == (theirs[-1] == stop)


@torch.no_grad()
def test_packed_questions_score_as_one_by_one_in_transformers(pair: Pair) -> None:
    language = LanguageModel(pair.bundle)
    prefix = language.prefill(pair.run_vision()["tokens"][0].astype(np.float16))
    questions = pair.bundle.manifest.questions
    ours = language.log_likelihoods(prefix, language.pack(questions))
    theirs = [
        pair.log_likelihood(question, choice)
        for question in questions
        for choice in question.choices
    ]
    assert np.abs(ours - np.array(theirs)).max() <= TOLERANCE


def test_decoders_hold_in_fewer_bits(pair: Pair, tmp_path: Path) -> None:
    check_fewer_bits(pair.bundle, tmp_path)


@torch.no_grad()
def test_a_patch_alone_is_pooled_as_siglip_pools_it(pair: Pair) -> None:
    """Each patch in text space is what SigLIP's own head says of an image of that patch only."""
    if pair.bundle.manifest.vision.family != "siglip":
        pytest.skip("CLIP has no pooling head")
    tower = pair.dual.vision_model
    last = tower(**pair.dual_inputs(pair.image)).last_hidden_state[0]
    alone = normalised(tower.head(last[:, None]))
    assert np.abs(pair.run_vision()["patches"][0] - alone).max() <= TOLERANCE


@torch.no_grad()
def test_naflex_is_exported_at_one_resolution(tmp_path: Path, images: Path) -> None:
    """16x9 patches, as many as the 12x12 whose positions it was trained with."""
    kind = {"family": "siglip2", "language": None, "dual_tokenizer": make_siglip2_tokenizer()}
    checkpoint = make_checkpoint(tmp_path / "checkpoint", **kind)
    options = ExportOptions(calibration=images)
    naflex = Pair(checkpoint, export_bundle(checkpoint, tmp_path / "bundle", options))
    theirs = naflex.dual.get_image_features(**naflex.dual_inputs(naflex.image)).pooler_output
    assert naflex.image.shape == (1, 36, 64, 3)
    assert np.abs(naflex.run_vision()["pooled"] - normalised(theirs)).max() <= TOLERANCE
    validation = naflex.bundle.manifest.validation
    assert validation is not None
    assert validation.checkpoint is None, "its own processor makes images of many shapes"


@torch.no_grad()
def test_metaclip2_reads_texts_at_its_own_end_token(tmp_path: Path) -> None:
    """It says eos_token_id 2 as OpenAI's CLIPs do, and means it."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", family="metaclip_2", language=None)
    metaclip = Pair(checkpoint, export_bundle(checkpoint, tmp_path / "bundle"))
    test_label_embeddings_are_those_of_transformers(metaclip)
    test_image_embedding_is_that_of_transformers(metaclip)


def test_idefics3_joins_squares_of_any_grid() -> None:
    """Two thirds of a square's rows give two thirds of what transformers gives for the square."""
    torch.manual_seed(0)
    config = Idefics3Config(
        vision_config={"hidden_size": 8, "num_attention_heads": 1},
        text_config={"model_type": "llama", "hidden_size": 6, "num_attention_heads": 1},
        scale_factor=2,
    )
    connector, norm = Idefics3Connector(config), torch.nn.LayerNorm(8)
    tokens = torch.randn(1, 36, 8)
    whole = connector(norm(tokens))
    projection = connector.modality_projection
    band = ShuffleProjectorGraph(projection, 2, norm, (6, 4))(tokens[:, :24])
    torch.testing.assert_close(band, whole[:, :6])


def test_tokens_that_are_joined_cannot_be_pruned(tmp_path: Path, images: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", language="idefics3")
    options = ExportOptions(keep="0.5@1", calibration=images)
    with pytest.raises(ExportError, match=r"merges neighbouring tokens .* without --keep"):
        export_bundle(checkpoint, tmp_path / "out", options)


def test_a_grid_that_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", language="smolvlm")
    write_spec(checkpoint, geometry={"width": 48, "height": 36})
    with pytest.raises(ExportError, match="12x9 patches cannot be divided"):
        export_bundle(checkpoint, tmp_path / "out")


@pytest.mark.parametrize(
    ("language", "parts"),
    [("llava_onevision", r"encoder\.layers\.2 and head"), ("smolvlm", "head")],
)
def test_a_tower_without_all_that_tags_need_is_not_filled_up(
    tmp_path: Path, language: str, parts: str
) -> None:
    """The last layer or the head of dual/ over another model's tower would be neither's."""
    checkpoint = make_checkpoint(tmp_path, language=language)
    with pytest.raises(ExportError, match=rf"lacks {parts}, which .*Set vision_tower: same"):
        load_checkpoint(checkpoint, "vlm")
    assert load_checkpoint(checkpoint, "same").vlm is not None


def test_a_tower_with_doubled_positions_is_refused() -> None:
    """With 25 patches along a side transformers' Idefics3 rounds some down to their neighbour's."""
    config = Idefics3Config().vision_config
    config.update({"hidden_size": 8, "num_attention_heads": 1, "image_size": 50, "patch_size": 2})
    with pytest.raises(ExportError, match="25x25 patches"):
        check_positions(Idefics3VisionTransformer(config))
    config.image_size = 52
    check_positions(Idefics3VisionTransformer(config))


@pytest.mark.parametrize(
    ("dual", "vlm"),
    [
        (torch.float32, torch.float16),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_a_tower_saved_in_another_type_is_the_same(
    siglip_checkpoint: Path, tmp_path: Path, dual: torch.dtype, vlm: torch.dtype
) -> None:
    """As published: SigLIP in FP32, most language models in BF16."""
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "rounded")
    save_as(checkpoint / "dual", dual)
    save_as(checkpoint / "vlm", vlm)
    assert load_checkpoint(checkpoint, "same").vlm is not None
    file = checkpoint / "vlm" / "model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if re.search("vision_tower.*1.self_attn.q_proj.weight", key))
    weights[name][0, 0] *= 1.02
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"differ, .* in encoder\.layers\.1\.self_attn"):
        load_checkpoint(checkpoint, "same")


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_siglip2_reads_texts_in_lower_case(tmp_path: Path, family: str) -> None:
    """Published as a GemmaTokenizer, which leaves capitals as they are."""
    tokenizer = make_siglip2_tokenizer()
    checkpoint = make_checkpoint(tmp_path, family=family, language=None, dual_tokenizer=tokenizer)
    ours = load_checkpoint(checkpoint, "same").dual_tokenizer
    theirs = Siglip2Tokenizer.from_pretrained(checkpoint / "dual")
    for text in ("a Red Car", "A TRUCK", "pedestrian", "Ampel \u00c4"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours("a Red Car") == ours("a red car")
    assert tokenizer("a Red Car") != tokenizer("a red car")


def test_siglips_own_tokenizer_is_read_from_tokenizer_json(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    """transformers has that class only with SentencePiece."""
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "sentencepiece")
    before = load_checkpoint(checkpoint, "same").dual_tokenizer("a red car")
    set_config(checkpoint / "dual/tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    assert load_checkpoint(checkpoint, "same").dual_tokenizer("a red car") == before


@pytest.mark.parametrize(
    ("part", "kind"), [(part, kind) for part, kinds in UNSUPPORTED.items() for kind in kinds]
)
def test_a_model_that_is_not_exported_gets_a_remedy(tmp_path: Path, part: str, kind: str) -> None:
    """Before any weights are looked for; the documentation lists the same."""
    for name, model_type in {"dual": "siglip", "vlm": "llava", part: kind}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ExportError) as caught:
        load_checkpoint(tmp_path, "same")
    known = UNSUPPORTED[part][kind]
    assert f"{tmp_path / part} is a {kind} model, which is not exported: {known.why}; " in str(
        caught.value
    )
    assert f"{known.instead} is" in str(caught.value)
    rows = [row for row in EXPORT_MD.splitlines() if row.startswith("| `") and f"`{kind}`" in row]
    assert any(known.why in row and known.instead in row for row in rows)


@pytest.mark.parametrize(
    ("dual", "vlm", "words"),
    [
        ("bert", "llava", f"an encoder of images and texts .*; {SIGLIP2} is one"),
        ("siglip", "qwen2", f"a decoder of llama or .* smolvlm.*; {SMOL_2B} is one"),
        ("llava", "llava", "dual is a llava model, and dual takes .*; its place is vlm/"),
    ],
)
def test_a_model_of_another_kind_is_sent_elsewhere(
    tmp_path: Path, dual: str, vlm: str, words: str
) -> None:
    for name, model_type in {"dual": dual, "vlm": vlm}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ExportError, match=words):
        load_checkpoint(tmp_path, "same")


ROTARY = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}


@pytest.mark.parametrize(
    ("family", "file", "changes", "message"),
    [
        ("siglip", "vlm/config", {"text_config__model_type": "mistral"}, "mistral decoder"),
        ("siglip", "vlm/config", {"text_config__rope_parameters": ROTARY}, "rotary .* is yarn"),
        (
            "siglip",
            "vlm/config",
            {"vision_config__model_type": "pixtral"},
            "pixtral tower; supported are clip_vision_model",
        ),
        ("siglip", "vlm/config", {"vision_config__num_attention_heads": 4}, "num_attention_heads"),
        ("siglip", "vlm/config", {"vision_feature_select_strategy": "default"}, "drops the first"),
        ("siglip", "vlm/config", {"vision_feature_layer": -9}, r"hidden states \[-9\]"),
        (
            "siglip",
            "dual/config",
            {"vision_config__vision_use_head": False},
            "without a pooling head",
        ),
        (
            "siglip",
            "vlm/processor_config",
            {"image_processor__image_mean": [0, 0, 0]},
            "scale pixels differently",
        ),
        ("siglip", "dual/preprocessor_config", {"image_mean": 0.5}, "for three colours"),
        ("siglip", "dual/preprocessor_config", {"rescale_factor": 1.0}, "rescale by 1/255"),
        ("clip", "vlm/config", {"vision_feature_select_strategy": "full"}, "the class token"),
        (
            "clip",
            "vlm/config",
            {"text_config__use_sliding_window": True, "text_config__sliding_window": 100},
            "takes 144 tokens, and the decoder of vlm/ has 100 positions",
        ),
    ],
)
def test_what_cannot_be_exported_gets_a_sentence(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    family: str,
    file: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    source = request.getfixturevalue(f"{family}_checkpoint")
    checkpoint = shutil.copytree(source, tmp_path / "broken")
    set_config(checkpoint / f"{file}.json", **changes)
    write_spec(checkpoint, vision_tower="same")
    with pytest.raises(ExportError, match=message):
        export_bundle(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
