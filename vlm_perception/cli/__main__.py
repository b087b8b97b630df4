# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m vlm_perception.cli`."""

from vlm_perception.cli import main

if __name__ == "__main__":
    main()
