# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Embeds labels in a process of its own, which takes the text tower along when it ends.

Python's lock is kept while a large tokenizer is read, and by many versions of ONNX Runtime while a
graph is loaded (https://github.com/microsoft/onnxruntime/issues/27063): a thread that loads would
stop all others, and an encoder would miss its images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.parent_death import follow_parent
from vlm_perception.common.process_ends import told_end
from vlm_perception.perception.vision.text_tower import Prompts, TextTower, VocabularyError

REFUSED = 2
LONGEST_S = 600.0
NICENESS = 5
"""It gives way to the process that waits for it, which works on."""
COMMAND = (sys.executable, "-m", "vlm_perception.perception.vision.text_process")


def embed_apart(
    bundle: ModelBundle, prompts: Prompts, command: Sequence[str] = COMMAND
) -> NDArray[np.float32]:
    """Load a bundle's text tower in another process and embed labels there.

    Args:
        bundle: the model.
        prompts: of each label.
        command: what embeds them.

    Returns:
        [labels, D], as `TextTower.embed` gives it.

    Raises:
        VocabularyError: a label cannot be embedded, the text tower does not load, or the process
            ended early.
    """
    request = [str(bundle.path), bundle.digest, dict(bundle.states), dict(prompts)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise VocabularyError(
            f"the text model of {bundle.path} did not embed {len(prompts)} labels in "
            f"{LONGEST_S:.0f} s; see what else uses this machine's cores and memory"
        ) from error
    except OSError as error:
        raise VocabularyError(
            f"no process can be started for the text model ({error}); see what else uses this "
            "machine's memory"
        ) from error
    if done.returncode == 0:
        rows = np.frombuffer(done.stdout, np.float32)
        return rows.reshape(len(prompts), bundle.manifest.vision.embedding_width)
    if done.returncode == REFUSED:
        raise VocabularyError(done.stdout.decode("utf-8", "replace"))
    said = done.stderr.decode("utf-8", "replace")
    raise VocabularyError(
        f"the process with the text model of {bundle.path} ended with "
        f"{told_end(done.returncode, said)}; SIGKILL mostly means that memory is full"
    )


def main() -> None:
    """Embed what standard input names and write the rows to standard output."""
    # Nobody waits for what a process that was left behind finds.
    follow_parent(os.getppid())
    os.nice(NICENESS)
    path, digest, states, prompts = json.load(sys.stdin.buffer)
    try:
        known = {name: tuple(state) for name, state in states.items()}
        bundle = ModelBundle.reopen(Path(path), digest, known)
        rows = TextTower.load(bundle).embed(prompts)
    except VlmPerceptionError as error:
        sys.stdout.buffer.write(str(error).encode("utf-8", "replace"))
        sys.exit(REFUSED)
    sys.stdout.buffer.write(rows.tobytes())


if __name__ == "__main__":
    main()
