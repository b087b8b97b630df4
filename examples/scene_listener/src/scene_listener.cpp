// Copyright 2026 The vlm_perception authors
// SPDX-License-Identifier: Apache-2.0

// Acts on `scene` from C++: stops for a hazard, and whenever the scene may not be trusted.

#include <chrono>
#include <memory>
#include <string>

#include "rclcpp/rclcpp.hpp"
#include "vlm_perception/msg/semantic_scene.hpp"

using SemanticScene = vlm_perception::msg::SemanticScene;
using namespace std::chrono_literals;

class SceneListener : public rclcpp::Node
{
public:
  SceneListener()
  : Node("scene_listener")
  {
    // scene_fusion offers a lease of 0.4 s: who asks for it learns that soon when no scene comes.
    rclcpp::QoS qos(10);
    qos.reliable().liveliness(rclcpp::LivelinessPolicy::Automatic).liveliness_lease_duration(400ms);
    rclcpp::SubscriptionOptions options;
    options.event_callbacks.liveliness_callback =
      [this](rclcpp::QOSLivelinessChangedInfo & event) {
        if (event.alive_count == 0) {
          decide("no scene comes");
        }
      };
    subscription_ = create_subscription<SemanticScene>(
      "scene", qos, [this](SemanticScene::ConstSharedPtr scene) {on_scene(*scene);}, options);
  }

private:
  void on_scene(const SemanticScene & scene)
  {
    // An age is negative while it is unknown.
    const bool fresh = scene.embedding_age >= 0.0 && scene.embedding_age < 0.5;
    if (!scene.hazards.empty()) {
      decide("hazard: " + scene.hazards.front());
    } else if (scene.status == SemanticScene::STATUS_NO_CAMERA ||
      scene.status == SemanticScene::STATUS_NO_EMBEDDING || !fresh)
    {
      decide("blind: " + scene.reason);
    } else {
      // STATUS_STALE_REASONING: tags and hazards are fresh, answers and caption are not.
      decide("");
    }
  }

  void decide(const std::string & why)
  {
    if (why == last_) {
      return;
    }
    last_ = why;
    if (why.empty()) {
      RCLCPP_INFO(get_logger(), "go");
    } else {
      RCLCPP_WARN(get_logger(), "stop: %s", why.c_str());
    }
  }

  rclcpp::Subscription<SemanticScene>::SharedPtr subscription_;
  std::string last_{"nothing seen yet"};
};

int main(int argc, char ** argv)
{
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<SceneListener>());
  rclcpp::shutdown();
  return 0;
}
