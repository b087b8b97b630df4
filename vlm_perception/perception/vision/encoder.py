# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The fast path: one frame in, its embedding, tags and regions out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import VISION_GRAPH, ModelBundle
from vlm_perception.engines.base import DeviceEngine
from vlm_perception.engines.onnxruntime import ONNXRUNTIME
from vlm_perception.perception.details import NO_TOKENS, own_tower
from vlm_perception.perception.device_tokens import DeviceTokens
from vlm_perception.perception.preprocess import Preprocessor
from vlm_perception.perception.vision.regions import find_regions
from vlm_perception.perception.vision.temporal_state import TemporalState, TrainingFreeAttention
from vlm_perception.perception.vision.vocabulary import Vocabulary, VocabularyBuilder
from vlm_perception.types import FUSED_TOKEN, Embedding, Frame, PatchEmbeddings, Tag

MEASURED_ROUNDS, MEASURED_S = 3, 1.0
"""Images of `measure`; none is begun after so many seconds."""


class VisionEncoder:
    """A bundle's vision tower with the vocabulary it looks for.

    `encode` belongs to one thread; `set_vocabulary` may be called from any.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        threads: int = 1,
        run_id: str = "",
        engine: str = ONNXRUNTIME,
        temporal: bool = True,
        clock: Callable[[], float] = time.monotonic,
        device_tokens: DeviceTokens | None = None,
        vocabulary: Path | None = None,
    ) -> None:
        """Load the vision tower and take a vocabulary.

        Args:
            bundle: the model.
            threads: threads of the engine.
            run_id: is written into each embedding.
            engine: backend of the vision graph, or `auto`. The text graph, which runs only for
                labels that the export has not embedded, stays with ONNX Runtime.
            temporal: read the tags from what the last moments have in common; else from each frame
                alone.
            clock: seconds, for stage times.
            device_tokens: where an engine of the GPU leaves the patch tokens for a language model
                in this process; None: there is none.
            vocabulary: file with the labels to begin with; None: the bundle's own.

        Raises:
            BundleError: the bundle lacks a file.
            EngineError: the engine does not take a graph.
            SiteVocabularyError: the file of the vocabulary cannot be used.
        """
        self._bundle = bundle
        self._run_id = run_id
        self._clock = clock
        self._engine = loaded = bundle.engine(VISION_GRAPH, threads=threads, engine=engine)
        self._device_tokens = device_tokens
        self._keep = loaded.keep if isinstance(loaded, DeviceEngine) else None
        self._preprocessor = Preprocessor(bundle.manifest.image)
        self._hands_image = own_tower(bundle.manifest) is not None
        self._builder = VocabularyBuilder(bundle)
        self._lock = threading.Lock()
        builder = self._builder
        self._vocabulary = (
            builder.build(None, version=1) if vocabulary is None else builder.read(vocabulary, 1)
        )
        width = bundle.manifest.vision.embedding_width
        self._temporal = TemporalState(width, TrainingFreeAttention()) if temporal else None

    @property
    def engine_name(self) -> str:
        """Engine and version, for diagnostics."""
        return self._engine.name

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the next frame."""
        return self._vocabulary

    def set_vocabulary(self, labels: Sequence[str]) -> int:
        """Look for other labels from the next frame on.

        It may take seconds, in which `encode` goes on with the old ones.

        Returns:
            The version that embeddings with these labels carry.

        Raises:
            VocabularyError: a label cannot be used; the old vocabulary stays.
        """
        return self._take(partial(self._builder.build, labels))

    def read_vocabulary(self, file: Path) -> int:
        """Look for the labels of a vocabulary file from the next frame on.

        Returns:
            The version that embeddings with these labels carry.

        Raises:
            VlmPerceptionError: the file cannot be used; the old vocabulary stays.
        """
        return self._take(partial(self._builder.read, file))

    def _take(self, make: Callable[[int], Vocabulary]) -> int:
        with self._lock:
            vocabulary = make(self._vocabulary.version + 1)
            self._vocabulary = vocabulary
        return vocabulary.version

    def warm_up(self) -> None:
        """Check the engine against the bundle's stored outputs and let it allocate.

        Raises:
            BundleError: it gives other outputs than were stored.
        """
        self._bundle.verify_golden({VISION_GRAPH: self._engine})
        self._encode_blank()

    def measure(self) -> float:
        """Seconds that a blank image takes, the shortest of a few; call it after `warm_up`."""
        began, times = self._clock(), [self._encode_blank()]
        while len(times) < MEASURED_ROUNDS and self._clock() - began < MEASURED_S:
            times.append(self._encode_blank())
        return min(times)

    def _encode_blank(self) -> float:
        spec = self._bundle.manifest.image
        blank = np.zeros((spec.height, spec.width, 3), np.uint8)
        return self.encode(Frame(image=blank, stamp_ns=0), sequence=0).stages["total"]

    def scores(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability of every label of the vocabulary, [labels], for a pooled embedding [D]."""
        return self._vocabulary.probabilities(pooled[np.newaxis]).reshape(-1)

    def encode(self, frame: Frame, sequence: int) -> Embedding:
        """Encode one frame.

        Args:
            frame: its image is in the embedding as it is: it must not be written to afterwards.
            sequence: number of the frame.

        Raises:
            FrameError: the frame holds no RGB image.
        """
        vocabulary = self._vocabulary
        started = self._clock()
        image, placement = self._preprocessor.run(frame.image)
        prepared = self._clock()
        outputs = self._engine.run({"image": image})
        shared = self._device_tokens
        if shared is not None and self._keep is not None and shared.wanted:
            shared.put((self._run_id, sequence), self._keep("tokens"))
        encoded = self._clock()
        tags = self._tags(vocabulary, outputs["pooled"][0], frame.stamp_ns)
        token_index = self._token_index(outputs)
        regions = find_regions(
            outputs["patches"][0],
            token_index,
            [tag.label_index for tag in tags],
            vocabulary,
            self._bundle.manifest.image,
            placement,
        )
        # A language model with a tower of its own reads the image instead.
        own = self._hands_image
        tokens = NO_TOKENS if own else outputs["tokens"][0].astype(np.float16)
        finished = self._clock()
        spec = self._bundle.manifest.image
        return Embedding(
            stamp_ns=frame.stamp_ns,
            # tf2 takes no slash in front, which tf had.
            frame_id=frame.frame_id.lstrip("/"),
            sequence=sequence,
            run_id=self._run_id,
            bundle_digest=self._bundle.digest,
            image_size=(placement.source_width, placement.source_height),
            grid_size=(spec.columns, spec.rows),
            pooled=outputs["pooled"][0],
            tokens=tokens,
            token_index=token_index[:0] if own else token_index,
            tags=tags,
            regions=regions,
            vocabulary_version=vocabulary.version,
            stages={
                "preprocess": prepared - started,
                "vision": encoded - prepared,
                "tags": finished - encoded,
                "total": finished - started,
            },
            image=frame.image,
            patches=PatchEmbeddings(outputs["patches"][0], token_index),
        )

    def _token_index(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.uint16]:
        """Position of each token in the grid; a graph that drops none does not output it."""
        if "token_index" not in outputs:
            return np.arange(self._bundle.manifest.vision.tokens, dtype=np.uint16)
        index = outputs["token_index"]
        return np.where(index < 0, FUSED_TOKEN, index).astype(np.uint16)

    def _tags(
        self, vocabulary: Vocabulary, pooled: NDArray[np.float32], stamp_ns: int
    ) -> tuple[Tag, ...]:
        """Labels that hold, the likeliest first."""
        temporal = self._temporal
        state = pooled if temporal is None else temporal.attend(pooled, stamp_ns).state
        scores = vocabulary.probabilities(state[np.newaxis])[0]
        if temporal is None:
            holds = vocabulary.hold(scores)
        else:
            holds = temporal.present(scores, vocabulary)
        present = np.flatnonzero(holds)
        return tuple(
            Tag(int(index), vocabulary.labels[index], float(scores[index]))
            for index in present[np.argsort(-scores[present], kind="stable")]
        )
