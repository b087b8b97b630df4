# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle as a model of lmms-eval: `--model vlm_perception --model_args bundle=PATH`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from rich.console import Console
from rich.progress import track

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.engines.onnxruntime import ONNXRUNTIME
from vlm_perception.evaluation.lmms.decoding import DecodingError, read_decoding
from vlm_perception.evaluation.lmms.respondent import Answer, Respondent

Asked = tuple[str, str, int, int]
"""Task, split, number of the row in it, and number of the answer to it."""
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""They are left out of what tasks score: a spreadsheet cannot hold them, and a single one would end
the run."""


class BundleModel(lmms):
    """A bundle's networks; a row that it cannot answer is counted, and answered with silence."""

    is_simple = False

    def __init__(
        self,
        bundle: str,
        threads: int = 2,
        engine: str = ONNXRUNTIME,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Load the networks.

        Args:
            bundle: name or directory.
            threads: of the engines.
            engine: name of a backend, or `auto`.
            batch_size: 1; rows are answered one by one, as on the robot.
            max_batch_size: of no use.
            device: of no use; the engine has its own.

        Raises:
            BundleError: the bundle cannot be used, or has no language model.
            DecodingError: another size of batches is wanted.
        """
        super().__init__()
        if str(batch_size) not in ("1", "None", "auto"):
            raise DecodingError(
                f"batch_size={batch_size}: a bundle answers rows one by one; give 1"
            )
        model = ModelBundle.load(bundle)
        self.path, self.digest = model.path, model.digest
        """Of the bundle."""
        self.answers: dict[Asked, Answer] = {}
        """What has been answered so far; of an earlier run, too, where it was put in here."""
        self.on_answer: Callable[[Asked, Answer], None] = self.answers.__setitem__
        """Is told of each new answer."""
        self._respondent = Respondent(model, threads=threads, engine=engine)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer rows in turn.

        Raises:
            DecodingError: a task wants its answers to be written in a way that a bundle cannot.
        """
        decodings = [read_decoding(request.args[2]) for request in requests]
        draws: Counter[tuple[str, str, int]] = Counter()
        results, failed = [], 0
        bar = {"console": Console(stderr=True), "transient": True, "disable": self.rank != 0}
        pairs = zip(requests, decodings, strict=True)
        for request, decoding in track(pairs, "Answering", total=len(requests), **bar):
            _, doc_to_messages, _, number, task, split = request.args
            row = (task, split, number)
            asked = (*row, draws[row])
            draws[row] += 1
            if asked not in self.answers:
                self.on_answer(asked, self._answer(doc_to_messages, asked, decoding))
            answer = self.answers[asked]
            failed += bool(answer.error)
            text = CONTROL_CHARACTERS.sub("", answer.text)
            results.append(GenerationResult(text, TokenCounts(output_tokens=answer.tokens)))
        if failed:
            logger.warning(f"{failed} of {len(results)} rows have no answer and count as silence")
        return results

    def _answer(self, doc_to_messages: Callable[[Any], Any], asked: Asked, decoding: Any) -> Answer:
        task, split, number, draw = asked
        try:
            messages = doc_to_messages(self.task_dict[task][split][number])
            return self._respondent.answer(messages, decoding, draw=draw)
        # Code of the task's, an image that nothing can read: no row may end a run of hours.
        except Exception as error:
            why = str(error) if isinstance(error, VlmPerceptionError) else repr(error)
            logger.warning(f"{task}, row {number} of {split}: {why}")
            return Answer(error=why)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """No task of lmms-eval's asks for it.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a bundle answers generate_until tasks alone, not loglikelihood")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """A bundle's prompt holds one text.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a bundle answers generate_until tasks alone, not multi_round")
