# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is said of a bridge between vision tower and decoder, in recipes and in bundle.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BridgeSpec(BaseModel):
    """What leads from the tower's tokens to what the decoder reads."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    kind: Literal["mlp", "q-former", "pixel-shuffle", "average"] = "mlp"
    tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    """That an image has for the decoder; None: as many as the tower gives."""
    layers: Annotated[int, Field(ge=1, le=12)] = 2
    """Of the Q-Former."""

    @model_validator(mode="after")
    def _says_how_many(self) -> BridgeSpec:
        if self.tokens is None and self.kind != "mlp":
            raise ValueError(f"a bridge of kind {self.kind} needs `tokens`, how many it gives")
        return self

    @property
    def needs_grid(self) -> bool:
        """Whether it reads the tokens as a grid, of which none may be missing."""
        return self.kind in ("pixel-shuffle", "average")

    @property
    def reads_places(self) -> bool:
        """Whether it must know where each token is, when some are missing."""
        return self.kind == "q-former"

    @property
    def has_weights(self) -> bool:
        """Whether it has weights of its own, in place of those of LLaVA's projector."""
        return self.kind in ("q-former", "pixel-shuffle")


class StoredBridge(BridgeSpec):
    """A trained bridge, as bundle.yaml has it."""

    grid: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """Columns and rows of the tower's patches that it was trained on."""
