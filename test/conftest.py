# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Random checkpoints and the bundles made of them, once for all tests of a run; DDS domains."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.testing

# Modules that several tests share lie here; importlib mode does not look for them.
sys.path.insert(0, str(Path(__file__).parent))
# CliRunner makes all commands anew for each call, which takes longer than most of the calls.
typer.testing._get_command = functools.cache(typer.main.get_command)

# torch and rclpy are imported only by the tests that need them.
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from support.real_servers import RealServer
    from support.ros_graph import Graph

    from vlm_perception.bundle.bundle import ModelBundle

BY_FOLDER = {
    "ros": "ros",
    "export": "torch",
    "served": "torch",
    "tensorrt": "torch",
    "training": "torch",
}
SHORT = ("docs", "unit")
BY_FIXTURE = {
    "graph": "ros",
    "siglip_checkpoint": "torch",
    "clip_checkpoint": "torch",
    "siglip_bundle": "torch",
    "clip_bundle": "torch",
    "own_checkpoint": "torch",
    "own_bundle": "torch",
    "served_student": "torch",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what its folder and its fixtures need, and put the files in order."""
    for item in items:
        folder = _folder(item)
        fixtures = getattr(item, "fixturenames", ())
        needs = {BY_FOLDER.get(folder), *(BY_FIXTURE.get(name) for name in fixtures)}
        for name in sorted(filter(None, needs)):
            item.add_marker(name)
        if item.get_closest_marker("alone") and folder != "ros":
            raise pytest.UsageError(f"{item.nodeid}: make test looks for `alone` in test/ros only")
    # Long files first, or one process would wait for the other's last; and those that wait for
    # nodes between those that compute.
    items.sort(key=lambda item: (_folder(item) in SHORT, item.path.name, item.path))


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


def pytest_collection_finish() -> None:
    """Leave what all imports have made out of each later search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def each_graph_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All processes of a run export a graph only once, where its content is the same."""
    if "torch" not in sys.modules:  # None of the tests can export.
        yield
        return
    from support.once import GraphStore

    from vlm_perception.deploy.export import write_bundle
    from vlm_perception.training.distillation.quantization import train

    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with pytest.MonkeyPatch.context() as patch:
        for module in (write_bundle, train):
            patch.setattr(module, "write_graph", GraphStore(folder / "graphs").write)
        yield


@pytest.fixture(scope="session")
def siglip_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SigLIP and LLaVA with random weights."""
    from support.checkpoints import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("siglip") / "random-nano")


@pytest.fixture(scope="session")
def clip_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP and LLaVA with a Qwen2 decoder and random weights."""
    from support.checkpoints import make_checkpoint

    path = tmp_path_factory.mktemp("clip") / "random-clip"
    return make_checkpoint(path, family="clip", decoder="qwen2")


@pytest.fixture(scope="session")
def siglip_bundle(siglip_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """The bundle of `siglip_checkpoint`."""
    from vlm_perception.deploy.export.export import export_bundle

    return export_bundle(siglip_checkpoint, tmp_path_factory.mktemp("bundles") / "siglip")


@pytest.fixture(scope="session")
def clip_bundle(clip_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """The bundle of `clip_checkpoint`."""
    from vlm_perception.deploy.export.export import export_bundle

    return export_bundle(clip_checkpoint, tmp_path_factory.mktemp("bundles") / "clip")


@pytest.fixture(scope="session")
def own_checkpoint(
    siglip_checkpoint: Path, clip_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A SigLIP, and a LLaVA with a CLIP as a vision tower of its own, and Qwen2."""
    from support.checkpoints import pair_up

    path = tmp_path_factory.mktemp("own") / "random-pair"
    return pair_up(path, siglip_checkpoint, clip_checkpoint)


@pytest.fixture(scope="session")
def own_bundle(own_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """The bundle of `own_checkpoint`."""
    from vlm_perception.deploy.export.export import export_bundle

    return export_bundle(own_checkpoint, tmp_path_factory.mktemp("bundles") / "own")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small images, enough to calibrate and to validate with."""
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp("photos")
    for index, colours in enumerate(np.random.default_rng(0).integers(0, 256, (480, 3, 4, 3))):
        image = cv2.resize(colours.astype(np.uint8), (64, 36), interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(str(folder / f"{index:03d}.png"), image)
    return folder


@pytest.fixture(scope="session")
def served_student(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """The shipped student behind `transformers serve`; to be left running and well."""
    from support.real_servers import CannotServeError, start_student

    try:
        server = start_student(tmp_path_factory.mktemp("student"))
    except CannotServeError as error:
        pytest.skip(str(error))
    yield server
    server.close()


@pytest.fixture(scope="session")
def served_llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """llama.cpp's server with random weights: log-probabilities, JSON schemas, no images."""
    from support.real_servers import CannotServeError, start_llama

    try:
        server = start_llama(tmp_path_factory.mktemp("llama"))
    except CannotServeError as error:
        pytest.skip(str(error))
    yield server
    server.close()


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    """A DDS domain of the test's own."""
    from support.ros_graph import Graph, free_domain

    graph = Graph(tmp_path, domain=free_domain())
    yield graph
    graph.close()
