# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which language model is asked, and how, where it is not the bundle's own."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_perception.perception.served.endpoint import Endpoint

OF_BUNDLE, SERVED = "bundle", "served"
BY_MODEL = "auto"


@dataclass(frozen=True)
class ServedSettings:
    """The language node's parameters for a model that a server runs."""

    language: str = OF_BUNDLE
    endpoint: str = "http://127.0.0.1:8000/v1"
    model: str = ""
    allow_remote: bool = False
    allow_plain_http: bool = False
    key_file: str = ""
    caption_prompt: str = "Describe in one sentence what the camera sees, the most important first."
    served_image_size: int = 768
    """Longer side in pixels of the images that are sent."""
    served_jpeg_quality: int = 90
    served_deadline: float = 10.0
    """The most seconds for an analysis, or for an answer that has no limit of its own."""
    frames: int = 1
    """Images in a request: of the frame, and of those before it that were analysed."""
    slots: int = 1
    """Requests at once."""
    locate_format: str = BY_MODEL
    """How the model writes boxes: one of the known formats, or what its name says."""

    @property
    def is_served(self) -> bool:
        """Whether a server runs the language model."""
        return self.language == SERVED

    def checked_endpoint(self) -> Endpoint:
        """Where the model is.

        Raises:
            EndpointError: the address is malformed or not allowed, or the key cannot be used.
        """
        return Endpoint.parse(
            self.endpoint,
            self.model,
            key_file=self.key_file,
            allow_remote=self.allow_remote,
            allow_plain_http=self.allow_plain_http,
        )
