# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Acts on `scene`: stops for hazards, and whenever the robot is blind."""

import rclpy

from vlm_perception.msg import SemanticScene

BLIND = (SemanticScene.STATUS_NO_CAMERA, SemanticScene.STATUS_NO_EMBEDDING)


def react(scene: SemanticScene) -> None:
    """Print what a robot would do."""
    reason = scene.reason if scene.status in BLIND else ", ".join(scene.hazards)
    print(f"stop: {reason}" if reason else f"go: {scene.caption}")


rclpy.init()
node = rclpy.create_node("stop_for_hazards")
node.create_subscription(SemanticScene, "scene", react, 10)
rclpy.spin(node)
