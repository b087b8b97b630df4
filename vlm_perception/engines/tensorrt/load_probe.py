# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Loads a plan in a process of its own: `python -m vlm_perception.engines.tensorrt.load_probe`.

TensorRT trusts what it is given: a plan that it does not understand, or a driver that is missing,
can end the process that asks. A node must not end so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vlm_perception.common.process_ends import told_end
from vlm_perception.engines.base import EngineError

REFUSED = 2
LONGEST_S = 600.0
COMMAND = (sys.executable, "-m", "vlm_perception.engines.tensorrt.load_probe")


def require_loadable(path: Path, command: Sequence[str] = COMMAND) -> None:
    """Load a plan in another process.

    Args:
        path: the plan.
        command: what loads it; the path is added.

    Raises:
        EngineError: it does not load, or the process crashed.
    """
    try:
        result = subprocess.run(
            [*command, str(path)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{path} did not load in {LONGEST_S:.0f} s; build it again") from error
    if result.returncode == 0:
        return
    lines = result.stderr.strip().splitlines()
    if result.returncode == REFUSED and lines:
        raise EngineError(lines[-1])
    raise EngineError(
        f"a process that loaded {path} ended with {told_end(result.returncode, result.stderr)}: it "
        "is not a plan of this TensorRT version, or the driver is missing or too old. Build it "
        "again with `vlm-perception build BUNDLE`, or choose another engine"
    )


def main() -> None:
    """Load the plan that the command line names."""
    # It imports this module.
    from vlm_perception.engines.tensorrt.load import tensorrt_module  # noqa: PLC0415

    try:
        device = tensorrt_module("vlm_perception.engines.tensorrt.cuda").open_device()
        with device.entered():
            module = tensorrt_module("vlm_perception.engines.tensorrt.program")
            module.LoadedPlan(Path(sys.argv[1]), device)
    except EngineError as error:
        print(error, file=sys.stderr, flush=True)
        # TensorRT without a driver crashes also when the interpreter ends.
        os._exit(REFUSED)


if __name__ == "__main__":
    main()
