# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A language model with a vision tower of its own gives what transformers gives, view and words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.checkpoints import make_checkpoint, pair_up, set_config, write_spec
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import SizeDict
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import (
    LANGUAGE_VISION_FP16_GRAPH,
    LANGUAGE_VISION_GRAPH,
    VISION_GRAPH,
    ModelBundle,
)
from vlm_perception.bundle.golden import check_alike
from vlm_perception.bundle.manifest import TowerSpec
from vlm_perception.cli import app
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.families import LANGUAGE_FAMILIES
from vlm_perception.deploy.checkpoints.load import load_checkpoint, round_to_half
from vlm_perception.deploy.checkpoints.views import TilesWish
from vlm_perception.deploy.compression.precision_config import (
    CONFIG_NAME,
    quantized_layers,
    read_config,
)
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.onnx.writer import layer_of
from vlm_perception.deploy.validation import images
from vlm_perception.deploy.validation.model_outputs import BundleModel
from vlm_perception.deploy.validation.parity import exceeded
from vlm_perception.deploy.validation.transformers_reference import TransformersModel
from vlm_perception.engines.tensorrt.plan_store import plan_source
from vlm_perception.modeling.towers.internvl import InternVision
from vlm_perception.modeling.towers.trunk import LanguageTower
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.views import Views
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

TOLERANCE = 1e-3
SIZES = ((36, 64), (70, 50), (48, 48), (100, 7), (720, 1280))
"""Heights and widths of images."""


@dataclass
class Pair:
    """A bundle with two towers, and transformers' own language model with the weights in it."""

    checkpoint: Path
    bundle: ModelBundle

    @property
    def tower(self) -> TowerSpec:
        language = self.bundle.manifest.language
        assert language is not None
        assert language.tower is not None
        return language.tower

    def __post_init__(self) -> None:
        folder = self.checkpoint / "vlm"
        self.vlm: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        round_to_half(self.vlm.eval())
        self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        tiles, edge = self.tower.tiles, 48
        if tiles is not None and self.kind == "llava_onevision":
            sizes = [[tiles.rows * edge, tiles.columns * edge]]
            self.processor.image_grid_pinpoints = self.vlm.config.image_grid_pinpoints = sizes
        elif tiles is not None and self.kind == "internvl":
            self.processor.min_patches = self.processor.max_patches = self.tower.views - 1
        elif tiles is not None:
            self.processor.size = SizeDict(longest_edge=max(tiles.columns, tiles.rows) * edge)

    @property
    def kind(self) -> str:
        return str(self.vlm.config.model_type)

    def inputs(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """What the language model's own processor makes of an image, cut into tiles or not."""
        photo, tiled = Image.fromarray(image), self.tower.tiles is not None
        if self.kind == "llava_onevision" and not tiled:
            # transformers cuts an image into tiles only where it is the only one of its prompt.
            made = self.processor(images=[[photo, photo]], return_tensors="pt")
            one = {name: value[:1] for name, value in made.items()}
            return {**one, "pixel_values": one["pixel_values"][:, 0], "batch_num_images": [2]}
        switches = {"smolvlm": "do_image_splitting", "internvl": "crop_to_patches"}
        splitting = {switches[self.kind]: tiled} if self.kind in switches else {}
        made = dict(self.processor(images=photo, return_tensors="pt", **splitting))
        made.pop("num_patches", None)
        return made

    def prompt(self, text: str, image: NDArray[np.uint8]) -> torch.Tensor:
        """With the tokens that transformers puts in place of the image."""
        with torch.no_grad():
            found = self.vlm.get_image_features(**self.inputs(image)).pooler_output
        features = found.flatten(0, 1) if self.kind == "internvl" else found[0]
        written = "<image>" * len(features)
        if self.kind == "smolvlm" and (tiles := self.tower.tiles) is not None:
            count = len(features) // self.tower.views
            processor = Idefics3Processor(self.processor, self.tokenizer, image_seq_len=count)
            shape = {"rows": [[tiles.rows]], "cols": [[tiles.columns]]}
            written = processor.replace_image_token(shape, 0)
        whole = f"<bos>{written}question: {text} answer:"
        return torch.tensor([self.tokenizer(whole, add_special_tokens=False)["input_ids"]])


def photo(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


PAIRS: dict[str, dict[str, Any]] = {
    "llava": {},
    "smolvlm": {"keep": "0.5@1", "validate": False},
    "llava_onevision": {},
    "internvl": {},
    "smolvlm 2x2+1": {"tiles": "2x2+1", "aspect": "16:9"},
    "llava_onevision auto": {"tiles": "auto", "aspect": "16:9"},
    "internvl 2x1+1": {"tiles": "2x1+1", "aspect": "16:9"},
}
BETWEEN = "<bos><fake_token_around_image><row_1_col_1>{image}<fake_token_around_image>"


@pytest.fixture(scope="module", params=list(PAIRS))
def pair(
    request: pytest.FixtureRequest,
    clip_checkpoint: Path,
    own_checkpoint: Path,
    own_bundle: ModelBundle,
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    """LLaVA and its CLIP beside a SigLIP, and others and their SigLIP beside a CLIP.

    Tokens of the CLIP may be pruned beside a connector that joins squares of the other's.
    """
    if request.param == "llava":
        return Pair(own_checkpoint, own_bundle)
    folder, language = tmp_path_factory.mktemp("pair"), request.param.split()[0]
    decoder = {"llava_onevision": "qwen2", "smolvlm": "gemma", "internvl": "qwen3"}.get(
        language, "llama"
    )
    vlm = make_checkpoint(folder / "vlm", language=language, decoder=decoder, seed=1)
    given, spec = PAIRS[request.param], {"geometry": None}
    options = ExportOptions(**given, calibration=photos if "keep" in given else None)
    if options.tiles != "1" and language == "smolvlm":
        spec["caption"] = {"template": f"{BETWEEN}question: {{text}} answer:"}
    elif options.tiles != "1" and language == "llava_onevision":
        layouts = [[48, 48], [48, 96], [96, 96]]
        set_config(vlm / "vlm/preprocessor_config.json", image_grid_pinpoints=layouts)
    checkpoint = pair_up(folder / "checkpoint", clip_checkpoint, vlm, **spec)
    return Pair(checkpoint, export_bundle(checkpoint, folder / "bundle", options))


def test_a_view_is_what_the_processor_makes(pair: Pair) -> None:
    views, image = Views(pair.tower), pair.tower.image
    mean, std = np.float32(image.mean), np.float32(image.std)
    # Tiles are laid out for one aspect.
    for size in SIZES if pair.tower.tiles is None else ((36, 64), (720, 1280)):
        pixels = pair.inputs(photo(*size))["pixel_values"].numpy()
        theirs = pixels.reshape(-1, *pixels.shape[-3:]).transpose(0, 2, 3, 1)
        ours = (views.of(photo(*size)) / np.float32(255) - mean) / std
        # A step of a pixel's value is 0.008 and more.
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-5, size


@torch.no_grad()
def test_words_are_those_of_transformers(pair: Pair) -> None:
    encoder, language = VisionEncoder(pair.bundle), LanguageModel(pair.bundle)
    image = photo(36, 64)
    embedding = encoder.encode(Frame(image, 1), 0)
    assert embedding.tokens.size == 0 and embedding.image is image
    prefix, given = language.read(embedding), pair.inputs(image)
    for text in ("describe the scene", "what is the weather"):
        ids = pair.prompt(text, image)
        theirs = pair.vlm(input_ids=ids, **given).logits[0, -1].numpy()
        ours = next(language.stream(prefix, text, max_tokens=1)).logits
        assert np.abs(ours - theirs).max() <= TOLERANCE
        written = pair.vlm.generate(input_ids=ids, max_new_tokens=8, do_sample=False, **given)
        words = language.generate(prefix, text, max_tokens=8)
        stop = pair.tokenizer.eos_token_id
        expected = written[0, ids.shape[1] :].tolist()
        assert list(words.token_ids) == [token for token in expected if token != stop]


def test_the_reference_of_a_validation_looks_with_the_models_own_processor(
    pair: Pair,
) -> None:
    """At the geometry of the bundle only the tower of dual/ sees other pixels."""
    tiles = pair.tower.tiles
    layout = "1" if tiles is None else f"{tiles.columns}x{tiles.rows}+1"
    source = load_checkpoint(pair.checkpoint, "own", TilesWish(layout, (1280, 720)))
    round_to_half(source.vlm)
    theirs = TransformersModel(source, pair.bundle).predict(photo(36, 64))
    ours = BundleModel(pair.bundle).predict(photo(36, 64))
    for one, other in zip(ours.attributes, theirs.attributes, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=TOLERANCE)
    assert ours.caption[:10] == theirs.caption[:10]


def test_shared_or_its_own_an_equal_tower_says_the_same(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    """At the processor's geometry both see the same pixels; shared tokens are sent in FP16."""
    said = []
    for kind in ("same", "own"):
        checkpoint = pair_up(
            tmp_path / kind, siglip_checkpoint, siglip_checkpoint, vision_tower=kind, geometry=None
        )
        options = ExportOptions(geometry="checkpoint")
        bundle = export_bundle(checkpoint, tmp_path / f"{kind}-bundle", options)
        encoder, reasoner = VisionEncoder(bundle), Reasoner(LanguageService(bundle))
        assert (LANGUAGE_VISION_GRAPH in bundle.manifest.files) == (kind == "own")
        seen = [encoder.encode(Frame(photo(36, 64 + i), i), i) for i in range(4)]
        said.append([reasoner.reason(each) for each in seen])
    for shared, own in zip(*said, strict=True):
        assert shared.trigger == own.trigger and shared.caption == own.caption
        for one, other in zip(shared.attributes, own.attributes, strict=True):
            assert one.value == other.value
            assert one.probabilities == pytest.approx(other.probabilities, abs=0.01)


def test_towers_of_two_families_cannot_be_the_same(
    siglip_checkpoint: Path, clip_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = pair_up(tmp_path / "crossed", siglip_checkpoint, clip_checkpoint)
    write_spec(checkpoint, vision_tower="same")
    with pytest.raises(ExportError, match=r"a clip_vision_model tower .* vision_tower: own in"):
        export_bundle(checkpoint, tmp_path / "out")


def test_the_tower_is_measured_apart(own_bundle: ModelBundle) -> None:
    language = LanguageModel(own_bundle)
    language.verify()
    questions = language.pack(own_bundle.manifest.questions)
    cost = language.measure(questions, {})
    assert cost.tower_s > 0
    assert cost.answers_s == cost.tower_s + cost.prefill_s + cost.questions_s


@pytest.fixture(scope="module")
def small_bundle(
    own_checkpoint: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> ModelBundle:
    """`own_bundle` with both towers in INT8."""
    folder = tmp_path_factory.mktemp("small")
    options = ExportOptions(precision="int8-mixed", calibration=photos, accept_drop=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images.split_images, "__kwdefaults__", {"least": 5, "most": 12})
        return export_bundle(own_checkpoint, folder / "bundle", options)


def test_its_own_tower_is_quantized_by_the_same_option(
    small_bundle: ModelBundle, own_bundle: ModelBundle
) -> None:
    manifest = small_bundle.manifest
    assert set(manifest.golden.cosine) == {VISION_GRAPH, LANGUAGE_VISION_GRAPH}
    config = read_config(small_bundle.file(CONFIG_NAME)).language_vision
    assert config is not None
    assert config.measured is not None
    quantized = set(quantized_layers(config))
    assert config.measured.layers.keys() == quantized
    for graph in (LANGUAGE_VISION_GRAPH, LANGUAGE_VISION_FP16_GRAPH):
        nodes = onnx.load(small_bundle.file(graph)).graph.node
        fed = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
        inside = {layer_of(node) for node in nodes if node.input and fed.issuperset(node.input)}
        assert inside == quantized
    assert plan_source(small_bundle.graph_file(LANGUAGE_VISION_GRAPH)) == LANGUAGE_VISION_FP16_GRAPH
    views = np.zeros((1, 48, 48, 3), np.uint8)
    whole, small = (
        each.engine(LANGUAGE_VISION_GRAPH).run({"image": views + np.uint8(90)})
        for each in (own_bundle, small_bundle)
    )
    check_alike(small, whole, 0.98)


def test_what_int8_costs_its_own_tower_is_measured_and_shown(small_bundle: ModelBundle) -> None:
    found = small_bundle.manifest.validation
    assert found is not None
    mean, least = found.dense.tower_cosine_mean, found.dense.tower_cosine_min
    assert mean is not None and least is not None
    assert 0.98 < least <= mean < 1.0
    shown = CliRunner().invoke(
        app, ["bundle", "show", str(small_bundle.path)], env={"COLUMNS": "200"}
    )
    assert f"language model's tower {mean:.4f}, worst {least:.4f}" in shown.output
    worse = found.dense.model_copy(update={"tower_cosine_mean": 0.9})
    assert [fault.split()[0] for fault in exceeded(worse, "the dense model")] == [
        "tower_cosine_mean"
    ]


@pytest.mark.parametrize(
    ("language", "options", "message"),
    [
        ("smolvlm", {"tiles": "2x1+1", "aspect": "16:9"}, r"does not fit .* makes 2x2\+1; give"),
        ("smolvlm", {"tiles": "2x2+1"}, "needs the camera's aspect"),
        ("smolvlm", {"tiles": "4x3+1", "aspect": "16:9"}, "has 512 positions .* fewer --tiles"),
        ("llava_onevision", {"tiles": "3x1+1", "aspect": "16:9"}, r"its processor has 1x1\+1"),
        ("llava", {"tiles": "2x2+1", "aspect": "16:9"}, "does not cut images into tiles"),
        ("internvl", {"tiles": "1x2+1", "aspect": "16:9"}, r"does not fit .* makes 2x1\+1; give"),
    ],
)
def test_tiles_that_cannot_be_get_a_sentence(
    siglip_checkpoint: Path,
    clip_checkpoint: Path,
    tmp_path: Path,
    language: str,
    options: dict[str, str],
    message: str,
) -> None:
    vlm = clip_checkpoint
    if language != "llava":
        vlm = make_checkpoint(tmp_path / "vlm", language=language)
        if language == "llava_onevision":
            name = "vlm/preprocessor_config.json"
            set_config(vlm / name, image_grid_pinpoints=[[48, 48], [48, 96]])
    checkpoint = pair_up(
        tmp_path / "pair", siglip_checkpoint, vlm, vision_tower="own", geometry=None
    )
    with pytest.raises(ExportError, match=message):
        export_bundle(checkpoint, tmp_path / "out", ExportOptions(**options))


def test_what_is_written_for_tiles_is_checked() -> None:
    for wrong in ("2x2", "0x1+1", "two", ""):
        with pytest.raises(ExportError, match="columns and rows of tiles beside the whole"):
            ExportOptions(tiles=wrong)


@torch.no_grad()
@pytest.mark.parametrize(
    "form",
    [
        {"use_qk_norm": True, "norm_type": "rms_norm"},
        {"use_absolute_position_embeddings": False, "attention_bias": True},
        {"use_mean_pooling": False},
    ],
)
def test_internvit_is_exported_in_each_of_its_forms(form: dict[str, Any]) -> None:
    """As in InternVL of 1 B to 78 B parameters, from pixels to what the decoder reads."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 100}
    config = InternVLConfig(
        vision_config={**shape, **form, "intermediate_size": 64, "image_size": 48, "patch_size": 4},
        text_config={**text, "num_attention_heads": 4, "num_key_value_heads": 2},
        image_token_id=3,
    )
    model = InternVLForConditionalGeneration(config).eval()
    for weight in model.parameters():
        weight.add_(0.3 * torch.randn_like(weight))
    family, parts = LANGUAGE_FAMILIES["internvl"], InternVision.parts(model.model.vision_tower)
    tower = LanguageTower(
        parts,
        grid=(12, 12),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        feature_layers=[2],
    )
    image = torch.from_numpy(photo(48, 48))[None]
    ours = family.projector(model.model, parts.last_norm, (12, 12))(tower(image))[0]
    theirs = family.features(model, image.permute(0, 3, 1, 2) / 255)
    assert ours.shape == theirs.shape == (36, 64)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
