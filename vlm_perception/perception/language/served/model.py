# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A language model that an OpenAI-compatible server runs, asked like a bundle's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.perception.details import LONGEST_SIDE, DetailError, shrunk
from vlm_perception.perception.language.analysis_cost import AnalysisCost
from vlm_perception.perception.language.picture import Picture, whole
from vlm_perception.perception.language.prompts import PromptError
from vlm_perception.perception.language.served import answer_sheet
from vlm_perception.perception.language.served.abilities import ALTERNATIVES, Abilities
from vlm_perception.perception.language.served.choices import Choices, Sheet
from vlm_perception.perception.language.served.discovery import Discovery
from vlm_perception.perception.language.served.requests import Requests
from vlm_perception.perception.language.served.sent_image import data_url, message
from vlm_perception.perception.language.served.settings import ServedSettings
from vlm_perception.perception.language.served.shown_before import ShownBefore
from vlm_perception.perception.language.token_sampling import GREEDY, Sampling
from vlm_perception.perception.served.completions import Request, TokenLogprobs
from vlm_perception.perception.served.errors import Fault, ServedError
from vlm_perception.perception.served.link import Link
from vlm_perception.perception.tokenizer import TextError, require_text
from vlm_perception.types import Attribute, Embedding

MEASURED_TOKENS = 8


@dataclass(frozen=True)
class Shown:
    """A frame as it is sent, the same for all questions about it."""

    images: tuple[str, ...]
    """As `data_url` makes them: what was seen before, the oldest first, and then the frame."""
    size: tuple[int, int]
    """Width and height of the newest one."""
    run_id: str = ""
    stamp_ns: int = 0
    tower_s: float = 0.0
    """The server does not say."""


@dataclass(frozen=True)
class ServedText:
    """A text as far as it has come."""

    text: str
    stops: bool
    log_probability: float | None
    tokens: tuple[TokenLogprobs, ...] = ()
    """Of the last piece, as far as the server tells of them."""

    @property
    def finished(self) -> bool:
        """Whether the model ended it itself."""
        return self.stops


class ServedModel:
    """Asks a server; for any thread.

    What it can do is found out when it is first reached, and again once it may be another one.
    """

    shrinks_images = True

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
            abilities: what the server can do, where that is known for good.
            learned: called whenever that has been found out.
        """
        self._link, self._settings, self._clock = link, settings, clock
        self._requests = Requests(link, f"waiting for {self.engine_name}")
        self._before = ShownBefore(settings.frames)
        self._discovery = Discovery(self._requests, settings, clock, learned, abilities)
        self._choices = Choices(self._requests, self._discovery, settings, clock)
        self._stall = self._refused = ""

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
        with suppress(ServedError):
            self.find_abilities()

    def issue(self) -> str:
        """Say why it cannot be asked now, with a remedy; empty: it can."""
        return self._link.issue() or self._discovery.fault

    def may_be_asked(self) -> bool:
        """Whether a request now makes sense: the server answers, or it is time to try it again."""
        return self._link.admits() and self._discovery.is_due()

    def concern(self) -> str:
        """Say what is wrong with its answers; empty: nothing."""
        return "; ".join(filter(None, (self._stall, self._refused, self._choices.concern())))

    def figures(self) -> Mapping[str, str]:
        """What the diagnostics show."""
        abilities = self._discovery.known
        found = abilities.figures() if abilities is not None else {"answers": "not known yet"}
        if abilities is not None and abilities.letters:
            found = {**found, "letters_mass": f"{self._choices.least_mass:.3f} at least"}
        return {**found, **self._link.figures()}

    def interrupt(self) -> None:
        """End all requests with an error for who waits for them, and send none until `resume`."""
        self._requests.stop()

    def resume(self) -> None:
        """Send requests again."""
        self._requests.resume()
        self._discovery.resume()

    def close(self) -> None:
        """End all requests and the connection."""
        self._link.close()
        self._choices.close()

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
        run_id, stamp_ns = embedding.run_id, embedding.stamp_ns
        image, size = self._sent(embedding.image, share)
        return Shown((*self._before.of(run_id, stamp_ns), image), size, run_id, stamp_ns)

    def remember(self, seen: Shown) -> None:
        """Let the frame be one of those that are sent with later ones."""
        self._before.add(seen.run_id, seen.stamp_ns, seen.images[-1])

    def show(self, image: NDArray[np.uint8]) -> Shown:
        """Make a request's JPEGs of one image, uint8 RGB [height, width, 3]."""
        sent, size = self._sent(image, 1.0)
        return Shown((sent,) * self._settings.frames, size)

    def alone(self, seen: Shown) -> Shown:
        """Return the frame without those before it; what room there is, the server knows."""
        return replace(seen, images=seen.images[-1:])

    def picture(self, seen: Shown, source: tuple[int, int]) -> Picture:
        """Return the image as it is sent; the server's processor makes a picture of it.

        Args:
            seen: the frame.
            source: width and height of the camera image.
        """
        return replace(whole(source, seen.size), processed=False)

    def _sent(self, image: NDArray[np.uint8], share: float) -> tuple[str, tuple[int, int]]:
        """A JPEG as `data_url` makes it, and its width and height."""
        settings = self._settings
        # An encoder in another process sends it shrunk: from both come the same pixels.
        pixels = shrunk(image, LONGEST_SIDE)
        longest = round(share * settings.served_image_size)
        pixels = shrunk(pixels, longest)
        size = pixels.shape[1], pixels.shape[0]
        return data_url(pixels, longest, settings.served_jpeg_quality), size

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
        self, seen: Shown, packed: Sheet, *, wait_s: float | None = None
    ) -> tuple[Attribute, ...]:
        """Answer typed questions, by letters where the server gives log-probabilities.

        Args:
            seen: the frame.
            packed: the questions.
            wait_s: the most seconds for all of them.

        Raises:
            ServedError: it cannot answer now.
        """
        if not packed.questions:
            return ()
        end = self._clock() + self._wait_s(wait_s)
        try:
            able = self.find_abilities(wait_s)
            attributes = self._choices.answer(seen.images, packed, able, end)
        except ServedError as error:
            self._refused = str(error) if error.fault is Fault.REQUEST else ""
            raise
        self._refused = ""
        return attributes

    def write(
        self,
        seen: Shown,
        text: str,
        *,
        max_tokens: int,
        wait_s: float | None = None,
        sampling: Sampling = GREEDY,
    ) -> Generator[ServedText, None, None]:
        """Answer a text piece by piece, mostly token by token; a piece that stops it comes last.

        Args:
            seen: the frame.
            text: the question or instruction, taken literally.
            max_tokens: the most tokens to generate.
            wait_s: the most seconds for all of it; None: for the next piece what an analysis may
                take.
            sampling: how tokens are chosen.

        Raises:
            ServedError: it cannot answer now, or breaks off.
        """
        yield from self._write(seen, text, max_tokens, sampling, wait_s)

    def generate(
        self,
        seen: Shown,
        text: str,
        *,
        max_tokens: int,
        budget_s: float | None = None,
        wait_s: float | None = None,
        sampling: Sampling = GREEDY,
    ) -> ServedText:
        """Answer a text in one go: after the budget what has come of it, once something has.

        Raises:
            ServedError: nothing has come of it.
        """
        last = ServedText("", False, None)
        wait_s = self._wait_s(wait_s)
        end = self._clock() + (wait_s if budget_s is None else budget_s)
        self._stall = ""
        try:
            with closing(self._write(seen, text, max_tokens, sampling, wait_s)) as written:
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

    def _write(
        self,
        seen: Shown,
        text: str,
        max_tokens: int,
        sampling: Sampling,
        wait_s: float | None,
    ) -> Generator[ServedText, None, None]:
        able = self.find_abilities(wait_s)
        request = Request(
            messages=[message(seen.images, text)],
            max_tokens=max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            top_logprobs=int(able.log_probabilities),
        )
        answer = ""
        with closing(self._requests.ask(request, self._wait_s(wait_s), total_s=wait_s)) as deltas:
            for delta in deltas:
                answer += delta.text
                known = [each.logprob for each in delta.logprobs if math.isfinite(each.logprob)]
                ended = delta.finish == "stop"
                mean = fmean(known) if known else None
                yield ServedText(answer.strip(), ended, mean, delta.logprobs)

    def _wait_s(self, wait_s: float | None) -> float:
        """Seconds for an answer, where none are given those for an analysis."""
        return self._settings.served_deadline if wait_s is None else max(0.0, wait_s)

    def letter_masses(
        self, seen: Shown, question: QuestionSpec, *, turn: int = 0, wait_s: float | None = None
    ) -> NDArray[np.float64]:
        """Probability of each choice's letter [choices]; they add up to 1 at most.

        Args:
            seen: the frame.
            question: that is asked.
            turn: by how many places the choices are turned before they get their letters.
            wait_s: the most seconds.

        Raises:
            ServedError: it cannot answer now.
        """
        return self._choices.letters(seen.images, question, turn, self._wait_s(wait_s))[1]

    def find_abilities(self, wait_s: float | None = None) -> Abilities:
        """What the server can do.

        Args:
            wait_s: the most seconds to wait while another thread finds it out.

        Raises:
            ServedError: it cannot be asked now.
        """
        return self._discovery.find(self._wait_s(wait_s))
