# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The model bundle: one directory with graphs and a manifest that describes them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import ValidationError

from vlm_perception.bundle.files import (
    BundleError,
    FileState,
    check_files,
    check_unchanged,
    read_arrays,
)
from vlm_perception.bundle.golden import GoldenError, check_alike, check_close
from vlm_perception.bundle.manifest import Manifest, describe_errors, manifest_digest
from vlm_perception.bundle.tensor_shapes import tensor_shapes
from vlm_perception.common.yaml_files import YamlError, read_as_json
from vlm_perception.engines.backend import GraphFile
from vlm_perception.engines.base import Engine
from vlm_perception.engines.choose import Workload, choose, planned
from vlm_perception.engines.onnxruntime import ONNXRUNTIME
from vlm_perception.engines.registry import AUTO, load_engine

__all__ = ["BundleError", "ModelBundle", "bundle_directories", "find_bundle"]

MANIFEST_NAME = "manifest.yaml"
BUNDLES_VARIABLE = "VLM_PERCEPTION_BUNDLES"

VISION_GRAPH = "vision.onnx"
VISION_FP16_GRAPH = "vision.fp16.onnx"
TEXT_GRAPH = "text.onnx"
LANGUAGE_VISION_GRAPH = "language_vision.onnx"
"""Only where the language model has a vision tower of its own."""
LANGUAGE_VISION_FP16_GRAPH = "language_vision.fp16.onnx"
PROJECTOR_GRAPH = "projector.onnx"
DECODER_GRAPH = "decoder.onnx"
TEMPORAL_GRAPH = "temporal.onnx"
ADAPT_GRAPH = "adapt.onnx"
"""Only where the bundle was exported with it."""
LANGUAGE_GRAPHS = (LANGUAGE_VISION_GRAPH, PROJECTOR_GRAPH, DECODER_GRAPH)
"""In the order in which an image goes through them; a bundle need not have all."""
FP16_GRAPHS = {
    VISION_GRAPH: VISION_FP16_GRAPH,
    LANGUAGE_VISION_GRAPH: LANGUAGE_VISION_FP16_GRAPH,
}
"""The same networks in FP16, by the graphs; only where these are quantized."""
HALF_COSINE = 0.999
"""What the mean cosine to the stored outputs must reach where products are computed in FP16."""

LONGEST_SHOWN = 200


@dataclass(frozen=True)
class ModelBundle:
    """A bundle whose manifest and files have been checked."""

    path: Path
    manifest: Manifest
    states: Mapping[str, FileState] = field(default_factory=dict, repr=False, kw_only=True)
    """Of the files, as they were when they were checked; one that has changed is not used."""

    @property
    def digest(self) -> str:
        """The digest that names this bundle in every message."""
        return self.manifest.digest

    @classmethod
    def load(cls, name_or_path: str | Path) -> ModelBundle:
        """Find a bundle, check it against its manifest and return it.

        Args:
            name_or_path: a directory, or a name that is looked for in the directories of
                $VLM_PERCEPTION_BUNDLES, in the installed package's and in the sources' models/.

        Raises:
            BundleError: no such bundle, or it is incomplete or altered.
        """
        path = find_bundle(name_or_path)
        manifest = read_manifest(path)
        return cls(path, manifest, states=check_files(path, manifest.files))

    @classmethod
    def reopen(cls, path: Path, digest: str, states: Mapping[str, FileState]) -> ModelBundle:
        """A bundle that another process has checked, without reading all of its files again.

        Args:
            path: its directory.
            digest: as it was then.
            states: likewise; a file that has changed since is not used.

        Raises:
            BundleError: it is another one now.
        """
        manifest = read_manifest(path)
        if manifest.digest != digest:
            raise BundleError(f"bundle {path} was replaced by another. Load it again")
        return cls(path, manifest, states=states)

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists.

        Raises:
            BundleError: the manifest does not list it, or it has changed since it was checked.
        """
        if name not in self.manifest.files:
            raise BundleError(
                f"bundle {self.path}: the manifest does not list {name}; it lists "
                f"{', '.join(sorted(self.manifest.files))}. Export the bundle again"
            )
        if name in self.states:
            check_unchanged(self.path, name, self.states[name])
        return self.path / name

    def graph_file(self, graph: str) -> GraphFile:
        """A backend's description of a graph; whether it is in the bundle is not checked."""
        files, language = self.manifest.files, self.manifest.language
        half = FP16_GRAPHS.get(graph)
        prompt: tuple[str, ...] = ()
        if graph == DECODER_GRAPH and language is not None:
            prompt = (language.prompt, str(language.image_tokens))
        return GraphFile(
            self.path / graph,
            half=self.path / half if half in files else None,
            bundle_digest=self.digest,
            hashes={name: entry.sha256 for name, entry in files.items()},
            prompt=prompt,
            decoder=graph == DECODER_GRAPH,
            urgent=graph == VISION_GRAPH,
        )

    def engine(self, graph: str, *, threads: int = 1, engine: str = ONNXRUNTIME) -> Engine:
        """Load one graph of the bundle into an engine.

        Args:
            graph: its name.
            threads: threads that the engine may use.
            engine: a backend of `engines/registry.py`, or `auto` for the one that `choose_engine`
                picks.

        Raises:
            EngineError: the backend is not installed, or does not take the graph.
            BundleError: the graph is another than the manifest describes, or has just been changed.
        """
        name = self.choose_engine(graph, threads=threads) if engine == AUTO else engine
        self.file(graph)
        loaded = load_engine(name, self.graph_file(graph), threads=threads)
        for read, state in self.states.items():
            check_unchanged(self.path, read, state)
        self._check_shapes(graph, loaded)
        return loaded

    def _check_shapes(self, graph: str, engine: Engine) -> None:
        described = tensor_shapes(self.manifest, graph)
        for name, tensor in {**engine.inputs, **engine.outputs}.items():
            expected = described.get(name, tensor.shape)
            if len(expected) != len(tensor.shape) or any(
                isinstance(known, int) and isinstance(found, int) and known != found
                for known, found in zip(expected, tensor.shape, strict=True)
            ):
                raise BundleError(
                    f"bundle {self.path}: {name} of {graph} is {tensor.describe()}, but the "
                    f"manifest says [{', '.join(map(str, expected))}]. Export it again"
                )

    def choose_engine(
        self, graph: str, *, threads: int = 1, workload: Workload | None = None
    ) -> str:
        """Name of the backend that runs a graph fastest on this machine.

        One that has plans for this machine, else the fastest of the others, as was once measured.
        Of those, one that gives other outputs than were stored takes no part.

        Args:
            graph: its name.
            threads: threads that the engine may use.
            workload: inputs to measure with; those that were stored when absent.

        Raises:
            EngineError: no backend takes the graph.
        """
        together = self.language_graphs if graph in LANGUAGE_GRAPHS else (graph,)
        if name := planned([self.graph_file(each) for each in together]):
            return name

        def load(name: str) -> Engine:
            candidate = self.engine(graph, threads=threads, engine=name)
            self.verify_golden({graph: candidate})
            return candidate

        subject = {"bundle": self.digest, "graph": graph, "threads": threads}
        return choose(subject, load, workload or [self.golden_inputs(graph)])

    def graphs(self) -> tuple[str, ...]:
        """Names of the bundle's graphs."""
        return tuple(sorted(name for name in self.manifest.files if name.endswith(".onnx")))

    @property
    def language_graphs(self) -> tuple[str, ...]:
        """Those that the language model runs, in the order in which an image goes through them."""
        return tuple(graph for graph in LANGUAGE_GRAPHS if graph in self.manifest.files)

    def verify_golden(self, engines: Mapping[str, Engine] | None = None) -> dict[str, float]:
        """Run stored inputs and compare with stored outputs.

        Args:
            engines: the graphs to check, by name; all of them when absent.

        Returns:
            The largest absolute difference of each graph.

        Raises:
            BundleError: an engine's outputs are further off than the manifest allows.
        """
        if engines is None:
            # One after the other: together large ones may not fit into memory.
            return {each: self._compare_golden(each, self.engine(each)) for each in self.graphs()}
        return {graph: self._compare_golden(graph, engine) for graph, engine in engines.items()}

    def golden_inputs(self, graph: str) -> dict[str, NDArray[Any]]:
        """The stored inputs of a graph, by name."""
        return self._golden(graph, "in")

    def _golden(self, graph: str, side: str) -> dict[str, NDArray[Any]]:
        return read_arrays(self.file(self.manifest.golden.file), f"{_golden_name(graph)}/{side}/")

    def _compare_golden(self, graph: str, engine: Engine) -> float:
        spec, source = self.manifest.golden, _golden_name(graph)
        inputs, stored = self._golden(graph, "in"), self._golden(graph, "out")
        outputs = engine.run({name: inputs[name] for name in engine.inputs if name in inputs})
        if misfit := _misfit(outputs, stored):
            raise BundleError(
                f"bundle {self.path}: {spec.file} contains no {misfit} in the format that {graph} "
                "outputs. Export the bundle again"
            )
        try:
            if source in spec.cosine:
                return check_alike(outputs, stored, spec.cosine[source])
            if engine.half_precision:
                return check_alike(outputs, stored, HALF_COSINE)
            return check_close(outputs, stored, absolute=spec.absolute, relative=spec.relative)
        except GoldenError as error:
            raise BundleError(
                f"bundle {self.path}: the {error.output} of {graph} from {engine.name} differs "
                f"from the one stored at export ({error}). Use another version of the engine, or "
                "export the bundle again on this machine"
            ) from error


def _golden_name(graph: str) -> str:
    """The graph whose stored inputs and outputs hold for this one."""
    return next((source for source, half in FP16_GRAPHS.items() if half == graph), graph)


def bundle_directories() -> list[Path]:
    """Where bundles are looked for by name, first match wins."""
    directories = [Path(p) for p in os.environ.get(BUNDLES_VARIABLE, "").split(os.pathsep) if p]
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    prefixes.append(sys.prefix)  # of a plain `pip install`
    directories += [Path(p) / "share" / "vlm_perception" / "models" for p in prefixes if p]
    directories.append(Path(__file__).resolve().parents[2] / "models")
    return directories


def find_bundle(name_or_path: str | Path) -> Path:
    """Directory of a bundle, given as a path or as a name.

    Raises:
        BundleError: there is none; the message lists where it was looked for.
    """
    name = str(name_or_path)
    if not name:
        raise BundleError("no bundle was given; give the name or the directory of one")
    places = list(dict.fromkeys(directory.absolute() for directory in bundle_directories()))
    try:
        candidates = [Path(name).expanduser(), *(place / name for place in places)]
        for candidate in candidates:
            if (candidate / MANIFEST_NAME).is_file():
                return candidate.resolve()
        directory = next((c for c in candidates if c.is_dir()), None)
    # A home that does not exist, an invalid file name, a folder that may not be entered.
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleError(
            f"the bundle {_quoted(name)} cannot be looked up "
            f"({getattr(error, 'strerror', None) or error}). Give a path that can be read"
        ) from error
    if directory is not None:
        raise BundleError(
            f"{directory} contains no {MANIFEST_NAME}: it is not a bundle, or its export did not "
            "finish. Make one with `vlm-perception export CHECKPOINT --out BUNDLE`"
        )
    raise BundleError(
        f"there is no bundle {_quoted(name)}: it is not a directory, and not in "
        f"{', '.join(map(str, places))}. Give a path, or set {BUNDLES_VARIABLE} to the directory "
        "that contains it"
    )


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a bundle, whose files are not looked at.

    Raises:
        BundleError: it cannot be read, is invalid or was edited.
    """
    path = directory / MANIFEST_NAME
    try:
        text = read_as_json(path)
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(
            f"{path} is not a valid manifest: {describe_errors(error)}. Export the bundle again"
        ) from error
    except (OSError, YamlError) as error:
        raise BundleError(f"{path} cannot be read ({error}). Export the bundle again") from error
    if manifest_digest(json.loads(text)) != manifest.digest:
        raise BundleError(
            f"{path} does not match its own digest: it was edited or damaged. Restore it, or "
            "export the bundle again with the change in bundle.yaml"
        )
    return manifest


def _quoted(name: str) -> str:
    return repr(name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}...")


def _misfit(outputs: Mapping[str, NDArray[Any]], stored: Mapping[str, NDArray[Any]]) -> str:
    """Name of an output that was not stored, or in another shape."""
    for name, value in outputs.items():
        if name not in stored or stored[name].shape != value.shape:
            return name
    return ""
