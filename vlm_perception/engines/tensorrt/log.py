# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT's messages: to Python's log, and as exceptions."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import tensorrt as trt

from vlm_perception.engines.base import EngineError

StartedT = TypeVar("StartedT")
REMEMBERED = 8

_log = logging.getLogger(__name__)
_broken: list[Any] = []
"""What could not use the GPU and must not go: that would end the process."""

_LEVELS = {
    trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
    trt.ILogger.Severity.ERROR: logging.ERROR,
    trt.ILogger.Severity.WARNING: logging.WARNING,
    trt.ILogger.Severity.INFO: logging.DEBUG,
}


class Log(trt.ILogger):
    """Hands TensorRT's messages to Python's log."""

    def __init__(self) -> None:
        """Start without any."""
        trt.ILogger.__init__(self)
        self.errors: deque[str] = deque(maxlen=REMEMBERED)
        """The newest errors."""

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Log a message; TensorRT calls this from any of its threads."""
        level = _LEVELS.get(severity)
        if level is not None:
            _log.log(level, "TensorRT: %s", msg)
        if level == logging.ERROR:
            self.errors.append(msg)


class Recorder(trt.IErrorRecorder):
    """Collects what TensorRT reports as an error, until they are taken."""

    def __init__(self) -> None:
        """Start without any."""
        trt.IErrorRecorder.__init__(self)
        self._errors: list[tuple[trt.ErrorCodeTRT, str]] = []
        self._lock = threading.Lock()

    def report_error(self, arg0: trt.ErrorCodeTRT, arg1: str) -> bool:
        """Note an error; True: the call that met it shall end."""
        with self._lock:
            self._errors.append((arg0, arg1))
        return True

    def num_errors(self) -> int:
        """How many were noted."""
        return len(self._errors)

    def get_error_code(self, arg0: Any) -> trt.ErrorCodeTRT:
        """Code of an error."""
        return self._errors[int(arg0)][0]

    def get_error_desc(self, arg0: Any) -> str:
        """Words of an error; they name the layer where there is one."""
        return self._errors[int(arg0)][1]

    def has_overflowed(self) -> bool:
        """Never: the list grows."""
        return False

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._errors.clear()

    def take(self) -> str:
        """What was noted, in one line, and forget it; empty: nothing."""
        with self._lock:
            text = "; ".join(dict.fromkeys(words for _, words in self._errors))
            self._errors.clear()
        return text


def start(kind: Callable[[Log], StartedT], logger: Log) -> StartedT:
    """Start TensorRT's runtime or builder, the first that asks its libraries for the GPU.

    Raises:
        EngineError: they cannot use it; TensorRT would crash when it is asked for more.
    """
    reason = ""
    try:
        started = kind(logger)
    # The bindings' word for a null pointer.
    except TypeError as error:
        reason = str(error)
    else:
        # The lean runtime starts all the same. It crashes on the first plan, and when it goes.
        if not logger.errors:
            return started
        _broken.append(started)
    raise EngineError(
        f"TensorRT {trt.__version__} cannot use the GPU ({'; '.join(logger.errors) or reason}): "
        "update the driver, install the TensorRT version that matches it, or choose another engine"
    )
