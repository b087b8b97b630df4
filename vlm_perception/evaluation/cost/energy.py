# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a machine says about the energy that it takes: Intel's and AMD's RAPL, Jetson's INA3221."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

SYSTEM = Path("/sys")
PERIOD_S = 0.05
INA = "ina3221"
INA_TOTALS = ("VDD_IN", "POM_5V_IN")
"""Rails of modules that everything else is fed from."""
INA_CHANNELS = (1, 2, 3)


class Meter(Protocol):
    """Something that tells energy; a context manager around what is measured."""

    source: str
    """What is measured, idle power included."""
    joules: float
    """Taken within the context."""

    def __enter__(self) -> Meter:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""


def find_meter(system: Path = SYSTEM) -> Meter | None:
    """The meter of this machine; None: it has none, or does not let this user read it."""
    # Not all that is above others: psys is the whole board, with the packages in it.
    zones = sorted((system / "class/powercap").glob("*-rapl:*"))
    packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
    if packages and all(_number(zone / "energy_uj") is not None for zone in packages):
        return RaplMeter(packages)
    rails = _rails(system)
    return RailMeter(rails) if rails else None


class RaplMeter:
    """Counters of processor packages, which are read before and after."""

    source = "processor packages (RAPL)"

    def __init__(self, packages: list[Path]) -> None:
        """Take folders of powercap."""
        self._packages = packages
        self.joules = 0.0

    def __enter__(self) -> RaplMeter:
        """Read the counters."""
        self._before = [_number(zone / "energy_uj") or 0 for zone in self._packages]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Read them again; one that has overflowed began anew once."""
        for zone, before in zip(self._packages, self._before, strict=True):
            taken = (_number(zone / "energy_uj") or 0) - before
            if taken < 0:
                taken += _number(zone / "max_energy_range_uj") or 0
            self.joules += taken / 1e6


class RailMeter:
    """Voltages times currents of supply rails, summed up by a thread that reads them."""

    def __init__(
        self,
        rails: dict[str, tuple[Path, Path]],
        clock: Callable[[], float] = time.monotonic,
        period_s: float = PERIOD_S,
    ) -> None:
        """Take the files of millivolts and milliamperes, by the rails' names."""
        self._rails, self._clock, self._period_s = rails, clock, period_s
        self.source = f"supply rails {', '.join(rails)} (INA3221)"
        self.joules = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> RailMeter:
        """Begin to read."""
        self._since, self._power = self._clock(), self._watts()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Read once more."""
        self._over.set()
        self._thread.join()
        self._add()

    def _watch(self) -> None:
        while not self._over.wait(self._period_s):
            self._add()

    def _add(self) -> None:
        """The energy since the last reading, of the mean of both."""
        now, power = self._clock(), self._watts()
        self.joules += (now - self._since) * (power + self._power) / 2
        self._since, self._power = now, power

    def _watts(self) -> float:
        return sum(
            (_number(volts) or 0) * (_number(amperes) or 0) / 1e6
            for volts, amperes in self._rails.values()
        )


def _rails(system: Path) -> dict[str, tuple[Path, Path]]:
    """Files of each rail, of one that feeds the others alone if there is one."""
    found = {}
    for chip in sorted((system / "class/hwmon").glob("hwmon*")):
        if _text(chip / "name") != INA:
            continue
        for channel in INA_CHANNELS:
            label = _text(chip / f"in{channel}_label")
            files = chip / f"in{channel}_input", chip / f"curr{channel}_input"
            if label and all(_number(file) is not None for file in files):
                found[label] = files
    total = {name: files for name, files in found.items() if name in INA_TOTALS}
    return total or found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    """None: there is no such file, or this user may not read it."""
    text = _text(file)
    return int(text) if text.removeprefix("-").isdecimal() else None
