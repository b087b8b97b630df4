# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What of the environment the middleware would refuse without saying what to do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vlm_perception.nodes.process.errors import StartError

LAST_DOMAIN = 232
"""The ports of a higher one would exceed the valid range."""


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a domain that is none, and a log folder that cannot be written.

    Raises:
        StartError: with the variable that is to be set.
    """
    domain = environment.get("ROS_DOMAIN_ID", "").strip()
    if domain and not _is_domain(domain):
        raise StartError(
            f"ROS_DOMAIN_ID is {domain[:40]!r} and must be a whole number from 0 to {LAST_DOMAIN}; "
            "set it to the one of your other nodes, or unset it"
        )
    try:
        folder = _log_folder(environment)
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is read-only"
    except OSError as error:
        reason = str(error)
    if reason:
        raise StartError(
            f"the log cannot be written ({reason}); set ROS_LOG_DIR to a writable folder"
        )


def _is_domain(text: str) -> bool:
    try:
        return 0 <= int(text, 10 if text.isdecimal() else 0) <= LAST_DOMAIN
    except ValueError:
        return False


def _log_folder(environment: Mapping[str, str]) -> Path:
    """The folder that rcl takes for its logs."""
    if folder := environment.get("ROS_LOG_DIR"):
        return _at_home(folder, environment)
    if folder := environment.get("ROS_HOME"):
        return _at_home(folder, environment) / "log"
    return _at_home("~/.ros/log", environment)


def _at_home(folder: str, environment: Mapping[str, str]) -> Path:
    if not folder.startswith("~"):
        return Path(folder)
    home = environment.get("HOME")
    if not home:
        raise OSError("HOME is not set")
    return Path(home + folder[1:])
