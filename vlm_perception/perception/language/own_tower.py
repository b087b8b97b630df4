# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The language model's own vision tower on the robot: it looks at key frames only, view by view."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import LANGUAGE_VISION_GRAPH, ModelBundle
from vlm_perception.bundle.manifest import TowerSpec
from vlm_perception.engines.base import Engine
from vlm_perception.engines.registry import AUTO
from vlm_perception.perception.details import Details, require_views
from vlm_perception.perception.language.fair_lock import Turns
from vlm_perception.types import Embedding


class OwnTower:
    """A tower that threads share; each view is a turn of its own."""

    def __init__(
        self, bundle: ModelBundle, spec: TowerSpec, turns: Turns, *, threads: int, engine: str
    ) -> None:
        """Load the tower.

        Args:
            bundle: the model.
            spec: of its tower.
            turns: taken with the other networks of the language model.
            threads: threads of the engine.
            engine: name of a backend, or `auto` for the fastest of this graph.

        Raises:
            EngineError: the engine does not take the graph.
        """
        if engine == AUTO:
            engine = bundle.choose_engine(LANGUAGE_VISION_GRAPH, threads=threads)
        self.engine: Engine = bundle.engine(LANGUAGE_VISION_GRAPH, threads=threads, engine=engine)
        self._manifest, self._spec, self._turns = bundle.manifest, spec, turns

    def tokens(self, embedding: Embedding) -> NDArray[np.float32]:
        """What the projector reads of a frame, [views, K, V].

        Raises:
            DetailError: the frame is not at hand, or its views are not those that the tower takes.
        """
        views = Details(self._manifest).ready(embedding).views
        assert views is not None
        return self.look(views)

    def look(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the tower on views [views, height, width, 3]; tokens [views, K, V].

        Raises:
            DetailError: they are not those that the tower takes.
        """
        require_views(views, self._spec)
        return np.concatenate([self._run(view) for view in views])

    def look_at_nothing(self) -> NDArray[np.float32]:
        """As `look`, on views of a black image."""
        return self.look(np.zeros(self._spec.view_shape, np.uint8))

    def _run(self, view: NDArray[np.uint8]) -> NDArray[Any]:
        image = np.ascontiguousarray(view[np.newaxis])
        with self._turns:
            return self.engine.run({"image": image})["tokens"]
