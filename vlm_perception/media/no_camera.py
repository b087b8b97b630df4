# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Why a webcam or a stream delivers no image: OpenCV only reports that it does not."""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import socket
import ssl
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

ANSWERED_WITHIN_S = 3.0
PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322, "rtmp": 1935}
BY_OTHER_MEANS = ("udp", "rtp", "srt")
"""Without a connection that could be refused."""

_QUERY_CAPABILITIES = 0x80685600  # VIDIOC_QUERYCAP of linux/videodev2.h
_CAPABILITIES_SIZE = 104
_DEVICE_CAPABILITIES = slice(88, 92)
_CAPTURES = 0x1 | 0x1000  # one plane or several

_GONE = "has no camera: connect it; `ls /dev/video*` lists those that exist"
_FORBIDDEN = "is not readable for you: `sudo usermod -aG video $USER`, then log in again"
_BUSY = "is in use by another program: close that program"
_NOT_OPENED = {
    errno.ENOENT: _GONE,
    errno.ENODEV: _GONE,
    errno.ENXIO: _GONE,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EBUSY: _BUSY,
}


def shown(address: str) -> str:
    """An address that may be logged: without user and password."""
    scheme, separator, rest = address.partition("://")
    user, at, host = rest.partition("@")
    return f"{scheme}{separator}{host}" if at and "/" not in user else address


def why_no_device(device: Path) -> str:
    """Why a camera's device gives no image, and what to do."""
    try:
        handle = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        why = _NOT_OPENED.get(error.errno or 0, f"cannot be opened: {error.strerror}")
        return f"{device} {why}"
    try:
        answer = fcntl.ioctl(handle, _QUERY_CAPABILITIES, bytes(_CAPABILITIES_SIZE))
    except OSError:
        return f"{device} is not a camera: `ls /dev/video*` lists those that exist"
    finally:
        os.close(handle)
    if not int.from_bytes(answer[_DEVICE_CAPABILITIES], "little") & _CAPTURES:
        return f"{device} delivers metadata and no images: try the device before it"
    return f"{device} {_BUSY}"


def why_no_stream(address: str) -> str:
    """Why a stream gives no image, and what to do."""
    name, parts = shown(address), urlsplit(address)
    if parts.scheme in BY_OTHER_MEANS:
        return f"{name} sends nothing that this OpenCV can decode: start the sender, check the port"
    try:
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        port = None
    if port is None or not parts.hostname:
        schemes = ", ".join(sorted([*PORTS, *BY_OTHER_MEANS]))
        return (
            f"{name} is not the address of a stream: write SCHEME://HOST:PORT/PATH with {schemes}"
        )
    return f"{name} {_why_not_reached(parts, parts.hostname, port)}"


def _why_not_reached(parts: SplitResult, host: str, port: int) -> str:
    try:
        return _asked(parts, host, port)
    except socket.gaierror:
        return f"cannot be resolved: there is no host {host}: check the name and the network"
    except ConnectionRefusedError:
        return f"refuses the connection: start the server on {host}, or correct the port ({port})"
    except TimeoutError:
        return (
            f"does not answer within {ANSWERED_WITHIN_S:.0f} s: check host and port ({port}), the "
            "network and its firewall"
        )
    # UnicodeError: a host with a label that is empty or too long.
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        return f"cannot be reached ({error or type(error).__name__}): check host, port and network"


def _asked(parts: SplitResult, host: str, port: int) -> str:
    """What a reachable server reports about the stream."""
    status = _status(parts, host, port)
    if status in (401, 403):
        user = "requires a user and a password, or rejects those given"
        return f"{user}: write {parts.scheme}://USER:PASSWORD@{host}/..."
    if status >= 400:
        return f"is refused by its server with status {status}: check the path"
    return (
        "answers, but sends no image that this OpenCV can decode: choose H.264 or MJPEG in the "
        "camera's settings, and check that it plays in another program"
    )


def _status(parts: SplitResult, host: str, port: int) -> int:
    """The status with which a server answers; 0 where its protocol has none."""
    if parts.scheme in ("http", "https"):
        kind = http.client.HTTPSConnection if parts.scheme == "https" else None
        connection = (kind or http.client.HTTPConnection)(host, port, timeout=ANSWERED_WITHIN_S)
        try:
            connection.request("GET", f"{parts.path or '/'}?{parts.query}".rstrip("?"))
            return connection.getresponse().status
        finally:
            connection.close()
    plain = socket.create_connection((host, port), ANSWERED_WITHIN_S)
    with (
        plain
        if parts.scheme != "rtsps"
        else ssl.create_default_context().wrap_socket(plain, server_hostname=host) as stream
    ):
        if not parts.scheme.startswith("rtsp"):
            return 0
        url = f"{parts.scheme}://{host}:{port}{parts.path}?{parts.query}".rstrip("?")
        stream.sendall(f"DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
        words = stream.recv(256).split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
