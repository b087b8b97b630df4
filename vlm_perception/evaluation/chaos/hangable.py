# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Run a node's module so that its engines and its results hang while a file is there.

Usage: python -m vlm_perception.evaluation.chaos.hangable FILE MODULE [ARGUMENT...]

What hangs obeys nobody, as a driver that waits for a device.
"""

from __future__ import annotations

import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLL_S = 0.01
RESULTS = ("/embedding", "/reasoning", "/scene", "/image")


def main() -> None:
    """Replace what may hang, then become the module."""
    import onnxruntime  # noqa: PLC0415
    from rclpy.publisher import Publisher  # noqa: PLC0415

    file, module, *arguments = sys.argv[1:]
    flag = Path(file)
    _hang(flag, onnxruntime.InferenceSession, "run", lambda _: True)
    _hang(flag, Publisher, "publish", lambda publisher: publisher.topic_name in RESULTS)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _hang(flag: Path, owner: Any, name: str, concerned: Callable[[Any], bool]) -> None:
    """Let a method wait while the flag is there."""
    method = getattr(owner, name)

    def hangable(self: Any, *arguments: Any, **named: Any) -> Any:
        while concerned(self) and flag.exists():
            time.sleep(POLL_S)
        return method(self, *arguments, **named)

    setattr(owner, name, hangable)


if __name__ == "__main__":
    main()
