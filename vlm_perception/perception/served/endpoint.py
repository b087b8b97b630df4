# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Where a served model is, and the key to it."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.ordinary_files import open_ordinary

KEY_VARIABLE = "VLM_PERCEPTION_API_KEY"
LONGEST_KEY = 4096
_EXAMPLE = "http://127.0.0.1:8000/v1"


class EndpointError(VlmPerceptionError):
    """An endpoint, or the key to it, cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Endpoint:
    """A model on an OpenAI-compatible server; `parse` makes one that has been checked."""

    url: str
    """As `http://127.0.0.1:8000/v1`: without a slash at its end, and without credentials."""
    model: str
    """The model's name on the server."""
    key: str = field(default="", repr=False)
    """What is sent as the bearer token; empty for none."""

    @classmethod
    def parse(
        cls,
        url: str,
        model: str,
        *,
        key_file: str = "",
        key_variable: str = KEY_VARIABLE,
        allow_remote: bool = False,
        allow_plain_http: bool = False,
    ) -> Endpoint:
        """Check an address and read the key to it.

        Args:
            url: of the server's interface; without a path, `/v1` is taken.
            model: the model's name on the server.
            key_file: a file that holds the key and that only its owner may read; empty for none.
            key_variable: the environment variable that holds the key when there is no file.
            allow_remote: whether images may leave this machine.
            allow_plain_http: whether they may do so without TLS.

        Raises:
            EndpointError: the address is malformed or not allowed, or the key cannot be used.
        """
        if not model or not model.isprintable():
            raise EndpointError("the served model has no name; set model to its name on the server")
        checked = cls(_checked_url(url), model)
        if checked.is_remote and not allow_remote:
            raise EndpointError(
                f"{checked.url} is not on this machine, and images would be sent to it; if that is "
                "intended, allow it with allow_remote:=true (of a command: --allow-remote) "
                "or, in a recipe, `allow_remote: true`"
            )
        if checked.is_remote and checked.url.startswith("http:") and not allow_plain_http:
            raise EndpointError(
                f"{checked.url} is not on this machine, and images and key would be sent "
                "unencrypted; use https, or set allow_plain_http:=true (of a command: "
                "--allow-plain-http) or, in a recipe, `allow_plain_http: true` for a network that "
                "you trust"
            )
        key = (
            _read_key(key_file)
            if key_file
            else _checked_key(os.environ.get(key_variable, ""), f"the variable {key_variable}")
        )
        return cls(checked.url, model, key)

    @property
    def is_remote(self) -> bool:
        """Whether the server may be on another machine: any name but localhost counts as such."""
        host = urlsplit(self.url).hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host != "localhost" and not host.endswith(".localhost")
        return not is_loopback(host)


def is_loopback(address: str) -> bool:
    """Whether an IP address is one of this machine alone.

    Raises:
        ValueError: it is no IP address.
    """
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def _checked_url(url: str) -> str:
    """The address in its plainest form; only what every parser reads alike is taken."""
    if "@" in url:
        # Not quoted: what is before the @ is secret.
        raise EndpointError(
            "the endpoint's address holds a user name or password; remove it, and give the key "
            f"in {KEY_VARIABLE} or in a file"
        )
    if "?" in url or "#" in url:
        # Not quoted: keys are given so, too.
        raise EndpointError(
            f"the endpoint's address has something after ? or #; give it without, as {_EXAMPLE}"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise EndpointError(f"endpoint {url!r} is malformed; give one as {_EXAMPLE}") from None
    if parts.scheme not in ("http", "https") or not _is_host(host) or port == 0:
        raise EndpointError(f"endpoint {url!r} is no http or https address; give one as {_EXAMPLE}")
    path = parts.path.rstrip("/") or "/v1"
    if not re.fullmatch(r"[\w./~-]+", path, re.ASCII) or ".." in path.split("/"):
        raise EndpointError(f"endpoint {url!r} has a malformed path; give it as {_EXAMPLE}")
    if path.endswith(("/completions", "/chat", "/models")):
        raise EndpointError(
            f"endpoint {url!r} names one function; give it up to /v1, as {_EXAMPLE}"
        )
    if host in ("0.0.0.0", "::"):
        raise EndpointError(f"endpoint {url!r} is an address to listen on; give 127.0.0.1 instead")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}{path}"


def _is_host(host: str) -> bool:
    if re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9])?", host):
        return True
    try:
        return ipaddress.ip_address(host).version == 6 and "%" not in host
    except ValueError:
        return False


def _read_key(name: str) -> str:
    """The key in a file that nobody else may read."""
    try:
        with open_ordinary(Path(name).expanduser()) as file:
            status = os.fstat(file.fileno())
            content = file.read(LONGEST_KEY + 2)
    except OSError as error:
        raise EndpointError(f"key_file {name} cannot be read: {error.strerror or error}") from None
    if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
        raise EndpointError(
            f"key_file {name} can be read or changed by other users; "
            f"make it your own and run: chmod 600 {name}"
        )
    key = _checked_key(content.decode("latin-1").strip(), f"key_file {name}")
    if not key:
        raise EndpointError(f"key_file {name} is empty; write the key into it, or give no file")
    return key


def _checked_key(key: str, where: str) -> str:
    """Refuse what cannot stand in a header; the message must not hold the key."""
    if len(key) > LONGEST_KEY or not re.fullmatch(r"[!-~]*", key):
        raise EndpointError(
            f"{where} holds no key: one is a single line of at most {LONGEST_KEY} ASCII characters "
            "without spaces"
        )
    return key
