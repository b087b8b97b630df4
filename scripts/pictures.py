# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures in docs/img of what the shipped bundle says of the road world.

overlay.png needs nothing more; report.png needs Chromium; rerun.png Chromium and
`pip install rerun-sdk playwright`. What is missing is left out with a sentence.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console

from vlm_perception.messages.rosbags import read_cdr
from vlm_perception.messages.tables import SCENE
from vlm_perception.perception.rendering.overlay import draw_scene
from vlm_perception.replay.recordings.bag import Bag
from vlm_perception.replay.recordings.source import Span
from vlm_perception.replay.run import ReplayOptions, run_replay
from vlm_perception.rosgraph.source import open_source

ROOT = Path(__file__).resolve().parent.parent
IMAGES, WORK = ROOT / "docs" / "img", ROOT / "out" / "pictures"
SECONDS = 8.0
SHOWN_FRAME = 150
REPORT_SIZE, RERUN_SIZE = (1280, 1600), (1600, 900)
COLOURS = 256
"""With more the sensor's noise makes files of a megabyte."""
RERUN_WAITS_S = 150
"""Until a software renderer has drawn what it was sent."""
SOFTWARE_GL = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader")


def main() -> None:
    console = Console()
    clip = Path(open_source(None).location)
    options = ReplayOptions(clip, out=WORK, span=Span(0.0, SECONDS), overlay=False, fresh=True)
    run_replay(options, console)
    overlay(clip, IMAGES / "overlay.png")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        console.print("no report.png and no rerun.png: Chromium is not installed")
        return
    report(chromium, IMAGES / "report.png")
    if find_spec("rerun") is None or find_spec("playwright") is None:
        console.print("no rerun.png: `pip install rerun-sdk playwright`")
        return
    rerun(chromium, IMAGES / "rerun.png")


def overlay(clip: Path, target: Path) -> None:
    """One frame of the clip with its scene."""
    video = cv2.VideoCapture(str(clip))
    video.set(cv2.CAP_PROP_POS_FRAMES, SHOWN_FRAME)
    frame = np.asarray(cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB), np.uint8)
    messages = list(Bag(WORK).messages(["/scene"]))
    message = read_cdr(messages[SHOWN_FRAME].data, SCENE.type_name)
    save(Image.fromarray(draw_scene(frame, SCENE.read(message))), target)


def report(chromium: str, target: Path) -> None:
    """The head of the report."""
    shot = WORK / target.name
    size = ",".join(map(str, REPORT_SIZE))
    arguments = ["--headless=new", "--hide-scrollbars", *SOFTWARE_GL, f"--window-size={size}"]
    page = (WORK / "report.html").as_uri()
    command = [chromium, *arguments, f"--screenshot={shot}", page]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=120)
    save(Image.open(shot), target)


def rerun(chromium: str, target: Path) -> None:
    """The page of rerun in a browser, some seconds into the drive."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    shot = WORK / target.name
    command = [sys.executable, "-m", "vlm_perception.cli", "view", str(WORK), "--web"]
    width, height = RERUN_SIZE
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as viewer:
        try:
            lines = iter(viewer.stdout or ())
            address = next(line.split()[1] for line in lines if re.match(r"open http", line))
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=[*SOFTWARE_GL, "--enable-unsafe-swiftshader"]
                )
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(address)
                page.wait_for_timeout(1000 * RERUN_WAITS_S)
                page.screenshot(path=shot, timeout=120_000)
                browser.close()
        finally:
            viewer.send_signal(signal.SIGINT)
    save(Image.open(shot), target)


def save(picture: Image.Image, target: Path) -> None:
    """Write a PNG of few colours."""
    few = picture.convert("RGB").quantize(COLOURS, kmeans=3, dither=Image.Dither.NONE)
    few.save(target, optimize=True)
    print(f"{target}  ({target.stat().st_size // 1024} kB)")


if __name__ == "__main__":
    main()
