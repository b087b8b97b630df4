# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Runs nodes as a process: executor, signals, log, exit code."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import cv2
import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.logging import LoggingSeverity, set_logger_level
from rclpy.signals import SignalHandlerOptions

from vlm_perception.common.fastdds_shared_memory import remove_leftovers
from vlm_perception.nodes.process.environment import check_environment
from vlm_perception.nodes.process.errors import EndedError, StartError
from vlm_perception.nodes.process.executor import ServiceThreadsExecutor
from vlm_perception.nodes.process.niceness import session_as_before

FAILED, BAD_INPUT = 1, 2
CLOSED_WITHIN_S = 4.0
"""A launch file sends a second signal after five seconds, and kills after ten."""
END_LOOKED_FOR_EVERY_S = 0.2
ROS_ARGUMENTS = (
    "arguments after --ros-args: --params-file FILE (it must exist), -p NAME:=VALUE, -r FROM:=TO"
)


class RosLogHandler(logging.Handler):
    """Hands the records of Python's logging to the node's logger."""

    def __init__(self, logger: Any) -> None:
        """Log to this logger."""
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        text = self.format(record)
        # rclpy ties a severity to the line that logs it: one line for each.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def run(*creators: Callable[[], Any]) -> NoReturn:
    """Create nodes, spin them until a signal or until one shuts the context down, and exit.

    The exit code is 0 after a signal, 2 when a node cannot do its work at all, else the nodes'
    exit_code.

    Args:
        creators: Each makes a node, or yields several; a node has a method close() and may have
            an exit_code.
    """
    code = _run(creators)
    rclpy.try_shutdown()
    # Fast DDS leaves 34 MB of shared memory unless its objects are destroyed in order.
    gc.collect()
    rclpy.get_default_context().destroy()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is closed. The interpreter's own end takes a second more on a busy machine.
    os._exit(code)


def _run(creators: Sequence[Callable[[], Any]]) -> int:
    # A crash in the middleware or in an engine logs the call.
    faulthandler.enable()
    # rclpy's own handlers end the context while others still log, which then fails aloud.
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    # A signal while rclpy makes a node, which then fails to, is no reason to warn.
    warnings.filterwarnings("ignore", "Failed to fini", RuntimeWarning)
    # OpenCV's pool spins between an image's resizing and the next: a quarter of a core in vain.
    cv2.setNumThreads(1)
    # Of a node that was killed, whose place this one may take.
    remove_leftovers()
    try:
        check_environment()
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except StartError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return BAD_INPUT
    # What init raises for wrong arguments after --ros-args are private subclasses of RuntimeError.
    except RuntimeError as error:
        kind = type(error).__name__
        print(f"cannot start: {kind}: {error}; correct the {ROS_ARGUMENTS}", file=sys.stderr)
        return BAD_INPUT
    executor = ServiceThreadsExecutor()  # Before a signal can end the context that it needs.
    threading.Thread(target=_end_by_signal, args=(woken,), name="signals", daemon=True).start()
    threading.Thread(target=_watch_the_end, name="watch the end", daemon=True).start()
    nodes: list[Any] = []
    try:
        for node in _made(creators):
            nodes.append(node)
            executor.add_node(node)
        logger = nodes[0].get_logger()
        logging.getLogger("vlm_perception").addHandler(RosLogHandler(logger))
        _spin(executor, logger)
    except StartError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return BAD_INPUT
    except EndedError:
        return 0
    except Exception:
        # Nodes cannot be made any more when a signal has come.
        if rclpy.ok():
            raise
        return 0
    finally:
        faulthandler.dump_traceback_later(CLOSED_WITHIN_S, exit=True)
        for node in nodes:
            node.close()
        executor.shutdown(timeout_sec=0.2)
        for node in nodes:
            node.destroy_node()
    return max(int(getattr(node, "exit_code", 0)) for node in nodes)


def end_with_stacks(sentence: str) -> NoReturn:
    """End a process that hangs at once, with this sentence and the stacks of all threads."""
    print(f"the process exits with code {FAILED}: {sentence}", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(all_threads=True)
    os._exit(FAILED)


def _end_by_signal(woken: socket.socket) -> None:
    """Wait for a signal, then end the context; nothing can be logged to ROS from then on."""
    woken.recv(1)
    session_as_before()
    set_logger_level("", LoggingSeverity.FATAL)
    rclpy.try_shutdown()


def _watch_the_end() -> None:
    """After a signal: a hanging callback is not waited for, and its stack is logged."""
    context = rclpy.get_default_context()
    while context.ok():
        time.sleep(END_LOOKED_FOR_EVERY_S)
    faulthandler.dump_traceback_later(CLOSED_WITHIN_S, exit=True)


def _made(creators: Sequence[Callable[[], Any]]) -> Iterator[Any]:
    for create in creators:
        try:
            made = create()
            if isinstance(made, Iterator):
                yield from made
            else:
                yield made
        # Of a parameter that ROS itself declares, as use_sim_time.
        except ParameterException as error:
            raise StartError(f"{error}; correct the parameter") from error


def _spin(executor: Executor, logger: Any) -> None:
    while rclpy.ok():
        try:
            executor.spin()
        except (KeyboardInterrupt, ExternalShutdownException):
            return
        except Exception:
            # For one, an impossible lifecycle transition raises here on Humble and Jazzy.
            if not rclpy.ok():
                return
            logger.error(f"a callback failed, the node continues: {traceback.format_exc()}")
            time.sleep(0.01)
