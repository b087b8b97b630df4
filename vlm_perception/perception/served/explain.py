# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Failures of HTTP in the words of a user: what is wrong with the server, and what to do."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence

import httpx2

from vlm_perception.perception.served.completions import shown
from vlm_perception.perception.served.endpoint import KEY_VARIABLE, Endpoint
from vlm_perception.perception.served.errors import Fault, ServedError

LONGEST_QUOTE = 200
ECHO = 12
"""So many characters of a prompt in a server's message, and the message is not shown."""


def explain_failure(error: httpx2.HTTPError, endpoint: Endpoint, *, answering: bool) -> ServedError:
    """What a failed connection means.

    Args:
        error: of httpx2.
        endpoint: that was asked.
        answering: whether the answer had begun.
    """
    where = endpoint.url
    if isinstance(error, httpx2.SSEError | httpx2.DecodingError):
        return ServedError(
            Fault.ENDLESS, f"{where} sent an event that is too large; see the server's log"
        )
    if answering:
        return ServedError(
            Fault.CUT, f"{where} ended the connection within an answer; see the server's log"
        )
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return _explain_connecting(list(_causes(error)), where)
    if isinstance(error, httpx2.RemoteProtocolError) and "without sending" not in str(error):
        return ServedError(
            Fault.FOREIGN, f"{where} does not speak HTTP as expected; check scheme and port"
        )
    return ServedError(
        Fault.DROPPED, f"{where} ended the connection without an answer; see the server's log"
    )


def _explain_connecting(causes: Sequence[BaseException], where: str) -> ServedError:
    certificate = next((c for c in causes if isinstance(c, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        return ServedError(
            Fault.CERTIFICATE,
            f"the certificate of {where} is not trusted ({certificate.verify_message}); "
            "install its authority's certificate on this machine, or name it in SSL_CERT_FILE",
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return ServedError(
            Fault.CERTIFICATE, f"{where} does not speak TLS; use http, or give the server TLS"
        )
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return ServedError(
            Fault.NAME, f"the host of {where} is unknown; check its name, or give its address"
        )
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return ServedError(
            Fault.REFUSED, f"no server listens at {where}; start it, or check the port"
        )
    return ServedError(
        Fault.UNREACHABLE, f"{where} cannot be reached; check the network and the server's firewall"
    )


def explain_status(
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    endpoint: Endpoint,
    private: Sequence[str],
) -> ServedError:
    """What an answer other than the wanted one means.

    Args:
        status: of HTTP.
        headers: of the answer.
        content: of the answer.
        endpoint: that was asked.
        private: the texts of the request; a message that repeats of them is not shown.
    """
    where = endpoint.url
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if 300 <= status < 400:
        target = headers.get("location", "").partition("?")[0].rpartition("@")[2]
        return ServedError(
            Fault.REDIRECT,
            f"{where} redirects to {shown(target)}, which is not followed; give the final address",
        )
    if status in (401, 403):
        return _explain_key(status, endpoint)
    if kind == "text/html" and status < 500:
        return ServedError(
            Fault.FOREIGN,
            f"{where} is a web page, not an OpenAI-compatible server ({status}); check the port",
        )
    if status < 400:
        return ServedError(
            Fault.GARBLED,
            f"{where} answered with {kind or 'something'} in place of a stream of events; use a "
            "server that streams chat completions",
        )
    said = f"({status}){_quote(content, [endpoint.key, *private])}"
    return _explain_refusal(status, said, endpoint, _retry_after(headers))


def _explain_key(status: int, endpoint: Endpoint) -> ServedError:
    where = endpoint.url
    if endpoint.key:
        return ServedError(Fault.KEY, f"{where} refuses the key ({status}); give a valid one")
    return ServedError(
        Fault.KEY, f"{where} wants a key ({status}); give it in {KEY_VARIABLE} or as key_file"
    )


def _explain_refusal(
    status: int, said: str, endpoint: Endpoint, wait_s: float | None
) -> ServedError:
    where = endpoint.url
    if status == 404:
        return ServedError(
            Fault.MODEL,
            f"{where} has no model {endpoint.model}, or no chat completions {said}; set model to "
            "one that it serves, and check that the address ends in /v1",
        )
    if status == 429:
        return ServedError(
            Fault.RATE,
            f"{where} is asked too often {said}; lower rate_hz, or give the server more room",
            wait_s=wait_s,
        )
    if status in (502, 503, 504):
        return ServedError(
            Fault.UNAVAILABLE,
            f"{where} is not ready {said}; wait until its model is loaded, or see its log",
            wait_s=wait_s,
        )
    if status >= 500:
        return ServedError(Fault.SERVER, f"{where} failed {said}; see the server's log")
    return ServedError(
        Fault.REQUEST,
        f"{where} refused the request {said}; change the prompt, the size of the image or the "
        "number of tokens, or see the server's log",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """All that led to an error."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        further = (current.__cause__, current.__context__, *getattr(current, "exceptions", ()))
        waiting += [each for each in further if each is not None]


def _quote(content: bytes, private: Sequence[str]) -> str:
    """A server's own words, unless they repeat what must stay out of logs."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    for name in ("error", "detail", "message"):
        if isinstance(parsed, dict) and name in parsed:
            parsed = parsed[name]
    if not isinstance(parsed, str) or not parsed:
        return ""
    for text in private:
        if text and any(
            text[start : start + ECHO] in parsed for start in range(max(1, len(text) - ECHO + 1))
        ):
            return ""
    return f": {shown(' '.join(parsed.split()), LONGEST_QUOTE)}"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date in their place, which RFC 9110 also allows, depends on both clocks."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except (ValueError, RecursionError):
        return None
    return seconds if 0.0 <= seconds < float("inf") else None
