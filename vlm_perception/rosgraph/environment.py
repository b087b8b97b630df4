# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The environment in which the demo's processes find only each other."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vlm_perception.common.errors import RunError
from vlm_perception.common.share import share_folder
from vlm_perception.nodes.process.environment import check_environment

DOMAINS = range(1, 101)
"""Domains whose ports are below Linux's range of ephemeral ports; 0 is the common default."""
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
DISCOVERY_VARIABLES = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY")


class GraphEnvironmentError(RunError):
    """The machine lacks something that the demo needs; the message says what to do."""


def require_ros() -> None:
    """Check that ROS and the package's own messages can be imported, and that nodes can start.

    Raises:
        GraphEnvironmentError: One of them is missing.
        StartError: No node can start in this environment.
    """
    try:
        import rclpy  # noqa: F401, PLC0415
    except ImportError as error:
        raise GraphEnvironmentError(
            f"ROS 2 cannot be imported ({error}): run `make setup` and use "
            ".venv/bin/vlm-perception, or source a ROS 2 installation"
        ) from error
    try:
        import vlm_perception.msg  # noqa: F401, PLC0415
    except ImportError as error:
        raise GraphEnvironmentError(
            f"the package's messages are not built ({error}): run `make setup`, or `colcon build`"
            " in a ROS 2 workspace"
        ) from error
    check_environment()


@contextmanager
def own_graph() -> Iterator[None]:
    """Give this process and its children a ROS graph of their own for as long as it is entered.

    What the user has set is left alone: a domain, a discovery range, a DDS profile.

    Raises:
        GraphEnvironmentError: The DDS profile is not installed, or no domain is free.
    """
    with _domain(os.environ) as domain:
        os.environ.update(_defaults(os.environ, domain))
        yield


def use_dds_profile() -> None:
    """Let this process use the package's Fast DDS profile, unless the user has set one.

    Raises:
        GraphEnvironmentError: The profile is not installed.
    """
    os.environ.update(_profile(os.environ))


def _profile(environment: Mapping[str, str]) -> dict[str, str]:
    if any(name in environment for name in PROFILE_VARIABLES):
        return {}
    # Fast DDS 3 (Kilted) renamed it, and warns of the older name.
    older = environment.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    return {PROFILE_VARIABLES[1 if older else 0]: str(dds_profile())}


def _defaults(environment: Mapping[str, str], domain: str) -> dict[str, str]:
    values = {"ROS_DOMAIN_ID": domain, "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}
    values.update(_profile(environment))
    if not any(name in environment for name in DISCOVERY_VARIABLES):
        # Humble knows only the second; the others warn when they see it.
        humble = environment.get("ROS_DISTRO") == "humble"
        values["ROS_LOCALHOST_ONLY" if humble else "ROS_AUTOMATIC_DISCOVERY_RANGE"] = (
            "1" if humble else "LOCALHOST"
        )
    return values


def dds_profile() -> Path:
    """Find the Fast DDS profile of the package.

    Raises:
        GraphEnvironmentError: It is not installed.
    """
    profile = share_folder() / "config" / "fastdds.xml"
    if not profile.is_file():
        raise GraphEnvironmentError(f"{profile} is missing: run `make setup` again")
    return profile


@contextmanager
def _domain(environment: Mapping[str, str]) -> Iterator[str]:
    """The user's domain, or a free one that no other demo takes meanwhile."""
    if environment.get("ROS_DOMAIN_ID"):
        yield environment["ROS_DOMAIN_ID"]
        return
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
            try:
                # A name that is no file: it goes with the process, even if that is killed.
                claim.bind(f"\0vlm_perception-domain-{domain}")
            except OSError:
                continue
            if _is_silent(domain):
                yield str(domain)
                return
    raise GraphEnvironmentError("no ROS domain is free: set ROS_DOMAIN_ID to the one to use")


def _is_silent(domain: int) -> bool:
    """Whether no participant on this machine listens in the domain (RTPS 2.2, 9.6.1.1)."""
    first_unicast_port = 7400 + 250 * domain + 10
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("", first_unicast_port))
    except OSError:
        return False
    return True
