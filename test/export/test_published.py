# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are read as they are published, or refused with the remedy, never half read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import make_checkpoint, make_tokenizer, set_config, write_spec
from transformers import AutoModel, AutoModelForImageTextToText

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.load import load_checkpoint
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.manifest_fields import stop_tokens

Change = Callable[[Path], None]


def test_a_clip_of_openai_names_the_end_token_that_its_texts_are_read_at(
    clip_checkpoint: Path, tmp_path: Path
) -> None:
    """All of them say eos_token_id 2; those that transformers writes today say the true one."""
    config = json.loads((clip_checkpoint / "dual/config.json").read_text())
    assert config["text_config"]["eos_token_id"] == 2
    source = load_checkpoint(clip_checkpoint, "same")
    end = source.dual_tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert source.dual.config.text_config.eos_token_id == end == len(source.dual_tokenizer) - 1
    today = shutil.copytree(clip_checkpoint, tmp_path / "today")
    set_config(today / "dual/config.json", text_config__eos_token_id=end)
    assert load_checkpoint(today, "same").dual.config.text_config.eos_token_id == end


def test_a_clip_whose_end_is_not_the_highest_id_is_refused(tmp_path: Path) -> None:
    """The test's own tokenizer ends texts with 2, and transformers would read them anywhere."""
    tokenizer = make_tokenizer()
    make_checkpoint(tmp_path, family="clip", language=None, dual_tokenizer=tokenizer)
    with pytest.raises(
        ExportError, match=r"at its highest token id, .* ends a text with 2; use the"
    ):
        load_checkpoint(tmp_path, "same")


def shards(checkpoint: Path) -> None:
    for name, kind in (("dual", AutoModel), ("vlm", AutoModelForImageTextToText)):
        model = kind.from_pretrained(checkpoint / name, dtype=torch.float32)
        (checkpoint / name / "model.safetensors").unlink()
        model.save_pretrained(checkpoint / name, max_shard_size="100KB")
        assert len(list((checkpoint / name).glob("model-*.safetensors"))) > 1


def hub_snapshot(checkpoint: Path) -> None:
    """Files are links into blobs/, the directories links to a revision of the cache."""
    for name in ("dual", "vlm"):
        cache = checkpoint.with_name("hub") / f"models--org--{name}"
        snapshot = cache / "snapshots" / "0123abcd"
        snapshot.mkdir(parents=True)
        (cache / "blobs").mkdir()
        for file in (checkpoint / name).iterdir():
            blob = cache / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            file.rename(blob)
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
        (checkpoint / name).rmdir()
        (checkpoint / name).symlink_to(snapshot)


def positions_in_the_file(checkpoint: Path) -> None:
    """As in openai/clip-vit-large-patch14-336, beside a text_config_dict of null."""
    file = checkpoint / "dual" / "model.safetensors"
    weights = load_file(file)
    for tower, count in (("text_model", 24), ("vision_model", 145)):
        weights[f"{tower}.embeddings.position_ids"] = torch.arange(count)[None]
    save_file(weights, file, metadata={"format": "pt"})
    nothing = {"text_config_dict": None, "vision_config_dict": None}
    set_config(checkpoint / "dual/config.json", **nothing)


def llava_names(checkpoint: Path) -> None:
    """As in llava-hf's files, which were written before transformers renamed the towers."""
    file = checkpoint / "vlm" / "model.safetensors"
    renamed = {
        re.sub(r"^vision_tower\.", "vision_tower.vision_model.", name): weight
        for name, weight in load_file(file).items()
    }
    # As their Llama was saved then; it follows from the config.
    renamed["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(renamed, file, metadata={"format": "pt"})


def other_formats_beside(checkpoint: Path) -> None:
    for name in ("dual", "vlm"):
        (checkpoint / name / "onnx").mkdir()
        for other in ("pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "onnx/model.onnx"):
            (checkpoint / name / other).write_bytes(b"\x80\x02")
        (checkpoint / name / "README.md").write_text("---\nlicense: mit\n---\n")


def processor_alone(checkpoint: Path) -> None:
    settings = checkpoint / "dual" / "preprocessor_config.json"
    whole = {"processor_class": "Processor", "image_processor": json.loads(settings.read_text())}
    (checkpoint / "dual" / "processor_config.json").write_text(json.dumps(whole))
    settings.unlink()


def processors_of_two_versions(checkpoint: Path) -> None:
    """As in llava-hf: settings of the image in one file, of the text's places in the other."""
    own = checkpoint / "vlm" / "processor_config.json"
    whole = json.loads(own.read_text())
    (checkpoint / "vlm/preprocessor_config.json").write_text(
        json.dumps(whole.pop("image_processor"))
    )
    own.write_text(json.dumps(whole))


def chat_template(checkpoint: Path) -> None:
    (checkpoint / "vlm" / "chat_template.jinja").write_text("{{ messages[0].content }}")


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("siglip", shards),
        ("siglip", hub_snapshot),
        ("siglip", llava_names),
        ("siglip", other_formats_beside),
        ("siglip", processor_alone),
        ("siglip", processors_of_two_versions),
        ("siglip", chat_template),
        ("clip", shards),
        ("clip", positions_in_the_file),
        ("clip", llava_names),
        ("clip", hub_snapshot),
    ],
)
def test_a_published_layout_gives_the_same_models(
    request: pytest.FixtureRequest, tmp_path: Path, family: str, change: Change
) -> None:
    plain = request.getfixturevalue(f"{family}_checkpoint")
    checkpoint = shutil.copytree(plain, tmp_path / "published")
    change(checkpoint)
    wanted, source = load_checkpoint(plain, "same"), load_checkpoint(checkpoint, "same")
    for ours, theirs in ((source.dual, wanted.dual), (source.vlm, wanted.vlm)):
        weights = theirs.state_dict()
        assert ours.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[key]) for key, value in ours.state_dict().items())
    assert source.normalisation == wanted.normalisation
    read = {Path(name).parent.name for name in source.weights}
    assert read == {"dual", "vlm"}
    assert all((checkpoint / name).is_file() for name in source.weights)


def test_a_table_that_is_tied_is_stored_once_in_the_checkpoint(siglip_checkpoint: Path) -> None:
    """As in SmolVLM and Qwen2-0.5B: the output layer is the table of embeddings."""
    stored = load_file(siglip_checkpoint / "vlm" / "model.safetensors")
    assert not [name for name in stored if "lm_head" in name]
    vlm = load_checkpoint(siglip_checkpoint, "same").vlm
    assert vlm is not None
    assert vlm.lm_head.weight is vlm.get_input_embeddings().weight


def test_without_a_generation_config_the_config_or_the_tokenizer_names_the_end(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    """SmolVLM2's config names no end token; transformers' default of a Llama is another one."""
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "bare")
    generation, config = (
        checkpoint / f"vlm/{name}.json" for name in ("generation_config", "config")
    )
    set_config(generation, eos_token_id=[7, 9])
    assert stop_tokens(load_checkpoint(checkpoint, "same")) == (7, 9)
    generation.unlink()
    set_config(config, text_config__eos_token_id=5)
    assert stop_tokens(load_checkpoint(checkpoint, "same")) == (5,)
    whole = json.loads(config.read_text())
    del whole["text_config"]["eos_token_id"]
    config.write_text(json.dumps(whole))
    set_config(checkpoint / "vlm/tokenizer_config.json", eos_token="<image>")
    source = load_checkpoint(checkpoint, "same")
    assert source.vlm_tokenizer is not None
    assert stop_tokens(source) == (source.vlm_tokenizer.convert_tokens_to_ids("<image>"),)


def adapter_alone(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()
    adapter(directory)


def adapter(directory: Path) -> None:
    settings = {"peft_type": "LORA", "base_model_name_or_path": "llava-hf/llava-1.5-7b-hf", "r": 8}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    save_file(
        {"base_model.lora_A.weight": torch.zeros(8, 4)}, directory / "adapter_model.safetensors"
    )


def quantized(method: str, **settings: Any) -> Change:
    def change(directory: Path) -> None:
        whole = {"quant_method": method, **settings}
        set_config(directory / "config.json", quantization_config=whole)

    return change


def quantized_decoder(directory: Path) -> None:
    whole = {"quant_method": "compressed-tensors"}
    set_config(directory / "config.json", text_config__quantization_config=whole)


def pickle_only(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    torch.save(weights, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def a_lost_shard(directory: Path) -> None:
    """As a download leaves it that was broken off."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    names = {name: files[index % 2] for index, name in enumerate(weights)}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    first = {name: weights[name] for name, file in names.items() if file == files[0]}
    save_file(first, directory / files[0], metadata={"format": "pt"})


def a_link_to_nothing(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("../../blobs/0123abcd")


def a_pointer(directory: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1025998224\n"
    (directory / "model.safetensors").write_text(text)


@pytest.mark.parametrize("part", ["dual", "vlm"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (adapter_alone, r"holds an adapter \(.* for llava-hf/llava-1.5-7b-hf\); merge it into"),
        (adapter, r"holds an adapter beside a model, which would not be applied .* merge it"),
        (quantized("gptq", bits=4), r"quantized weights \(gptq.*take the checkpoint that it was"),
        (quantized("awq", bits=4), r"quantized weights \(awq.*take the checkpoint that it was"),
        (quantized("fp8"), r"quantized weights \(fp8.*take the checkpoint that it was"),
        (quantized("bitsandbytes", load_in_4bit=True), r"quantized weights \(bitsandbytes"),
        (quantized_decoder, r"quantized weights \(compressed-tensors"),
        (pickle_only, r"pytorch_model.bin only, .* convert them .*save_pretrained"),
        (a_lost_shard, r"lacks model-00002-of-00002.safetensors, .* download it again"),
        (a_link_to_nothing, r"lacks model.safetensors, .* download it again"),
        (a_pointer, r"model.safetensors is the Git LFS pointer .*`git lfs pull`"),
    ],
)
def test_what_is_no_whole_model_is_refused_with_the_remedy(
    siglip_checkpoint: Path, tmp_path: Path, part: str, change: Change, message: str
) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "published")
    change(checkpoint / part)
    with pytest.raises(ExportError, match=message) as refusal:
        export_bundle(checkpoint, tmp_path / "out")
    assert str(checkpoint / part) in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["dual", "vlm"])
def test_the_command_that_converts_a_pickle_does_so(
    siglip_checkpoint: Path, tmp_path: Path, part: str
) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "published")
    pickle_only(checkpoint / part)
    # As where `--dual FOLDER` gathers the parts in a folder that is gone afterwards.
    (checkpoint / part).rename(tmp_path / "mine")
    (checkpoint / part).symlink_to(tmp_path / "mine")
    with pytest.raises(ExportError) as refusal:
        load_checkpoint(checkpoint, "same")
    found = re.search(r'python3 -c "(.*)"$', str(refusal.value))
    assert found is not None
    assert f"'{tmp_path / 'mine'}'" in found[1]
    exec(found[1], {})
    assert load_checkpoint(checkpoint, "same").vlm is not None


def test_a_template_with_a_token_that_the_tokenizer_lacks_is_refused(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    """LLaVA's begins with `<s>`, which is three letters to SmolVLM."""
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "template")
    for caption, token in (
        ({"template": "<s>USER: {image}\n{text} ASSISTANT:"}, "<s>"),
        ({"template": "<bos>{image}{text}<|im_end|>"}, r"<\|im_end\|>"),
        ({"template": "<bos>{image}{text}", "answer_separator": "</s>"}, "</s>"),
    ):
        write_spec(checkpoint, caption=caption)
        message = f"caption in bundle.yaml contains {token}, .* its own tokens include .*<bos>"
        with pytest.raises(ExportError, match=message):
            export_bundle(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["template"]


def test_a_language_model_without_a_template_is_told_of_once(
    siglip_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = shutil.copytree(siglip_checkpoint, tmp_path / "bare")
    with caplog.at_level(logging.WARNING):
        export_bundle(checkpoint, tmp_path / "worded")
    assert "caption.template" not in caplog.text
    write_spec(checkpoint, caption={"prompt": "what is there"})
    with caplog.at_level(logging.WARNING):
        export_bundle(checkpoint, tmp_path / "out")
    assert caplog.text.count("has no caption.template and vlm/ no chat template") == 1
