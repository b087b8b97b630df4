# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Shared memory is full: what runs goes on, and what is started then works, too.

It is tried in a small /dev/shm that this process and its children have for themselves, so that no
other process's is filled: `attempt` starts this module in a mount namespace (unshare(1)).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from vlm_perception.common.fastdds_shared_memory import SHARED_MEMORY, remove_leftovers
from vlm_perception.common.process_ends import told_end
from vlm_perception.evaluation.chaos.testbed.finding import KEPT_SHARE, LOAD_S, SILENCE_S, Finding
from vlm_perception.evaluation.chaos.testbed.outcome import overcome
from vlm_perception.evaluation.chaos.testbed.stage import FUSION, REASONER, ChaosError, Stage
from vlm_perception.rosgraph.environment import own_graph

SIZE = "600m"
NAMESPACE = (
    *("unshare", "--map-root-user", "--mount", "sh", "-c"),
    f'mount -t tmpfs -o size={SIZE} none {SHARED_MEMORY} && exec "$@"',
    "sh",
)
BLOCK = bytes(2**20)


def attempt(stage: Stage) -> Finding:
    """Try it on a graph of its own.

    Raises:
        ChaosError: this system gives no mount namespace, as in most containers.
    """
    folder = stage.folder / "full memory"
    folder.mkdir()
    command = [*NAMESPACE, sys.executable, "-m", __name__, stage.bundle, str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        ended = told_end(done.returncode, done.stderr)
        raise ChaosError(f"with a small {SHARED_MEMORY}, which needs unshare: {ended}")
    return Finding(**json.loads(done.stdout))


def main() -> None:
    """Bring up a graph, fill its shared memory, and start a killed node again meanwhile."""
    bundle, folder = sys.argv[1:]
    with own_graph(), Stage(bundle, Path(folder)) as stage:
        finding = _filled(stage)
    print(json.dumps(asdict(finding)))


def _filled(stage: Stage) -> Finding:
    filler = SHARED_MEMORY / "filler"
    since = stage.kill(REASONER)
    remove_leftovers()
    _fill(filler)
    active = stage.participant.active_since(REASONER, stage.respawn(REASONER), LOAD_S)
    time.sleep(SILENCE_S)
    end = time.monotonic()
    lost, of = stage.lost(since, end)
    finding = overcome(
        stage,
        "/dev/shm is full when a node starts",
        since,
        active or end,
        FUSION,
        seen=f"language_reasoner {'works' if active else 'does not start'}; {lost} of {of} lost",
        lost=lost,
        ok=active is not None and lost <= (1 - KEPT_SHARE) * of,
    )
    filler.unlink()
    return finding


def _fill(file: Path) -> None:
    """Write until there is no room left."""
    with file.open("wb", buffering=0) as stream:
        while True:
            try:
                stream.write(BLOCK)
            except OSError:
                return


if __name__ == "__main__":
    main()
