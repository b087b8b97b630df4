# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A language model that an OpenAI-compatible server runs, asked like a bundle's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.engines.steps import step
from vlm_perception.perception.details import LONGEST_SIDE, DetailError, shrunk
from vlm_perception.perception.language import answer_sheet
from vlm_perception.perception.language.abilities import ALTERNATIVES, Abilities, find_abilities
from vlm_perception.perception.language.analysis_cost import AnalysisCost
from vlm_perception.perception.language.letters import answered, lettered, masses, unanswered
from vlm_perception.perception.language.picture import data_url, message
from vlm_perception.perception.language.prompts import PromptError
from vlm_perception.perception.language.served_settings import ServedSettings
from vlm_perception.perception.language.shown_before import ShownBefore
from vlm_perception.perception.language.token_sampling import GREEDY, Sampling
from vlm_perception.perception.served.completions import Delta, Request
from vlm_perception.perception.served.errors import Fault, ServedError
from vlm_perception.perception.served.link import Answer, Link
from vlm_perception.perception.tokenizer import TextError, require_text
from vlm_perception.types import Attribute, Embedding

MEASURED_TOKENS = 8
STALL_S = 0.3
"""A text of which nothing comes for so long, and for twice the time of a piece, has stalled."""
LONGEST_SHOWN = 60
"""Characters of an answer that is quoted because it is none."""


@dataclass(frozen=True)
class Shown:
    """A frame as it is sent, the same for all questions about it."""

    pictures: tuple[str, ...]
    """As `data_url` makes them: what was seen before, the oldest first, and then the frame."""
    tower_s: float = 0.0
    """The server does not say."""


@dataclass(frozen=True)
class Sheet:
    """Questions that can be put to the server one by one or all at once."""

    questions: tuple[QuestionSpec, ...]
    together: str
    """The prompt that asks all of them."""

    @property
    def tokens(self) -> int:
        """Their length, roughly: the server has the tokenizer."""
        return len(self.together) // 4


@dataclass(frozen=True)
class ServedText:
    """A text as far as it has come."""

    text: str
    stops: bool
    log_probability: float | None

    @property
    def finished(self) -> bool:
        """Whether the model ended it itself."""
        return self.stops


class ServedModel:
    """Asks a server; for any thread.

    What it can do is found out when it is first reached.
    """

    def __init__(
        self,
        link: Link,
        settings: ServedSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        abilities: Abilities | None = None,
        learned: Callable[[Abilities], None] = lambda _: None,
    ) -> None:
        """Ask nothing yet.

        Args:
            link: brings the answers.
            settings: how it is asked.
            clock: seconds, for the limits of time.
            abilities: what the server can do, where that is known.
            learned: is told once that has been found out.
        """
        self._link, self._settings, self._clock = link, settings, clock
        self._before = ShownBefore(settings.frames)
        self._threads = ThreadPoolExecutor(settings.slots, "served")
        self._finding, self._lock = threading.Lock(), threading.Lock()
        self._streams: set[Answer] = set()
        self._abilities, self._learned = abilities, learned
        self._fault = ""
        self._nonsense = self._stall = ""
        self._piece_s = 0.0
        """Between the last two pieces of a text."""
        self._least_mass = 1.0

    @property
    def engine_name(self) -> str:
        """Model and server."""
        return f"{self._settings.model} on {urlsplit(self._settings.endpoint).netloc}"

    @property
    def caption_prompt(self) -> str:
        """What asks for a caption."""
        return self._settings.caption_prompt

    @property
    def deadline_s(self) -> float:
        """The most seconds that an analysis may take."""
        return self._settings.served_deadline

    def verify(self) -> None:
        """Nothing: whether it computes what it should is up to the server."""

    def warm_up(self, packed: Sheet) -> None:
        """Find out whether the server is there, and what it can do; `issue` says why not."""
        try:
            self.find_abilities()
        except ServedError as error:
            self._fault = str(error)

    def issue(self) -> str:
        """Say why it cannot be asked now, with a remedy; empty: it can."""
        return self._link.issue() or (self._fault if self._abilities is None else "")

    def may_be_asked(self) -> bool:
        """Whether a request now makes sense: the server answers, or it is time to try it again."""
        return self._link.admits()

    def concern(self) -> str:
        """Say what is wrong with its answers; empty: nothing."""
        nonsense = self._nonsense and (
            f"{self._settings.model} answers the typed questions with {self._nonsense!r} and not "
            "with one of their choices, so that they are unknown; use a model that follows "
            "instructions, or a server that can keep it to a JSON schema"
        )
        return "; ".join(filter(None, (self._stall, nonsense)))

    def figures(self) -> Mapping[str, str]:
        """What the diagnostics show."""
        abilities = self._abilities
        found = abilities.figures() if abilities is not None else {"answers": "not known yet"}
        if abilities is not None and abilities.letters:
            found = {**found, "letters_mass": f"{self._least_mass:.3f} at least"}
        return {**found, **self._link.figures()}

    def interrupt(self) -> None:
        """End all requests that are being answered, with an error for who waits for them."""
        with self._lock:
            streams, self._streams = self._streams, set()
        for stream in streams:
            stream.close()

    def close(self) -> None:
        """End all requests and the connection."""
        self._link.close()
        self._threads.shutdown(wait=False)

    def measure(self, packed: Sheet, question: Mapping[str, Any]) -> AnalysisCost:
        """Time an analysis of a black image, once: others may be waiting for the server.

        Args:
            packed: the questions that are asked of each image.
            question: what the result depends on, to be kept with it.

        Raises:
            ServedError: it cannot be asked now.
        """
        size = self._settings.served_image_size
        shown = self.show(np.zeros((size * 9 // 16, size, 3), np.uint8))
        times = [self._clock()]
        self.answer(shown, packed)
        times.append(self._clock())
        written = self.write(shown, self.caption_prompt, max_tokens=MEASURED_TOKENS)
        count = 0
        for _ in written:
            count += 1
            if count == 1:
                times.append(self._clock())
        times += [self._clock()] * (4 - len(times))
        questions, prompt, rest = map(float, np.diff(times))
        return AnalysisCost(
            question=dict(question),
            prefill_s=0.0,
            questions_s=questions,
            prompt_s=prompt,
            token_s=rest / max(1, count - 1),
        )

    def read(self, embedding: Embedding, share: float = 1.0) -> Shown:
        """Make a JPEG of the frame's image.

        Args:
            embedding: the frame.
            share: of the usual size, to save the server work.

        Raises:
            DetailError: there is none.
        """
        if embedding.image is None:
            raise DetailError(
                "the image of the frame is not at hand; start a vision_encoder of this version"
            )
        picture = self._picture(embedding.image, share)
        return Shown(self._before.and_now(embedding, picture))

    def show(self, image: NDArray[np.uint8]) -> Shown:
        """Make a JPEG of an image, uint8 RGB [height, width, 3], which stands for all pictures."""
        return Shown((self._picture(image, 1.0),) * self._settings.frames)

    def _picture(self, image: NDArray[np.uint8], share: float) -> str:
        settings = self._settings
        # An encoder in another process sends it shrunk: from both come the same pixels.
        pixels = shrunk(image, LONGEST_SIDE)
        longest = round(share * settings.served_image_size)
        return data_url(pixels, longest, settings.served_jpeg_quality)

    def pack(self, questions: Sequence[QuestionSpec]) -> Sheet:
        """Word questions for `answer`.

        Raises:
            PromptError: one has more choices than a server gives alternatives of a token.
        """
        for each in questions:
            if len(each.choices) > ALTERNATIVES:
                raise PromptError(
                    f"question {each.name!r} has {len(each.choices)} choices, and a served model "
                    f"is given {ALTERNATIVES} at most; ask several questions instead"
                )
        return Sheet(tuple(questions), answer_sheet.sheet(questions))

    def answer(
        self, seen: Shown, packed: Sheet, *, budget_s: float | None = None
    ) -> tuple[Attribute, ...]:
        """Answer typed questions, by letters where the server gives log-probabilities.

        Args:
            seen: the frame.
            packed: the questions.
            budget_s: the most seconds for all of them.

        Raises:
            ServedError: it cannot answer now.
        """
        if not packed.questions:
            return ()
        end = self._clock() + (self._settings.served_deadline if budget_s is None else budget_s)
        if not self.find_abilities().letters:
            return self._fill_in(seen, packed, end)

        def ask(question: QuestionSpec) -> Attribute:
            return self._choose(seen, question, end)

        if self._settings.slots == 1:
            return tuple(map(ask, packed.questions))
        with step(self._waiting, self._settings.served_deadline + 1.0, self.interrupt):
            return tuple(self._threads.map(ask, packed.questions))

    def write(
        self,
        seen: Shown,
        text: str,
        *,
        max_tokens: int,
        budget_s: float | None = None,
        sampling: Sampling = GREEDY,
    ) -> Generator[ServedText, None, None]:
        """Answer a text piece by piece, mostly token by token; a piece that stops it comes last.

        Args:
            seen: the frame.
            text: the question or instruction, taken literally.
            max_tokens: the most tokens to generate.
            budget_s: the most seconds until the next piece.
            sampling: how tokens are chosen.

        Raises:
            ServedError: it cannot answer now, or breaks off.
        """
        budget_s = self._settings.served_deadline if budget_s is None else budget_s
        yield from self._write(seen, text, max_tokens, sampling, budget_s, None)

    def generate(
        self,
        seen: Shown,
        text: str,
        *,
        max_tokens: int,
        budget_s: float | None = None,
        sampling: Sampling = GREEDY,
    ) -> ServedText:
        """Answer a text in one go; at the end of the budget with what has come of it.

        Raises:
            ServedError: nothing has come of it.
        """
        last = ServedText("", False, None)
        budget_s = self._settings.served_deadline if budget_s is None else budget_s
        end = self._clock() + budget_s
        # The budget cuts a text that grows; what no longer grows ends soon after it.
        total_s = budget_s + max(STALL_S, 2 * self._piece_s)
        written = self._write(seen, text, max_tokens, sampling, budget_s, total_s)
        self._stall = ""
        try:
            with closing(written):
                for each in written:
                    last = each
                    if self._clock() >= end:
                        break
        except ServedError as error:
            if error.fault is not Fault.SLOW or not last.text:
                raise
            self._stall = str(error)
        return last

    def check_prompt(self, text: str, reserve: int) -> None:
        """Refuse what is no text; what room there is, the server knows.

        Raises:
            PromptError: the text is no valid Unicode.
        """
        try:
            require_text(text)
        except TextError as error:
            raise PromptError(str(error)) from error

    def _ask(
        self, request: Request, budget_s: float, *, total_s: float | None = None
    ) -> Generator[Delta, None, None]:
        """The pieces of an answer; `interrupt` ends it, too.

        Args:
            request: what is asked.
            budget_s: the most seconds until each piece.
            total_s: the most seconds for all of them.

        Raises:
            ServedError: it does not come in time, or not at all.
        """
        budget_s = max(0.0, budget_s)
        with self._link.stream(request, budget_s=budget_s, total_s=total_s) as stream:
            with self._lock:
                self._streams.add(stream)
            try:
                while True:
                    with step(self._waiting, budget_s + 1.0, partial(self._end, stream)):
                        delta = next(stream, None)
                    if delta is None:
                        break
                    yield delta
                with self._lock:
                    interrupted = stream not in self._streams
                if interrupted:
                    raise ServedError(Fault.CLOSED, "the request was ended, since the node stops")
            finally:
                with self._lock:
                    self._streams.discard(stream)

    def _write(
        self,
        seen: Shown,
        text: str,
        max_tokens: int,
        sampling: Sampling,
        budget_s: float,
        total_s: float | None,
    ) -> Generator[ServedText, None, None]:
        request = Request(
            messages=[message(seen.pictures, text)],
            max_tokens=max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            top_logprobs=int(self._tells_probabilities),
        )
        answer = ""
        with closing(self._ask(request, budget_s, total_s=total_s)) as deltas:
            last_s = None
            for delta in deltas:
                now_s = self._clock()
                self._piece_s = now_s - last_s if last_s is not None else self._piece_s
                last_s = now_s
                answer += delta.text
                known = [each.logprob for each in delta.logprobs]
                ended = delta.finish == "stop"
                yield ServedText(answer.strip(), ended, fmean(known) if known else None)

    def _end(self, stream: Answer) -> None:
        """End a request with an error for who waits for it: what has come is not all."""
        with self._lock:
            self._streams.discard(stream)
        stream.close()

    @property
    def _waiting(self) -> str:
        return f"waiting for {self.engine_name}"

    def letter_masses(
        self, seen: Shown, question: QuestionSpec, *, turn: int = 0, budget_s: float | None = None
    ) -> NDArray[np.float64]:
        """Probability of each choice's letter [choices]; they add up to 1 at most.

        Args:
            seen: the frame.
            question: that is asked.
            turn: by how many places the choices are turned before they get their letters.
            budget_s: the most seconds.

        Raises:
            ServedError: it cannot answer now.
        """
        return self._letters(seen, question, turn, budget_s)[1]

    def _letters(
        self, seen: Shown, question: QuestionSpec, turn: int, budget_s: float | None
    ) -> tuple[str, NDArray[np.float64]]:
        """What was answered, and `letter_masses`."""
        turned = tuple(np.roll(question.choices, -turn).tolist())
        request = Request(
            messages=[
                message(seen.pictures, lettered(question.model_copy(update={"choices": turned})))
            ],
            max_tokens=1,
            top_logprobs=ALTERNATIVES,
        )
        budget_s = self._settings.served_deadline if budget_s is None else budget_s
        text, found = "", masses({}, len(turned))
        with closing(self._ask(request, budget_s, total_s=budget_s)) as deltas:
            for delta in deltas:
                text += delta.text
                for token in delta.logprobs[:1]:
                    found = masses(token.top, len(turned))
        return text, np.roll(found, turn)

    def _choose(self, seen: Shown, question: QuestionSpec, end_s: float) -> Attribute:
        text, found = self._letters(seen, question, 0, end_s - self._clock())
        self._least_mass = min(self._least_mass, float(found.sum()))
        attribute = answered(question, found)
        self._note(text if not attribute.probabilities else "")
        return attribute

    def _fill_in(self, seen: Shown, packed: Sheet, end_s: float) -> tuple[Attribute, ...]:
        questions = packed.questions
        request = Request(
            messages=[message(seen.pictures, packed.together)],
            max_tokens=answer_sheet.longest(questions),
            schema=answer_sheet.schema(questions),
        )
        left_s = max(0.0, end_s - self._clock())
        with closing(self._ask(request, left_s, total_s=left_s)) as deltas:
            text = "".join(delta.text for delta in deltas)
        attributes = answer_sheet.filled(text, questions)
        self._note("" if attributes is not None else text)
        return attributes or tuple(map(unanswered, questions))

    @property
    def _tells_probabilities(self) -> bool:
        return self._abilities is not None and self._abilities.log_probabilities

    def _note(self, nonsense: str) -> None:
        self._nonsense = " ".join(nonsense.split())[:LONGEST_SHOWN]

    def find_abilities(self) -> Abilities:
        """What the server can do, found out once.

        Raises:
            ServedError: it cannot be asked now.
        """
        with self._finding:
            if self._abilities is None:
                settings = self._settings
                with step(self._waiting, settings.served_deadline + 1.0):
                    self._link.check(settings.served_deadline)
                self._abilities = find_abilities(
                    self._ask,
                    size=settings.served_image_size,
                    quality=settings.served_jpeg_quality,
                    frames=settings.frames,
                    budget_s=settings.served_deadline,
                    clock=self._clock,
                )
                self._fault = ""
                self._learned(self._abilities)
            return self._abilities
