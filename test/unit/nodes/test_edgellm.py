# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is relied upon of TensorRT Edge-LLM's server, held against its own code where it is there.

It needs the package's Python files only: its wheel, unpacked into a folder of PYTHONPATH, will do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlm_perception.nodes.launch.edgellm import DOWNLOADS, SHARE, command_line, share

config = pytest.importorskip(
    "experimental.server.config",
    reason="an API check: needs pip install 'tensorrt-edgellm[server]==0.11.0'",
    exc_type=ImportError,
)
MODEL = "Qwen/Qwen3-VL-2B-Instruct"


def parsed(*options: str) -> Any:
    return config.parse_server_config(command_line(MODEL, "its name", 8123, options)[1:])


def test_it_takes_our_command_line() -> None:
    read = parsed("--host", "0.0.0.0", "--max-kv-cache-capacity", "4096", "--enable-context-reuse")
    assert read.model.model == MODEL and read.model.context_cache_config.enabled
    api = read.api
    assert (api.host, api.port, api.served_model_name) == ("127.0.0.1", 8123, "its name")


@pytest.mark.parametrize("options", [(), ("--max-kv-cache-capacity=4096",), ("--max-kv", "77")])
def test_it_reads_the_sizes_that_we_count_with(options: tuple[str, ...]) -> None:
    model = parsed(*options).model
    assert share(options) == {
        "--max-input-len": model.max_input_len,
        "--max-kv-cache-capacity": model.max_kv_cache_capacity,
        "--max-batch-size": model.max_batch_size,
    }


def test_its_defaults_are_those_that_we_give() -> None:
    assert config.parse_server_config([MODEL]).model == parsed().model
    assert dict(SHARE) == share([])


def test_wrong_arguments_are_exit_code_2() -> None:
    with pytest.raises(SystemExit) as refused:
        parsed("--no-such-option")
    assert refused.value.code == 2


def test_it_keeps_downloads_where_we_look_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    builds = pytest.importorskip("experimental.server.runtime.engine_build")
    dependencies = pytest.importorskip("tensorrt_edgellm._native.dependencies")
    hub = pytest.importorskip("huggingface_hub")
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(dependencies, "require_tensorrt", lambda: None)
    monkeypatch.setattr(hub, "snapshot_download", lambda *given, **named: asked.append(named))
    builds.resolve_model_dir(MODEL)
    assert [Path(each["cache_dir"]) for each in asked] == [DOWNLOADS.expanduser().resolve()]
