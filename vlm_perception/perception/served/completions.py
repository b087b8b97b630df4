# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Chat completions as they go over the wire: what is asked, and the pieces of an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from vlm_perception.perception.served.errors import Fault, ServedError


@dataclass(frozen=True)
class Request:
    """What a model is asked, in the words of OpenAI's chat completions."""

    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_logprobs: int = 0
    """How many likely tokens to report at each place; 0 for no log-probabilities at all."""
    schema: Mapping[str, Any] | None = None
    """A JSON schema that the answer is to follow."""

    def body(self, model: str) -> dict[str, Any]:
        """The request's JSON; it holds nothing but what OpenAI's interface knows.

        Some servers refuse other fields.
        """
        body: dict[str, Any] = {
            "model": model,
            "messages": list(self.messages),
            "stream": True,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
        }
        if self.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if self.schema is not None:
            named = {"name": "answer", "strict": True, "schema": self.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body

    def texts(self) -> list[str]:
        """The texts and images of the messages, none of which may be quoted anywhere."""
        found = []
        for message in self.messages:
            content = message.get("content", "")
            parts: Sequence[Mapping[str, Any]] = content
            if isinstance(content, str):
                parts = [{"text": content}]
            found += [str(part["text"]) for part in parts if "text" in part]
            found += [str(part["image_url"]["url"]) for part in parts if "image_url" in part]
        return found


@dataclass(frozen=True)
class TokenLogprobs:
    """A token of an answer, and what else could have stood in its place."""

    token: str
    logprob: float
    """Minus infinity where the server does not say."""
    top: Mapping[str, float]
    """Log-probability of each of the likeliest texts; the tokens of one text are summed."""


@dataclass(frozen=True)
class Delta:
    """A piece of an answer."""

    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the tokens in the piece; empty where the server reports none."""
    finish: str = ""
    """Why the answer ended, with its last piece: `stop`, `length` or another word of the server."""


# Not a number is none of these; some servers round up to a little above 0.
_Logprob = Annotated[float, Field(le=0.01)]


class _Alternative(BaseModel):
    token: str
    logprob: _Logprob


class _Token(BaseModel):
    token: str
    logprob: _Logprob | None = None
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Piece(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    delta: _Piece | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Chunk(BaseModel):
    model: str | None = None
    choices: list[_Choice] | None = None
    error: Any = None


def read_chunk(data: str, model: str, where: str) -> Delta:
    """The piece in an event's data; all of its fields may be empty.

    Args:
        data: JSON of a `chat.completion.chunk`.
        model: that was asked.
        where: the server's address, for messages.

    Raises:
        ServedError: it is malformed, an error, or of another model.
    """
    try:
        chunk = _Chunk.model_validate_json(data)
    except ValidationError:
        raise ServedError(
            Fault.GARBLED,
            f"{where} sent an answer that is no chat completion; check the server's log, and that "
            "it is an OpenAI-compatible server",
        ) from None
    if chunk.error is not None:
        raise ServedError(Fault.SERVER, f"{where} failed within an answer; see the server's log")
    if chunk.model and not is_same_model(model, chunk.model):
        raise ServedError(
            Fault.MODEL,
            f"{where} answered with model {shown(chunk.model)} instead of {model}; set model to "
            "what the server runs, or start the server with that model",
        )
    if not chunk.choices:
        return Delta("")
    choice = chunk.choices[0]
    tokens = (choice.logprobs and choice.logprobs.content) or ()
    return Delta(
        text=(choice.delta and choice.delta.content) or "",
        logprobs=tuple(_read_token(token) for token in tokens),
        finish=choice.finish_reason or "",
    )


def _read_token(token: _Token) -> TokenLogprobs:
    top: dict[str, float] = {}
    for each in token.top_logprobs or ():
        before = top.get(each.token)
        top[each.token] = each.logprob if before is None else _log_sum(before, each.logprob)
    logprob = -math.inf if token.logprob is None else token.logprob
    return TokenLogprobs(token.token, logprob, top)


def _log_sum(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def is_same_model(asked: str, said: str) -> bool:
    """Whether a server means the model that was asked for.

    transformers appends `@` and the revision, OpenAI the date of an alias' version.
    """
    return re.fullmatch(re.escape(asked) + r"(@.+|-\d{4}-\d{2}-\d{2})?", said) is not None


def shown(text: str, longest: int = 80) -> str:
    """What came from outside, as it may stand in a message."""
    return repr(text if len(text) <= longest else text[: longest - 3] + "...")
