# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps transformers from saying what is of no use to the one who runs a command."""

from __future__ import annotations

import logging
from collections.abc import Callable

from transformers.utils import logging as transformers_logging

_CONFIGURATIONS = "transformers.configuration_utils"
_DEFAULTS = "Model config: "
"""How complaints of token ids begin. SigLIP's defaults, which every configuration is compared with,
are outside its own vocabulary; ids that a checkpoint uses are checked where they are read."""


def quieten() -> None:
    """Turn off progress bars, and complaints of defaults that no model uses."""
    disable_progress_bar: Callable[[], None] = transformers_logging.disable_progress_bar
    disable_progress_bar()
    logger = logging.getLogger(_CONFIGURATIONS)
    if _of_defaults not in logger.filters:
        logger.addFilter(_of_defaults)


def _of_defaults(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_DEFAULTS)
