# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle is whole and unaltered, or it is refused with a sentence that helps."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_perception.bundle.bundle import BundleError, ModelBundle
from vlm_perception.bundle.files import file_sha256
from vlm_perception.bundle.manifest import manifest_digest
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.engines.base import EngineError
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.vision.encoder import VisionEncoder


@pytest.fixture
def copy(siglip_bundle: ModelBundle, tmp_path: Path) -> Path:
    return shutil.copytree(siglip_bundle.path, tmp_path / "copied")


def test_a_name_is_found_where_the_variable_points(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_PERCEPTION_BUNDLES", f"/nowhere:{copy.parent}")
    assert ModelBundle.load("copied").path == copy.resolve()


def test_an_unknown_name_says_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_PERCEPTION_BUNDLES", "/my/bundles")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{sys.prefix}:{sys.prefix}")
    with pytest.raises(BundleError, match=r"no bundle 'nonesuch'.*/my/bundles") as refused:
        ModelBundle.load("nonesuch")
    assert str(refused.value).count(f"{sys.prefix}/share/vlm_perception/models") == 1


@pytest.mark.parametrize("name", ["~nobody-here/bundle", "x" * 5000, "nul\0", "\ud800", "", "/"])
def test_a_name_that_can_be_none_is_refused(name: str) -> None:
    with pytest.raises(BundleError) as refused:
        ModelBundle.load(name)
    assert len(str(refused.value)) < 1500


def edit(path: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = True) -> None:
    content = yaml.safe_load((path / "manifest.yaml").read_text())
    change(content)
    if sign:
        for name in content.get("files", ()):
            file = path / name
            if file.is_file():
                size = file.stat().st_size
                content["files"][name] = {"sha256": file_sha256(file), "bytes": size}
        content["digest"] = manifest_digest(content)
    (path / "manifest.yaml").write_text(yaml.safe_dump(content))


def truncate(path: Path) -> None:
    file = path / "vision.onnx"
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray((path / "decoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "decoder.onnx").write_bytes(data)


def laughs() -> str:
    """Nine times nine times ..., in a kilobyte."""
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join(lines)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "text.onnx").unlink(), r"text\.onnx is missing"),
        (truncate, r"vision\.onnx has \d+ bytes instead of"),
        (flip_a_bit, r"decoder\.onnx was altered"),
        (lambda p: (p / "manifest.yaml").unlink(), "contains no manifest"),
        (lambda p: (p / "manifest.yaml").write_text("{"), "cannot be read"),
        (lambda p: (p / "manifest.yaml").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (lambda p: (p / "manifest.yaml").write_text("[]"), "not a valid manifest"),
        (lambda p: edit(p, lambda c: c.update(name="other"), sign=False), "own digest"),
        (lambda p: edit(p, lambda c: c.update(extra=1)), "extra"),
        (lambda p: edit(p, lambda c: c.pop("image")), "image: Field required"),
        (lambda p: edit(p, lambda c: c["image"].update(width="64")), r"image\.width"),
        (lambda p: edit(p, lambda c: c["image"].update(width=65)), "does not cover"),
        (lambda p: edit(p, lambda c: c.update(format_version=2)), "format_version"),
        (lambda p: (p / "manifest.yaml").write_text(laughs()), "contains more than .* values"),
        (lambda p: (p / "manifest.yaml").write_text("[" * 100_000), "nested more than"),
        (lambda p: (p / "manifest.yaml").write_text("a: &a [*a]"), r"alias \*a"),
        (lambda p: (p / "manifest.yaml").write_text("a: " + "1:" * 200_000), "characters"),
        (lambda p: (p / "manifest.yaml").write_text("#" * 2_000_000), "larger than"),
        (lambda p: replace_by_pipe(p / "manifest.yaml"), "contains no manifest"),
        (lambda p: replace_by_pipe(p / "golden.npz"), "pipe or a device"),
        (lambda p: edit(p, lambda c: c["text"].update(logit_scale=float("nan"))), "logit_scale"),
        (lambda p: edit(p, lambda c: c["text"].update(logit_bias=float("inf"))), "logit_bias"),
        (lambda p: edit(p, lambda c: c["golden"].update(absolute=float("inf"))), "absolute"),
        (lambda p: edit(p, lambda c: c["golden"].update(relative=1e300)), "relative"),
        (lambda p: edit(p, lambda c: c["text"].update(length=10**9)), "length"),
        (lambda p: edit(p, lambda c: c.update(model_card="../card.md")), "inside the bundle"),
        (lambda p: edit(p, lambda c: c["files"].update({"/etc/passwd": {}})), "inside the bundle"),
        (
            lambda p: edit(
                p,
                lambda c: c["vocabulary"].update(labels=[{"label": str(i)} for i in range(600)]),
            ),
            r"vocabulary\.labels: .* at most 512",
        ),
        (lambda p: edit(p, lambda c: c.update({f"x{i}": i for i in range(1000)})), "and 99. more"),
    ],
)
def test_a_damaged_bundle_is_refused(
    copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy)
    with pytest.raises(BundleError, match=message) as refused:
        ModelBundle.load(copy)
    assert len(str(refused.value)) < 2500


def test_an_engine_that_computes_something_else_is_found_out(siglip_bundle: ModelBundle) -> None:
    assert max(siglip_bundle.verify_golden().values()) < 1e-3

    class Off:
        """The text tower, a little off."""

        half_precision = False

        def __init__(self) -> None:
            self._true = siglip_bundle.engine("text.onnx")
            self.name, self.inputs, self.outputs = "off", self._true.inputs, self._true.outputs

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: value + 0.01 for name, value in self._true.run(inputs).items()}

    with pytest.raises(BundleError, match=r"the embedding of text\.onnx from off differs"):
        siglip_bundle.verify_golden({"text.onnx": Off()})


def test_an_engine_says_what_it_expected_and_what_came(siglip_bundle: ModelBundle) -> None:
    engine = siglip_bundle.engine("vision.onnx")
    with pytest.raises(
        EngineError, match=r"uint8 \[1, 36, 64, 3\] but is float32 \[1, 36, 64, 3\]"
    ):
        engine.run({"image": np.zeros((1, 36, 64, 3), np.float32)})
    with pytest.raises(EngineError, match=r"takes \['image'\] but got \['picture'\]"):
        engine.run({"picture": np.zeros((1, 36, 64, 3), np.uint8)})
    with pytest.raises(EngineError, match="at least one thread"):
        siglip_bundle.engine("vision.onnx", threads=0)


def test_a_graph_reads_nothing_that_the_manifest_does_not_list(copy: Path) -> None:
    graph = copy / "text.onnx"
    model = onnx.load(graph)
    onnx.save(model, graph, save_as_external_data=True, location="weights", size_threshold=256)
    edit(copy, lambda content: None)
    with pytest.raises(BundleError, match=r"text\.onnx reads 'weights', which the manifest"):
        ModelBundle.load(copy)
    edit(copy, lambda content: content["files"].update(weights={}))
    assert ModelBundle.load(copy).verify_golden()["text.onnx"] < 1e-3
    moved = onnx.load(graph, load_external_data=False)
    for tensor in moved.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../weights" if entry.key == "location" else entry.value
    onnx.save(moved, graph)
    edit(copy, lambda content: None)
    with pytest.raises(BundleError, match=r"reads '\.\./weights'"):
        ModelBundle.load(copy)


def test_links_to_a_store_of_files_make_a_bundle(copy: Path, tmp_path: Path) -> None:
    store = tmp_path / "blobs"
    store.mkdir()
    for number, file in enumerate(sorted(copy.iterdir())):
        file.rename(store / str(number))
        file.symlink_to(store / str(number))
    assert max(ModelBundle.load(copy).verify_golden().values()) < 1e-3


def test_a_file_that_changes_after_the_check_is_not_used(copy: Path) -> None:
    bundle = ModelBundle.load(copy)
    graph = copy / "text.onnx"
    graph.write_bytes(graph.read_bytes())
    with pytest.raises(BundleError, match=r"text\.onnx was changed after"):
        bundle.engine("text.onnx")
    graph.unlink()
    with pytest.raises(BundleError, match=r"text\.onnx was changed after"):
        bundle.engine("text.onnx")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("text", "length"), 31, r"input_ids of text\.onnx is .* manifest says \[texts, 31\]"),
        (("vision", "embedding_width"), 7, r"of vision\.onnx is .* manifest says"),
        (("language", "layers"), 10_000, r"past of decoder\.onnx is .* manifest says \[10000,"),
        (("language", "width"), 1, r"token_embeddings\.npy of .* manifest says \[vocabulary, 1\]"),
    ],
)
def test_a_manifest_that_describes_other_graphs_is_refused(
    copy: Path, path: tuple[str, str], value: int, message: str
) -> None:
    edit(copy, lambda content: content[path[0]].update({path[1]: value}))
    with pytest.raises(BundleError, match=message):
        use(ModelBundle.load(copy))


def test_a_tower_of_a_family_that_is_not_known_here_is_used(copy: Path) -> None:
    edit(copy, lambda content: content["vision"].update(family="dinov2"))
    use(ModelBundle.load(copy))
    edit(copy, lambda content: content["vision"].update(family="no name"))
    with pytest.raises(BundleError, match=r"vision\.family"):
        ModelBundle.load(copy)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + bytes(18)])
def test_stored_outputs_that_cannot_be_read_are_named(copy: Path, content: bytes) -> None:
    (copy / "golden.npz").write_bytes(content)
    edit(copy, lambda _: None)
    with pytest.raises(BundleError, match=r"golden\.npz .*[Ee]xport the bundle again"):
        ModelBundle.load(copy).verify_golden()
    (copy / "token_embeddings.npy").write_bytes(content)
    edit(copy, lambda _: None)
    with pytest.raises(BundleError, match=r"token_embeddings\.npy does not contain an array"):
        LanguageService(ModelBundle.load(copy))


def use(bundle: ModelBundle) -> None:
    """All that the nodes do with it before the first image."""
    VisionEncoder(bundle).warm_up()
    LanguageService(bundle).warm_up()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from leaves(part, (*path, key))


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, 10**30, 1e-320, 1e308, float("nan"), float("-inf")]),
    st.sampled_from(["", "../x", "x" * 70_000, "\u202e", [], {}, [[]], {"": ""}, ["a"] * 5000]),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_a_manifest_says_it_is_used_or_refused_in_one_sentence(
    copy: Path, data: st.DataObject
) -> None:
    original = (copy / "manifest.yaml").read_text()
    content = yaml.safe_load(original)
    *parents, last = data.draw(st.sampled_from(list(leaves(content))))
    value = data.draw(ODD)

    def change(holder: dict[str, Any]) -> None:
        part: Any = holder
        for key in parents:
            part = part[key]
        part[last] = value

    try:
        edit(copy, change, sign=parents[:1] != ["files"] and last not in ("files", "digest"))
        try:
            use(ModelBundle.load(copy))
        except VlmPerceptionError as refused:
            assert 10 < len(str(refused)) < 5000
    finally:
        (copy / "manifest.yaml").write_text(original)


def says_the_same(one: bytes, other: bytes) -> bool:
    try:
        return bool(yaml.safe_load(bytes(one)) == yaml.safe_load(other))
    except (yaml.YAMLError, ValueError):
        return False


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_file_that_was_cut_or_flipped_is_refused_also_under_a_fitting_hash(
    copy: Path, data: st.DataObject
) -> None:
    file = copy / data.draw(st.sampled_from(sorted(file.name for file in copy.iterdir())))
    whole, manifest = file.read_bytes(), (copy / "manifest.yaml").read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.booleans())
    broken = bytearray(whole if flip else whole[:place])
    if flip:
        broken[place] ^= data.draw(st.integers(1, 255))
    try:
        file.write_bytes(broken)
        if file.name == "manifest.yaml":
            # The last line's end, say, means nothing.
            with nullcontext() if says_the_same(broken, manifest) else pytest.raises(BundleError):
                ModelBundle.load(copy)
            return
        with pytest.raises(BundleError, match="altered"):
            ModelBundle.load(copy)
        edit(copy, lambda _: None)
        try:
            use(ModelBundle.load(copy))
        except VlmPerceptionError as refused:
            assert str(refused)
    finally:
        file.write_bytes(whole)
        (copy / "manifest.yaml").write_bytes(manifest)
