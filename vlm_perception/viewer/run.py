# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception view`: a running graph or a bag, into rerun's window, its web page or a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import rerun as rr
from rich.console import Console
from rich.progress import Progress

from vlm_perception.common.interrupt import Interrupt
from vlm_perception.messages.definitions import reader
from vlm_perception.messages.tables import LOCATIONS, REASONING, SCENE
from vlm_perception.outputs.console import say
from vlm_perception.outputs.file import result_file
from vlm_perception.replay.recordings.bag import Bag
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.telling import tell_losses, tell_notes
from vlm_perception.rosgraph.environment import require_ros, use_dds_profile
from vlm_perception.rosgraph.observer import Observer
from vlm_perception.rosgraph.topics import Topic
from vlm_perception.viewer.entities import (
    COMPRESSED_IMAGE,
    RAW_IMAGE,
    SHOWN,
    Entities,
)
from vlm_perception.viewer.process import Viewer

POLL_S = 0.1
SILENCE_S = 5.0
"""Of a graph; then the user gets a note that nothing arrives."""


@dataclass(frozen=True)
class ViewOptions:
    """What `vlm-perception view` is asked for."""

    bag: Path | None = None
    """None: the running graph."""
    save: Path | None = None
    """The file to write; None: a viewer is started."""
    web: bool = False
    """Whether that is the page in a browser."""
    web_port: int = 9090
    namespace: str = ""
    image: str = "image"
    """Topic of the raw images; the compressed one is below it."""
    transport: str = "compressed"


def run_view(options: ViewOptions, console: Console) -> int:
    """Show what there is until the user ends it or closes the window, or leave it in a file.

    Returns:
        The exit code, 0.

    Raises:
        VlmPerceptionError: the bag cannot be used.
        ViewerError: the viewer does not start.
        GraphEnvironmentError: ROS or the built messages are missing.
    """
    bag = Bag(options.bag) if options.bag is not None else None
    tell_notes(bag.notes if bag else (), console)
    if bag is None:
        require_ros()
        use_dds_profile()
    with Interrupt() as interrupt, ExitStack() as stack:
        recording, viewer = rr.RecordingStream("vlm_perception"), None
        if options.save is not None:
            recording.save(stack.enter_context(result_file(options.save, "view")))
        else:
            viewer = stack.enter_context(Viewer(options.web_port if options.web else None))
            recording.connect_grpc(viewer.address)
            if viewer.page:
                say(console, f"open {viewer.page}")
        entities = Entities(recording)

        def ended() -> bool:
            return bool(interrupt) or (viewer is not None and viewer.closed())

        if bag is not None:
            shown = _show_bag(bag, options, entities, console, ended)
        else:
            shown = _show_graph(options, entities, console, ended)
        recording.flush()
        if options.save is not None:
            recording.disconnect()
            say(console, f"{options.save}  ({shown} messages): `rerun {options.save}` shows it")
        elif bag is not None:
            say(console, f"{shown} messages are shown; Ctrl-C ends it")
            while not ended():
                interrupt.sleep(POLL_S)
    return interrupt.exit_code()


def _show_bag(
    bag: Bag,
    options: ViewOptions,
    entities: Entities,
    console: Console,
    ended: Callable[[], bool],
) -> int:
    prefix = options.namespace.strip("/")
    topics = {
        topic.name: topic
        for topic in bag.topics
        if topic.type_name in SHOWN and topic.name.strip("/").startswith(prefix)
    }
    if not any(topic.type_name == SCENE.type_name for topic in topics.values()):
        raise ReplayError(
            f"{bag.path} contains no scenes{f' below {prefix}' if prefix else ''}: `vlm-perception "
            "replay` makes a bag that does"
        )
    readers = {name: reader(*topic.type) for name, topic in topics.items()}
    shown = read = 0
    with Progress(console=console, transient=True) as progress:
        total = sum(topic.count for topic in topics.values())
        for message in progress.track(bag.messages(topics), total=total, description="reading"):
            kind, read_message = topics[message.topic].type_name, readers[message.topic]
            shown += entities.feed(kind, message.time_ns, message.data, read_message)
            read += 1
            if ended():
                break
    if shown < read:
        bag.losses.append(f"{read - shown} messages are damaged")
    tell_losses(bag.losses, console)
    return shown


def _show_graph(
    options: ViewOptions, entities: Entities, console: Console, ended: Callable[[], bool]
) -> int:
    arrived: SimpleQueue[tuple[Topic, int, bytes]] = SimpleQueue()
    topics = _topics(options)
    with Observer(topics, lambda *message: arrived.put(message)) as observer:
        # Nothing is followed unless somebody asks for it.
        expected = [topic for topic in topics if topic.type_name != LOCATIONS.type_name]
        shown, heard_s = 0, dict.fromkeys(expected, time.monotonic())
        while not ended():
            observer.check()
            now_s = time.monotonic()
            for silent in [each for each in heard_s if now_s - heard_s[each] > SILENCE_S]:
                say(console, f"nothing arrives on {silent.name}; {_remedy(silent)}")
                heard_s[silent] = float("inf")
            try:
                topic, time_ns, data = arrived.get(timeout=POLL_S)
            except Empty:
                continue
            shown += entities.feed(topic.type_name, time_ns, data, reader(topic.type_name))
            if topic in heard_s:
                heard_s[topic] = time.monotonic()
    return shown


def _remedy(topic: Topic) -> str:
    if topic.type_name in (RAW_IMAGE, COMPRESSED_IMAGE):
        return "give the camera's topic with --image; --transport raw for one without compression"
    return "is ROS_DOMAIN_ID the graph's, --namespace the camera's?"


def _topics(options: ViewOptions) -> tuple[Topic, ...]:
    prefix = f"/{options.namespace.strip('/')}/" if options.namespace.strip("/") else ""
    raw = options.transport == "raw"
    name = options.image if options.image.startswith("/") else f"{prefix}{options.image}"
    image = Topic(
        name if raw else f"{name}/compressed",
        RAW_IMAGE if raw else COMPRESSED_IMAGE,
        reliable=False,
    )
    return (
        image,
        Topic(f"{prefix}reasoning", REASONING.type_name),
        Topic(f"{prefix}scene", SCENE.type_name),
        Topic(f"{prefix}locations", LOCATIONS.type_name),
    )
