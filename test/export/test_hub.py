# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""From hub ids to a bundle, with the hub's true client and a hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
import yaml
from support.hub_server import GRANTED, STRANGER, HubServer
from typer.testing import CliRunner, Result

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import HubSource
from vlm_perception.cli import app
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.families import DUAL_FAMILIES
from vlm_perception.deploy.checkpoints.gather import SOURCES_NAME, gathered, read_sources
from vlm_perception.deploy.checkpoints.scenes import SCENES, Scene, load_scene

DUAL, VLM = "lab/siglip-nano", "lab/llava-nano"
CARDS = {
    DUAL: "---\nlicense: apache-2.0\n---\n# A dual encoder\n",
    VLM: "---\nlicense: other\nlicense_name: lab-licence\nlicense_link: LICENCE\n---\n# A VLM\n",
}
VOCABULARY = {"labels": [{"label": "car"}, {"label": "truck"}], "templates": ["a {label}"]}


@pytest.fixture
def hub(
    siglip_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """The hub with a dual encoder and a language model, and an empty cache."""
    server = HubServer()
    for name, part in ((DUAL, "dual"), (VLM, "vlm")):
        server.add(name, siglip_checkpoint / part, **{"README.md": CARDS[name].encode()})
    # What the client takes from HF_ENDPOINT and HF_HOME when it is imported.
    constants = huggingface_hub.constants
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump(VOCABULARY))
    return load_scene(str(tmp_path / "labels.yaml"), None)


def export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def refusal(tmp_path: Path, *arguments: str) -> str:
    """The sentence that an export ends with, of which nothing is left."""
    result = export("--out", tmp_path / "bundle", *arguments)
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert sorted(path.name for path in tmp_path.glob("*bundle*")) == []
    [sentence] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.stderr.splitlines()[-1] == sentence
    return sentence


@pytest.mark.slow
def test_two_ids_become_a_bundle(hub: HubServer, scene: Scene, tmp_path: Path) -> None:
    hub.repositories[DUAL].push(
        {
            **hub.repositories[DUAL].commits[hub.repositories[DUAL].refs["main"]],
            "onnx/model.onnx": b"of no use",
            "pytorch_model.bin": b"of no use",
            "flax_model.msgpack": b"of no use",
        }
    )
    out = tmp_path / "street"
    labels = tmp_path / "labels.yaml"
    result = export("--dual", DUAL, "--vlm", VLM, "--vocabulary", labels, "--out", out)
    assert result.exit_code == 0, result.output
    bundle = ModelBundle.load(out)
    commits = {name: hub.repositories[name].refs["main"] for name in (DUAL, VLM)}
    licences = {DUAL: "apache-2.0", VLM: "lab-licence (LICENCE)"}
    assert bundle.manifest.made_by.sources == {
        part: HubSource(id=name, revision=commits[name], licence=licences[name])
        for part, name in (("dual", DUAL), ("vlm", VLM))
    }
    assert bundle.manifest.name == "siglip-nano+llava-nano"
    assert bundle.manifest.licences == {"dual": "apache-2.0", "vlm": "lab-licence (LICENCE)"}
    assert set(bundle.manifest.made_by.weights) == {
        "dual/model.safetensors",
        "vlm/model.safetensors",
    }
    card = (out / "MODEL_CARD.md").read_text()
    assert commits[DUAL] in card
    assert "# A dual encoder\n" in card
    assert "license:" not in card
    assert not [path for path in hub.downloads() if path.endswith((".onnx", ".bin", ".msgpack"))]
    shown = CliRunner().invoke(app, ["bundle", "show", str(out)], env={"COLUMNS": "200"}).output
    assert f"dual: {DUAL} at {commits[DUAL]} (apache-2.0)" in shown


def test_a_second_time_downloads_nothing_and_needs_no_network(hub: HubServer, scene: Scene) -> None:
    with gathered(DUAL, VLM, scene) as checkpoint:
        first = read_sources(checkpoint)
    fetched = hub.downloads()
    assert len(fetched) == len(set(fetched))
    with gathered(DUAL, VLM, scene) as checkpoint:
        assert read_sources(checkpoint) == first
    assert hub.downloads() == fetched
    hub.close()
    with gathered(DUAL, VLM, scene) as checkpoint:
        assert read_sources(checkpoint) == first
        assert (checkpoint / "vlm" / "model.safetensors").is_file()
    assert not checkpoint.exists()


def test_a_branch_moves_and_a_commit_stays(hub: HubServer, scene: Scene) -> None:
    old = hub.repositories[DUAL].refs["main"]
    files = hub.repositories[DUAL].commits[old]
    with gathered(DUAL, None, scene):
        pass
    new = hub.repositories[DUAL].push({**files, "README.md": b"# Newer\n"})
    hub.repositories[DUAL].push({**files, "merges.txt": b""}, ref="refs/pr/3")
    for name, commit in (
        (DUAL, new),
        (f"{DUAL}@main", new),
        (f"{DUAL}@{old}", old),
        (f"{DUAL}@refs/pr/3", hub.repositories[DUAL].refs["refs/pr/3"]),
    ):
        with gathered(name, None, scene) as checkpoint:
            assert read_sources(checkpoint)["dual"].revision == commit
    assert sum(path.startswith("/storage/") for path in hub.downloads()) == 1


def test_what_others_put_into_the_cache_is_not_read(hub: HubServer, scene: Scene) -> None:
    with gathered(DUAL, None, scene) as checkpoint:
        snapshot = (checkpoint / "dual" / "config.json").readlink().parent
    (snapshot / "adapter_model.safetensors").write_bytes(b"somebody's")
    with gathered(DUAL, None, scene) as checkpoint:
        names = {path.name for path in (checkpoint / "dual").iterdir()}
    assert "model.safetensors" in names
    assert "adapter_model.safetensors" not in names


def test_a_folder_is_taken_as_well_as_an_id(
    hub: HubServer, siglip_checkpoint: Path, scene: Scene
) -> None:
    with gathered(str(siglip_checkpoint / "dual"), VLM, scene) as checkpoint:
        assert (checkpoint / "dual").resolve() == siglip_checkpoint / "dual"
        assert set(read_sources(checkpoint)) == {"vlm"}
        spec = yaml.safe_load((checkpoint / "bundle.yaml").read_text())
    assert spec["licences"]["dual"] == "not stated in its model card"


def test_a_gated_model_is_read_with_its_token(
    hub: HubServer, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[DUAL].gated = True
    monkeypatch.setenv("HF_TOKEN", GRANTED)
    with gathered(DUAL, None, scene) as checkpoint:
        assert (checkpoint / "dual" / "model.safetensors").is_file()
    assert hub.tokens_at_storage == []


@pytest.mark.parametrize(
    ("token", "remedy"),
    [("", "then log in with `hf auth login`"), (STRANGER, "has no access to it: accept its terms")],
)
def test_gated(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, remedy: str
) -> None:
    hub.repositories[VLM].gated = True
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    sentence = refusal(tmp_path, "--dual", DUAL, "--vlm", VLM)
    assert f"{VLM} is gated" in sentence
    assert f"{hub.endpoint}/{VLM}" in sentence
    assert remedy in sentence
    assert not [path for path in hub.downloads() if path.startswith("/storage/")]


@pytest.mark.parametrize("token", ["", STRANGER])
def test_no_such_model(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    sentence = refusal(tmp_path, "--dual", "lab/siglip-nanno")
    assert "no model lab/siglip-nanno" in sentence
    assert "correct the id" in sentence


@pytest.mark.parametrize(
    ("dual", "words"),
    [
        ("a/b/c", "there is no folder a/b/c, and as a model of the hub it would be ORG/NAME"),
        (f"{DUAL}@v2", "has no revision v2, or none any longer: give a branch"),
        (f"{DUAL}@{'0' * 40}", f"has no revision {'0' * 40}"),
        (
            VLM,
            "is a llava model, and dual takes an encoder of images and texts "
            f"({', '.join(DUAL_FAMILIES)}); ",
        ),
        (VLM, "give it as --vlm"),
    ],
)
def test_not_to_be_had(hub: HubServer, tmp_path: Path, dual: str, words: str) -> None:
    assert words in refusal(tmp_path, "--dual", dual)


def test_a_token_that_is_none(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
    assert "does not take your token: log in" in refusal(tmp_path, "--dual", DUAL)


def test_a_name_that_no_model_has(hub: HubServer, tmp_path: Path) -> None:
    assert "give siglip2-base or" in refusal(tmp_path, "--dual", "siglip2-bsae")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": {"model_type": "qwen2"}}, "is a qwen2 model, and vlm takes a language"),
        (
            {"adapter_config.json": {"base_model_name_or_path": "lab/base"}},
            "lab/other holds an adapter (adapter_config.json, for lab/base); merge it into",
        ),
        (
            {
                "config.json": {
                    "model_type": "llava",
                    "quantization_config": {"quant_method": "awq"},
                },
                "model.safetensors": {},
            },
            "lab/other holds quantized weights (awq, by quantization_config in its config.json)",
        ),
        ({"model.gguf": {}}, "holds no config.json, so it is no checkpoint of transformers"),
        (
            {"config.json": {"model_type": "llava"}, "pytorch_model.bin": {}},
            "holds no model.safetensors, only pytorch_model.bin, which can run code",
        ),
    ],
)
def test_no_language_model_that_can_be_read(
    hub: HubServer, tmp_path: Path, files: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    hub.add("lab/other", folder)
    assert words in refusal(tmp_path, "--dual", DUAL, "--vlm", "lab/other")
    assert not [path for path in hub.downloads() if path.startswith("/storage/")]


def test_damaged_sources_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / SOURCES_NAME).write_text('{"dual": {"id": 3}}')
    with pytest.raises(ExportError, match=r"dual.id: .*delete it"):
        read_sources(tmp_path)


def test_shards_are_fetched_and_a_whole_file_is_preferred(
    hub: HubServer, scene: Scene, tmp_path: Path
) -> None:
    files = hub.repositories[DUAL].commits[hub.repositories[DUAL].refs["main"]]
    weights = files["model.safetensors"]
    shards = {f"model-0000{number}-of-00002.safetensors": b"%d" % number for number in (1, 2)}
    hub.repositories[DUAL].push(
        {**files, **shards, "model.fp16.safetensors": b"", "model.safetensors.index.json": b"{}"}
    )
    with gathered(DUAL, None, scene) as checkpoint:
        assert [path.name for path in (checkpoint / "dual").glob("*.safetensors*")] == [
            "model.safetensors"
        ]
    rest = {name: content for name, content in files.items() if content != weights}
    hub.repositories[DUAL].push({**rest, **shards, "model.safetensors.index.json": b"{}"})
    with gathered(DUAL, None, scene) as checkpoint:
        names = {path.name for path in (checkpoint / "dual").glob("*.safetensors*")}
    assert names == {*shards, "model.safetensors.index.json"}


def test_a_disk_too_small_is_known_before(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories[VLM].claimed_bytes = 1 << 60
    sentence = refusal(tmp_path, "--dual", DUAL, "--vlm", VLM)
    assert "GB are to be fetched for lab/siglip-nano and lab/llava-nano, and the disk" in sentence
    assert "set HF_HOME to a folder on a larger disk" in sentence
    assert not [path for path in hub.downloads() if path.startswith("/storage/")]


def test_a_broken_transfer_goes_on_where_it_broke_off(
    hub: HubServer, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda _: None)
    weights = hub.repositories[DUAL].commits[hub.repositories[DUAL].refs["main"]]
    hub.breaks, hub.breaks_after = 3, 100 * 1024
    with gathered(DUAL, None, scene) as checkpoint:
        got = (checkpoint / "dual" / "model.safetensors").read_bytes()
    assert got == weights["model.safetensors"]
    assert hub.breaks == 0
    assert hub.stored_bytes == len(got), "nothing was sent twice"


def test_a_transfer_that_breaks_off_for_good_keeps_what_is_whole(
    hub: HubServer, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda _: None)
    hub.breaks = 100
    sentence = refusal(tmp_path, "--dual", DUAL)
    assert f"the transfer of {DUAL} broke off" in sentence
    assert "files that came whole are kept" in sentence
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.breaks = 0
    seen = len(hub.requests)
    with gathered(DUAL, None, scene):
        pass
    asked = [request for request in hub.requests[seen:] if request.startswith("GET")]
    assert [request for request in asked if "/resolve/" in request] == []
    assert sum("/storage/" in request for request in asked) == 1


def test_a_hub_that_is_down_or_out_of_reach(hub: HubServer, tmp_path: Path) -> None:
    hub.status = 503
    assert f"{hub.endpoint} answered 503" in refusal(tmp_path, "--dual", DUAL)
    hub.close()
    sentence = refusal(tmp_path, "--dual", DUAL)
    assert f"{hub.endpoint} cannot be reached" in sentence
    assert f"the cache {tmp_path / 'cache'} does not hold all of {DUAL}" in sentence


def test_offline_by_choice_with_half_of_it(
    hub: HubServer, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gathered(DUAL, None, scene) as checkpoint:
        (checkpoint / "dual" / "model.safetensors").resolve().unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    sentence = refusal(tmp_path, "--dual", DUAL)
    assert "HF_HUB_OFFLINE is set" in sentence
    assert f"does not hold all of {DUAL}: unset it" in sentence


def test_a_cache_that_cannot_be_written(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    assert "cannot be written (Not a directory): make room" in refusal(tmp_path, "--dual", DUAL)


def test_a_foreign_folder_is_refused_before_anything_is_asked(
    hub: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    result = export("--dual", DUAL, "--out", tmp_path / "mine")
    assert result.exit_code == 2
    assert "is not a bundle, so it is not overwritten" in result.stderr
    assert hub.requests == []


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("my-model", "--dual", DUAL),
        ("my-model", "--vlm", VLM),
        ("my-model", "--vocabulary", "street"),
        ("--dual", DUAL, "--questions", "street"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = export("--out", tmp_path / "bundle", *arguments)
    assert result.exit_code == 2
    assert "Invalid value" in result.stderr


@pytest.mark.parametrize("name", SCENES)
def test_the_scenes_that_ship(name: str) -> None:
    scene = load_scene(name, None)
    assert 20 <= len(scene.vocabulary.labels) <= 60
    assert 5 <= len(scene.questions) <= 12
    assert load_scene(name, name) == scene


def test_a_label_twice(tmp_path: Path) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text(yaml.safe_dump({"labels": [{"label": "car"}, {"label": "car"}]}))
    with pytest.raises(ExportError, match=r"labels\.yaml: .*'car' is listed twice"):
        load_scene(str(path), None)
    with pytest.raises(ExportError, match="choose street, indoor, warehouse, yard, or give a file"):
        load_scene("streat", None)


@pytest.mark.slow
def test_ctrl_c_ends_a_transfer_at_once(hub: HubServer, tmp_path: Path) -> None:
    hub.released.clear()
    # A shell starts what runs in its background with the signal ignored, and children inherit that.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    program = shutil.which("vlm-perception", path=str(Path(sys.executable).parent))
    assert program is not None
    process = subprocess.Popen(
        [program, "export", "--dual", DUAL, "--out", str(tmp_path / "bundle")],
        env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert hub.blocked.wait(120)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        signal.signal(signal.SIGINT, kept)
    assert not hub.released.is_set()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("*bundle*"))
    assert not list(tmp_path.rglob("*.incomplete"))
