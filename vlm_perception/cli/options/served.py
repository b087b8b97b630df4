# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Options for a language model that a server runs, the same for all verbs that ask one."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from vlm_perception.cli.options.common import plain_errors

ServedOption = Annotated[
    str | None,
    typer.Option(
        help="In place of the bundle's language model: the name of one that a server runs, such as "
        "Qwen/Qwen3-VL-2B-Instruct."
    ),
]
EndpointOption = Annotated[str, typer.Option(help="Address of that OpenAI-compatible server.")]
ENDPOINT = "http://127.0.0.1:8000/v1"
KeyFileOption = Annotated[
    str,
    typer.Option(
        help="File with the key to the server, which only its owner may read (chmod 600). "
        "[default: the variable VLM_PERCEPTION_API_KEY, if it is set]",
        show_default=False,
    ),
]
RemoteOption = Annotated[
    bool,
    typer.Option(
        "--allow-remote", help="The server may be on another machine: images are sent there."
    ),
]
PlainHttpOption = Annotated[
    bool,
    typer.Option(
        "--allow-plain-http", help="Such a one may be asked without TLS, in a network you trust."
    ),
]


def reach(key_file: str, allow_remote: bool, allow_plain_http: bool) -> dict[str, str | bool]:
    """Those of the options that were given, as parameters of the language node."""
    # Nodes run in folders of their own.
    file = str(Path(key_file).expanduser().absolute()) if key_file else ""
    given: dict[str, str | bool] = {
        "key_file": file,
        "allow_remote": allow_remote,
        "allow_plain_http": allow_plain_http,
    }
    return {name: value for name, value in given.items() if value}


def served_parameters(
    model: str | None, endpoint: str, key_file: str, allow_remote: bool, allow_plain_http: bool
) -> dict[str, str | bool]:
    """The language node's parameters for a model that a server runs; none for the bundle's own.

    Raises:
        typer.BadParameter: options for a server were given, and no model of one.
        typer.Exit: the address is malformed or not allowed, or the key cannot be used.
    """
    given = reach(key_file, allow_remote, allow_plain_http)
    if model is None:
        idle = {**({} if endpoint == ENDPOINT else {"endpoint": endpoint}), **given}
        if idle:
            option = "--" + next(iter(idle)).replace("_", "-")
            raise typer.BadParameter("is for a model on a server; name it", param_hint=option)
        return {}
    parameters = {"language": "served", "model": model, "endpoint": endpoint, **given}
    module = importlib.import_module("vlm_perception.perception.language.served.settings")
    with plain_errors():
        module.ServedSettings(**parameters).checked_endpoint()
    return parameters


def served_settings(
    model: str | None, endpoint: str, key_file: str, allow_remote: bool, allow_plain_http: bool
) -> Any:
    """As `served_parameters`, for who asks the server itself; None for the bundle's own model.

    Raises:
        typer.BadParameter: options for a server were given, and no model of one.
        typer.Exit: the address is malformed or not allowed, or the key cannot be used.
    """
    parameters = served_parameters(model, endpoint, key_file, allow_remote, allow_plain_http)
    if not parameters:
        return None
    module = importlib.import_module("vlm_perception.perception.language.served.settings")
    return module.ServedSettings(**parameters)
