# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A record of what a served model has answered, so that it can be answered again without it.

One JSON object a line: the model, what its server can do, and each request by its digest with the
pieces of its answer and the seconds that each was waited for. Neither images nor prompts are in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.perception.served.completions import Delta, Request, TokenLogprobs
from vlm_perception.perception.served.errors import Fault, ServedError
from vlm_perception.perception.served.link import Answer, Inquiry, Link

MODEL, SERVER, REQUEST, PIECES, ERROR = "model", "server", "request", "pieces", "error"
LONGEST_HEAD = 65536
"""Characters of the first line."""
BLOCK = 65536
Piece = tuple[float, Delta]
"""Seconds that it was waited for, and what came."""


class RecordError(VlmPerceptionError):
    """A record cannot be read; the message says why and what to do."""


@dataclass(frozen=True)
class Recorded:
    """What came of a request."""

    pieces: tuple[Piece, ...]
    error: tuple[float, Fault, str] | None = None
    """Seconds after the last piece, and what it was."""


class Record:
    """What is known of a server and its answers."""

    def __init__(self, model: str, source: str = "") -> None:
        """Know nothing yet.

        Args:
            model: that was asked.
            source: where it was read from, for messages.
        """
        self.model, self.source = model, source
        self.server: dict[str, Any] = {}
        """What the server can do."""
        self._answers: dict[str, deque[Recorded]] = {}

    @classmethod
    def read(cls, file: Path) -> Record:
        """Read one; the end of a line that was never finished is left out.

        Raises:
            RecordError: it cannot be read, or holds something else.
        """
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(f"the record {file} cannot be read: {error}") from error
        record: Record | None = None
        for number, line in enumerate(lines, 1):
            try:
                content = json.loads(line)
                if record is None:
                    record = cls(content[MODEL], str(file))
                elif MODEL in content:
                    continue  # Another run has been added.
                elif SERVER in content:
                    record.server = dict(content[SERVER])
                else:
                    record.add(content[REQUEST], _recorded(content))
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):
                    break
                raise RecordError(
                    f"line {number} of {file} is no part of a record of a served model: {error!r}"
                ) from error
        if record is None:
            raise RecordError(
                f"{file} holds no record of a served model; `replay --served live` writes one"
            )
        return record

    @staticmethod
    def model_of(file: Path) -> str | None:
        """The model of a record; None where there is no file, or an empty one.

        Raises:
            RecordError: there is something else.
        """
        try:
            with file.open(encoding="utf-8") as stream:
                line = stream.readline(LONGEST_HEAD)
            return str(json.loads(line)[MODEL]) if line else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{file} is no record of a served model; give another file"
            ) from error

    def add(self, digest: str, answer: Recorded) -> None:
        """Take in what came of a request."""
        self._answers.setdefault(digest, deque()).append(answer)

    def take(self, request: Request) -> Recorded:
        """What came of a request; where it was made several times, of each in turn.

        Raises:
            RecordError: it is not in the record.
        """
        found = self._answers.get(digest_of(request, self.model))
        if not found:
            raise RecordError(
                f"a request is not in the record {self.source}: it was made of other images, "
                "questions or parameters; ask the server itself with --served live"
            )
        return found.popleft() if len(found) > 1 else found[0]


class Writer:
    """Writes a record, line by line as it comes; for any thread."""

    def __init__(
        self, file: Path, model: str, failed: Callable[[OSError], object] | None = None
    ) -> None:
        """Add to a file, which is opened when there is something to write.

        Args:
            file: a record of the model, or none yet; its folder must be there by then.
            model: that is asked.
            failed: called once when nothing can be written any more; None: that is raised.
        """
        self._file, self._model, self._failed = file, model, failed
        self._lock = threading.Lock()
        self._stream: TextIO | None = None
        self._closed = False
        self._pending: list[Mapping[str, Any]] = [{MODEL: model}]

    def server(self, abilities: Mapping[str, Any]) -> None:
        """Write down what the server can do, before the next answer."""
        with self._lock:
            self._pending.append({SERVER: dict(abilities)})

    def add(self, request: Request, answer: Recorded) -> None:
        """Write down what came of a request.

        Raises:
            OSError: it cannot be written.
        """
        content: dict[str, Any] = {
            REQUEST: digest_of(request, self._model),
            PIECES: [[round(waited, 6), *_plain(delta)] for waited, delta in answer.pieces],
        }
        if answer.error is not None:
            waited, fault, message = answer.error
            content[ERROR] = [round(waited, 6), fault.name, message]
        self._write(content)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._closed = True
            if self._stream is not None:
                self._stream.close()

    def _write(self, content: Mapping[str, Any]) -> None:
        with self._lock:
            if self._closed:
                return
            try:
                if self._stream is None:
                    _drop_torn_line(self._file)
                    self._stream = self._file.open("a", encoding="utf-8")
                for each in (*self._pending, content):
                    self._stream.write(json.dumps(each) + "\n")
                self._stream.flush()
                self._pending.clear()
            except OSError as error:
                self._closed = True
                if self._failed is None:
                    raise
                self._failed(error)


class Listener(Protocol):
    """Hears of each request and what came of it."""

    def add(self, request: Request, answer: Recorded) -> None:
        """Take it in."""
        ...

    def close(self) -> None:
        """No more come."""
        ...


class Recording:
    """A link whose answers are written down."""

    def __init__(
        self,
        link: Link,
        writer: Listener,
        clock: Callable[[], float],
        passed: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Listen to a link.

        Args:
            link: brings the answers.
            writer: takes them.
            clock: seconds that are waited.
            passed: called with the seconds after each wait.
        """
        self._link, self._writer, self._clock, self._passed = link, writer, clock, passed
        self.check, self.issue, self.admits = link.check, link.issue, link.admits
        self.figures = link.figures

    def stream(self, request: Request, *, budget_s: float, total_s: float | None = None) -> Answer:
        """Ask, and write down what comes of it.

        Raises:
            ServedError: it cannot be asked now.
        """
        try:
            answer = self._link.stream(request, budget_s=budget_s, total_s=total_s)
        except ServedError as error:
            self._writer.add(request, Recorded((), (0.0, error.fault, str(error))))
            raise
        return _Overheard(
            answer, lambda said: self._writer.add(request, said), self._clock, self._passed
        )

    def close(self) -> None:
        """End the link and the record."""
        self._link.close()
        self._writer.close()


class Replayed:
    """A link that answers from a record."""

    def __init__(self, record: Record, passed: Callable[[float], None]) -> None:
        """Answer from this record.

        Args:
            record: of a server's answers.
            passed: called with the seconds that each piece was waited for.
        """
        self._record, self._passed = record, passed

    def check(self, timeout_s: float) -> Inquiry:
        """Find nothing: the record says which model it is of."""
        return _Unasked()

    def stream(self, request: Request, *, budget_s: float, total_s: float | None = None) -> Answer:
        """What came of this request.

        Raises:
            RecordError: it is not in the record.
        """
        return _Again(self._record.take(request), self._passed)

    def issue(self) -> str:
        """Nothing."""
        return ""

    def admits(self) -> bool:
        """Always."""
        return True

    def figures(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Nothing."""


class _Unasked:
    def result(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Overheard(Iterator[Delta]):
    def __init__(
        self,
        answer: Answer,
        done: Callable[[Recorded], None],
        clock: Callable[[], float],
        passed: Callable[[float], None],
    ) -> None:
        self._answer, self._done, self._clock, self._passed = answer, done, clock, passed
        self._pieces: list[Piece] = []
        self._over = False

    def __next__(self) -> Delta:
        began = self._clock()
        try:
            delta = next(self._answer)
        except StopIteration:
            self._end(None)
            raise
        except ServedError as error:
            waited = self._clock() - began
            self._passed(waited)
            self._end((waited, error.fault, str(error)))
            raise
        waited = self._clock() - began
        self._passed(waited)
        self._pieces.append((waited, delta))
        return delta

    def close(self) -> None:
        """Give up what has not come yet; what has come, if anything, is in the record."""
        self._answer.close()
        self._end(None)

    def _end(self, error: tuple[float, Fault, str] | None) -> None:
        over, self._over = self._over, True
        # Of a request that was given up before it was answered, nothing can be told again.
        if not over and (self._pieces or error is not None):
            self._done(Recorded(tuple(self._pieces), error))


class _Again(Iterator[Delta]):
    def __init__(self, recorded: Recorded, passed: Callable[[float], None]) -> None:
        self._recorded, self._passed = recorded, passed
        self._pieces = iter(recorded.pieces)

    def close(self) -> None:
        """Nothing: all of it is there."""

    def __next__(self) -> Delta:
        piece = next(self._pieces, None)
        if piece is not None:
            self._passed(piece[0])
            return piece[1]
        if self._recorded.error is not None:
            waited, fault, message = self._recorded.error
            self._passed(waited)
            raise ServedError(fault, message)
        raise StopIteration


def _drop_torn_line(file: Path) -> None:
    """Cut off the end of a line that was never finished: a power cut leaves one."""
    if not file.exists():
        return
    with file.open("rb+") as stream:
        size = at = stream.seek(0, os.SEEK_END)
        while at:
            step = min(at, BLOCK)
            stream.seek(at - step)
            end = stream.read(step).rfind(b"\n")
            if end >= 0:
                at += end + 1 - step
                break
            at -= step
        if at != size:
            stream.truncate(at)


def digest_of(request: Request, model: str) -> str:
    """What a request is found by: all of it, and the model."""
    content = json.dumps(request.body(model), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(delta: Delta) -> list[Any]:
    logprobs = [[each.token, each.logprob, dict(each.top)] for each in delta.logprobs]
    return [delta.text, logprobs, delta.finish]


def _recorded(content: Mapping[str, Any]) -> Recorded:
    pieces = []
    for waited, text, logprobs, finish in content[PIECES]:
        tokens = tuple(TokenLogprobs(token, float(log), top) for token, log, top in logprobs)
        pieces.append((float(waited), Delta(text, tokens, finish)))
    error = content.get(ERROR)
    if error is None:
        return Recorded(tuple(pieces))
    return Recorded(tuple(pieces), (float(error[0]), Fault[error[1]], str(error[2])))
