# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Pages that are one HTML file: how all are rendered, and the colours they share."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template


def page_template(package: str, name: str) -> Template:
    """A page of a package; it may include colours.css.j2, or style.css.j2, which has the colours.

    Args:
        package: full name of the one whose folder `templates` has the page.
        name: of the file there.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("vlm_perception.outputs")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
