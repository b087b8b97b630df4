# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The language model on the robot: one cached image prefix, many questions and a caption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import (
    DECODER_GRAPH,
    LANGUAGE_VISION_GRAPH,
    PROJECTOR_GRAPH,
    BundleError,
    ModelBundle,
)
from vlm_perception.bundle.files import read_array
from vlm_perception.bundle.golden import TOKEN_INDEX
from vlm_perception.bundle.manifest import LanguageSpec, QuestionSpec
from vlm_perception.engines.base import DeviceEngine, Engine
from vlm_perception.engines.choose import Workload
from vlm_perception.engines.onnxruntime import ONNXRUNTIME
from vlm_perception.engines.registry import AUTO
from vlm_perception.perception.details import key_of
from vlm_perception.perception.device_tokens import DeviceTokens
from vlm_perception.perception.embedding_checks import places_of, require_finite
from vlm_perception.perception.language.analysis_cost import AnalysisCost
from vlm_perception.perception.language.decoder import load_decoder
from vlm_perception.perception.language.fair_lock import Turns
from vlm_perception.perception.language.kv_cache import Cache, Prefix, causal_inputs
from vlm_perception.perception.language.own_tower import OwnTower
from vlm_perception.perception.language.picture import Picture, picture_of_bundle
from vlm_perception.perception.language.prompts import PromptError, Prompts
from vlm_perception.perception.language.question_packing import PackedQuestions, Packer
from vlm_perception.perception.language.token_sampling import GREEDY, Sampling, Token, TokenChooser
from vlm_perception.perception.tokenizer import TextError
from vlm_perception.types import Attribute, Embedding

TYPICAL_STEPS = 16
"""Tokens that `engine="auto"` decodes to measure; a caption has about as many."""
MEASURED_STEPS, MEASURED_ROUNDS, MEASURED_S = 8, 3, 1.0
"""Tokens in a round of `measure`, and rounds; none is begun after so many seconds."""


Seen = Mapping[str, Any]
"""What the projector reads of an image: `tokens` [1, K, V] or [views, K, V], on the device where
they are there already, and, where it reads their places, `token_index` [1, K]."""


@dataclass(frozen=True)
class Spelled:
    """A text as far as it has been written, and its newest token."""

    text: str
    token: Token

    @property
    def stops(self) -> bool:
        """Whether the model has ended the text."""
        return self.token.stops

    @property
    def log_probability(self) -> float:
        """Natural logarithm of the newest token's probability."""
        return self.token.log_probability


@dataclass(frozen=True)
class Generation:
    """Text that was generated, and whether the model ended it itself."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool


class LanguageModel:
    """A bundle's projector and decoder, with a vision tower of their own where the bundle has one.

    Threads that share it take turns, run by run.
    """

    deadline_s = math.inf
    """The most seconds that an analysis may wait for it: what it takes is known beforehand."""
    shrinks_images = False
    """Its graphs have fixed shapes."""

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        threads: int = 1,
        room: int = 128,
        clock: Callable[[], float] = time.monotonic,
        engine: str = ONNXRUNTIME,
        device_tokens: DeviceTokens | None = None,
    ) -> None:
        """Load the engines, the tokenizer and the token embeddings.

        Args:
            bundle: the model; it must have a language part.
            threads: threads of the engines.
            room: tokens that a prompt and its answer may take after the image prefix.
            clock: seconds, for budgets of time.
            engine: name of a backend, or `auto` for the fastest on a prefill and a short caption.
            device_tokens: where an encoder in this process may have left patch tokens for an engine
                of the GPU.

        Raises:
            BundleError: the bundle has no language part, or its prompt leaves no room.
        """
        spec = bundle.manifest.language
        if spec is None:
            raise BundleError(
                f"bundle {bundle.manifest.name} has no language model; run without "
                "language_reasoner, or use a bundle that was exported with vlm/"
            )
        self._bundle, self._spec, self._clock = bundle, spec, clock
        self._prompts = Prompts(bundle, spec)
        # Of a large vocabulary few rows are ever looked at.
        self._table = _token_embeddings(bundle, spec)
        self._before = self._embed(self._prompts.before)
        self._stops = frozenset(spec.stop_token_ids)
        self._stop = spec.stop_token_ids[0]
        self._positions = spec.max_positions - len(self._before) - spec.image_tokens
        self._room = min(room, self._positions)
        if self._room < 1:
            raise BundleError(
                f"bundle {bundle.manifest.name}: the decoder's {spec.max_positions} positions "
                f"leave no room after {spec.image_tokens} image tokens; export it with fewer image "
                "tokens"
            )
        self._turns = Turns()
        self._tower: OwnTower | None = None
        if spec.tower is not None:
            self._tower = OwnTower(bundle, spec.tower, self._turns, threads=threads, engine=engine)
        if engine == AUTO:
            workload = self._typical_workload()
            engine = bundle.choose_engine(DECODER_GRAPH, threads=threads, workload=workload)
        self._projector = bundle.engine(PROJECTOR_GRAPH, threads=threads, engine=engine)
        on_device = isinstance(self._projector, DeviceEngine) and self._tower is None
        self._device_tokens = device_tokens if on_device else None
        self._decoder = load_decoder(bundle, threads=threads, engine=engine)
        held = self._decoder.capacity
        if held is not None:
            self._positions = min(self._positions, held - len(self._before) - spec.image_tokens)
            self._room = min(self._room, self._positions)

    @property
    def spec(self) -> LanguageSpec:
        """The manifest's words on the language model."""
        return self._spec

    @property
    def caption_prompt(self) -> str:
        """What asks for a caption."""
        return self._spec.caption_prompt

    @property
    def engine_name(self) -> str:
        """Engine and version, for diagnostics."""
        name, tower = self._decoder.name, self._tower
        if tower is None or tower.engine.name == name:
            return name
        return f"{name}, its vision tower in {tower.engine.name}"

    def verify(self) -> None:
        """Check the engines against the bundle's stored outputs.

        Raises:
            BundleError: an engine gives other outputs than were stored.
        """
        engines = {PROJECTOR_GRAPH: self._projector, DECODER_GRAPH: self._decoder.engine}
        if self._tower is not None:
            engines[LANGUAGE_VISION_GRAPH] = self._tower.engine
        self._bundle.verify_golden(engines)

    def warm_up(self, packed: PackedQuestions) -> None:
        """Read a blank image, answer these questions about it and begin a caption."""
        prefix = self.read_features(self._look_at_nothing())
        self.answer(prefix, packed)
        self.generate(prefix, self._spec.caption_prompt, max_tokens=1)

    def measure(self, packed: PackedQuestions, question: Mapping[str, Any]) -> AnalysisCost:
        """Time an analysis of a blank image: of each part the shortest of a few rounds.

        Args:
            packed: the questions that are asked of each image.
            question: what the result depends on, to be kept with it.
        """
        began, rounds = self._clock(), [self._round(packed)]
        while len(rounds) < MEASURED_ROUNDS and self._clock() - began < MEASURED_S:
            rounds.append(self._round(packed))
        tower, prefill, questions, prompt, token = map(min, zip(*rounds, strict=True))
        return AnalysisCost(
            question=dict(question),
            tower_s=tower if self._tower is not None else 0.0,
            prefill_s=prefill,
            questions_s=questions,
            prompt_s=prompt,
            token_s=token,
        )

    def _round(self, packed: PackedQuestions) -> tuple[float, float, float, float, float]:
        """Seconds of tower, prefill, questions, the caption's prompt, and a token behind it."""
        prompt = self._prompts.ids(self._spec.caption_prompt)
        times = [self._clock()]
        features = self._look_at_nothing()
        times.append(self._clock())
        prefix = self.read_features(features)
        times.append(self._clock())
        self.answer(prefix, packed)
        times.append(self._clock())
        # Not as `stream` does it: a text may end at once.
        steps = min(MEASURED_STEPS, prefix.room - len(prompt))
        with self._turns:
            branch = self._decoder.branch(prefix.cache, len(prompt) + steps)
        self._next(branch, prompt)
        times.append(self._clock())
        for _ in range(steps):
            self._next(branch, [self._stop])
        tower, prefill, questions, first, rest = map(float, np.diff([*times, self._clock()]))
        return tower, prefill, questions, first, rest / steps

    def read(self, embedding: Embedding, share: float = 1.0) -> Prefix:
        """Read what there is of a frame for this model: its patch tokens, or views of its image.

        Args:
            embedding: the frame.
            share: of no use here.

        Raises:
            EmbeddingError: a patch token holds NaN or infinity.
            PromptError: there are more tokens than the bundle was made for.
            EngineError: the tokens have another width.
            DetailError: there is no image, or its views are not those of this model's own tower.
        """
        began = self._clock()
        features = self.look(embedding)
        tower_s = self._clock() - began if self._tower is not None else 0.0
        return replace(self.read_features(features), tower_s=tower_s)

    def look(self, embedding: Embedding) -> Seen:
        """Return what the projector reads of a frame; with a tower of its own, run that.

        Raises:
            EmbeddingError, PromptError, DetailError: as `read`.
        """
        if self._tower is not None:
            return {"tokens": self._tower.tokens(embedding)}
        require_finite(embedding.tokens, "a patch token")
        shared = self._device_tokens
        on_device = None if shared is None else shared.get(key_of(embedding))
        seen = self._seen(embedding.tokens, embedding.token_index)
        return seen if on_device is None else {**seen, "tokens": on_device}

    def prefill(
        self, tokens: NDArray[np.float16], token_index: NDArray[np.uint16] | None = None
    ) -> Prefix:
        """Read an image by what the vision encoder gives.

        Args:
            tokens: [K, V].
            token_index: [K], their places in the grid; None: each is at its own.

        Raises:
            PromptError: there are more tokens than the bundle was made for.
            EmbeddingError: the places are not those of the tokens.
            EngineError: the tokens have another width.
        """
        return self.read_features(self._seen(tokens, token_index))

    def _seen(
        self, tokens: NDArray[np.float16], token_index: NDArray[np.uint16] | None
    ) -> dict[str, NDArray[Any]]:
        seen: dict[str, NDArray[Any]] = {"tokens": self._features(tokens)}
        if TOKEN_INDEX in self._projector.inputs:
            image = self._bundle.manifest.image
            if token_index is None:
                token_index = np.arange(len(tokens), dtype=np.uint16)
            seen[TOKEN_INDEX] = places_of(token_index, len(tokens), image.columns * image.rows)
        return seen

    def _features(self, tokens: NDArray[np.float16]) -> NDArray[np.float32]:
        most = self._bundle.manifest.vision.tokens
        if tokens.shape[0] > most:
            raise PromptError(
                f"the image has {tokens.shape[0]} tokens but the projector takes at most {most}"
            )
        return tokens[np.newaxis].astype(np.float32)

    def _look_at_nothing(self) -> Seen:
        """What the projector reads of a blank image."""
        if self._tower is not None:
            return {"tokens": self._tower.look_at_nothing()}
        vision = self._bundle.manifest.vision
        return self._seen(np.zeros((vision.tokens, vision.token_width), np.float16), None)

    def read_features(self, features: Seen) -> Prefix:
        """Read what `look` returned.

        Returns:
            The cached prefix that questions and captions branch from.

        Raises:
            EngineError: the tokens have another width.
        """
        image = self._run(self._projector, features)["embeds"][0]
        embeds = np.concatenate([self._before, image])
        with self._turns:
            cache = self._decoder.prefill(embeds)
        return Prefix(cache, self._room)

    def pack(self, questions: Sequence[QuestionSpec]) -> PackedQuestions:
        """Lay questions out for `answer`; do it once for questions that stay.

        Raises:
            PromptError: two choices of a question are the same tokens, or there is no room.
        """
        packer = Packer()
        for question in questions:
            prompt, choices = (
                self._prompts.ids(question.question),
                self._prompts.choice_ids(question),
            )
            count = len(prompt) + max(map(len, choices))
            if count > self._positions:
                raise PromptError(
                    f"question {question.name!r} and an answer take {count} tokens but there is "
                    f"room for {self._positions}; use a shorter one"
                )
            packer.add(prompt, choices, self._stop)
        packed = packer.finish(tuple(questions))
        if self._decoder.capacity is not None and len(packed.ids) > self._positions:
            raise PromptError(
                f"all questions together take {len(packed.ids)} tokens but {self.engine_name} has "
                f"room for {self._positions}; ask fewer or shorter ones"
            )
        return packed

    def answer(
        self, prefix: Prefix, packed: PackedQuestions, *, wait_s: float | None = None
    ) -> tuple[Attribute, ...]:
        """Probability of each choice of each question.

        The softmax over the choices' log-likelihoods, each divided by its number of tokens,
        stop token included, and by the question's temperature.

        Args:
            prefix: the image.
            packed: the questions.
            wait_s: of no use here, since they are one run of an engine.
        """
        if not packed.questions:
            return ()
        means = self.log_likelihoods(prefix, packed)
        attributes, first = [], 0
        for question in packed.questions:
            scores = means[first : first + len(question.choices)] / question.temperature
            first += len(question.choices)
            powers = np.exp(scores - scores.max())
            probabilities = powers / powers.sum()
            attributes.append(
                Attribute(
                    name=question.name,
                    value=question.choices[int(probabilities.argmax())],
                    choices=question.choices,
                    probabilities=tuple(float(value) for value in probabilities),
                )
            )
        return tuple(attributes)

    def log_likelihoods(self, prefix: Prefix, packed: PackedQuestions) -> NDArray[np.float64]:
        """Mean log-likelihood per token of every choice, stop token included, [choices]."""
        positions = packed.positions + prefix.length
        embeds = self._embed(packed.ids)
        with self._turns:
            logits = self._decoder.read(prefix.cache, embeds, positions, packed.mask, packed.rows)
        top = logits.max(axis=1, keepdims=True)
        totals = np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64)) + top[:, 0]
        single = logits[packed.row_of_target, packed.targets] - totals[packed.row_of_target]
        sums = np.add.reduceat(single, packed.starts)
        return np.asarray(sums / packed.lengths, np.float64)

    def generate(
        self,
        prefix: Prefix,
        text: str,
        *,
        max_tokens: int,
        budget_s: float | None = None,
        wait_s: float | None = None,
        sampling: Sampling = GREEDY,
    ) -> Generation:
        """Answer a text.

        Args:
            prefix: the image.
            text: the question or instruction, taken literally.
            max_tokens: the most tokens to generate.
            budget_s: the most seconds to take; no limit when None.
            wait_s: of no use here.
            sampling: how tokens are chosen.

        Raises:
            PromptError: the text leaves no room for an answer.
        """
        ids: list[int] = []
        deadline = None if budget_s is None else self._clock() + budget_s
        for token in self.stream(prefix, text, max_tokens=max_tokens, sampling=sampling):
            if token.stops:
                return Generation(self.decode(ids), tuple(ids), finished=True)
            ids.append(token.index)
            if deadline is not None and self._clock() >= deadline:
                break
        return Generation(self.decode(ids), tuple(ids), finished=False)

    def remember(self, prefix: Prefix) -> None:
        """Nothing: each frame is read for itself."""

    def alone(self, prefix: Prefix) -> Prefix:
        """Return the same image with room up to the decoder's last position."""
        return replace(prefix, room=self._positions)

    def picture(self, prefix: Prefix, source: tuple[int, int]) -> Picture:
        """Return what the tower, or the vision graph, is shown of a camera image.

        Args:
            prefix: of no use here.
            source: width and height of the camera image.
        """
        return picture_of_bundle(self._bundle.manifest, source)

    def write(
        self,
        prefix: Prefix,
        text: str,
        *,
        max_tokens: int,
        wait_s: float | None = None,
        sampling: Sampling = GREEDY,
    ) -> Iterator[Spelled]:
        """As `stream`, with the text as far as it has come; `wait_s` is of no use here.

        Raises:
            PromptError: the text leaves no room for an answer.
        """
        ids: list[int] = []
        for token in self.stream(prefix, text, max_tokens=max_tokens, sampling=sampling):
            if not token.stops:
                ids.append(token.index)
            yield Spelled(self.decode(ids), token)

    def stream(
        self, prefix: Prefix, text: str, *, max_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[Token]:
        """Generate token by token, each when it is asked for; a stop token comes last.

        Raises:
            PromptError: the text leaves no room for an answer.
        """
        prompt = self._prompts.ids(text)
        limit = min(max_tokens, prefix.room - len(prompt))
        if limit < 1:
            raise PromptError(
                f"the text has {len(prompt)} tokens but there is room for {prefix.room}; use a "
                "shorter one"
            )
        with self._turns:
            branch = self._decoder.branch(prefix.cache, len(prompt) + limit)
        step, chooser = prompt, TokenChooser(sampling)
        for _ in range(limit):
            logits = self._next(branch, step)
            chosen = chooser.choose(logits)
            token = Token(chosen, chosen in self._stops, logits)
            yield token
            if token.stops:
                return
            step = [token.index]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens; an unfinished character at the end is left out."""
        return self._prompts.tokenizer.decode(list(ids))

    def check_prompt(self, text: str, reserve: int) -> None:
        """Refuse a text that leaves no room for `reserve` tokens of answer.

        Raises:
            PromptError: the text is too long or no valid Unicode.
        """
        try:
            count = len(self._prompts.ids(text))
        except TextError as error:
            raise PromptError(str(error)) from error
        if count + reserve > self._room:
            raise PromptError(
                f"the text makes a prompt of {count} tokens; with an answer of {reserve} tokens, "
                f"only {self._room} fit. Use a shorter one"
            )

    def _next(self, branch: Cache, step: Sequence[int]) -> NDArray[np.float32]:
        """Feed tokens after the branch and return the scores of the next one, [vocabulary]."""
        with self._turns:
            return self._decoder.append(branch, self._embed(step))

    def _run(self, engine: Engine, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with self._turns:
            return engine.run(inputs)

    def _embed(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        rows = self._table[np.asarray(ids, np.int64)]
        embeds = np.zeros((len(rows), self._spec.read_width), np.float32)
        embeds[:, : self._spec.width] = rows
        return embeds

    def _past(self, length: int) -> NDArray[np.float32]:
        spec = self._spec
        return np.zeros((spec.layers, 2, 1, spec.kv_heads, length, spec.head_dim), np.float32)

    def _typical_workload(self) -> Workload:
        """Blank inputs of a prefill and of some tokens after it, one at a time."""
        length = len(self._before) + self._spec.image_tokens
        blank = np.zeros((length, self._spec.read_width), np.float32)
        step = causal_inputs(blank[:1], self._past(length), rows=[0])
        return [causal_inputs(blank, self._past(0), rows=[]), *[step] * TYPICAL_STEPS]


def _token_embeddings(bundle: ModelBundle, spec: LanguageSpec) -> NDArray[Any]:
    """A row for each token, [vocabulary, width], left on the disk.

    Raises:
        BundleError: the file holds no such rows.
    """
    table = read_array(bundle.file(spec.embeddings), mapped=True)
    if table.ndim != 2 or table.shape[1] != spec.width or table.dtype.kind != "f":
        raise BundleError(
            f"{spec.embeddings} of bundle {bundle.manifest.name} is {table.dtype} "
            f"{list(table.shape)}, and the manifest says [vocabulary, {spec.width}] of "
            "floating-point numbers. Copy or export the bundle again"
        )
    return table
