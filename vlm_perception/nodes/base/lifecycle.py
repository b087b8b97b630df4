# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the lifecycle nodes share: safe transitions, autostart, parameters and diagnostics."""

from __future__ import annotations

import threading
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from vlm_perception.common.errors import RunError, VlmPerceptionError
from vlm_perception.nodes.base.diagnostics import DiagnosticsPublisher, Meter, Report, pace
from vlm_perception.nodes.base.parameters import FIXED, Parameters, TakesWhatItHas, setting
from vlm_perception.nodes.base.publishers import WAKING
from vlm_perception.nodes.base.throttled_warnings import ThrottledWarnings
from vlm_perception.nodes.base.time_jump import TimeWatch
from vlm_perception.nodes.process.errors import DoneError, text_of
from vlm_perception.nodes.process.watchdog import Watchdog
from vlm_perception.nodes.process.worker import Worker

STOP_TIMEOUT_S, CLOSING_S = 5.0, 1.0
"""How long a transition, and the end of the process, wait for the work in hand."""


TOLD = {
    "configure": "configured",
    "activate": "activated",
    "deactivate": "deactivated",
    "clean up": "cleaned up",
    "shut down": "shut down",
    "recover": "recovered from an error, unconfigured",
}


class BusyError(RunError):
    """What is to end is still at work."""


@dataclass(frozen=True)
class NodeSettings:
    """Parameters that each lifecycle node has."""

    autostart: bool = setting(
        True,
        "Configure and activate the node when it starts. With false, a lifecycle manager or "
        "`ros2 lifecycle set` does it.",
        change=FIXED,
    )


SettingsT = TypeVar("SettingsT", bound=NodeSettings)
ItemT = TypeVar("ItemT")


class PerceptionNode(TakesWhatItHas, LifecycleNode, Generic[SettingsT]):
    """A lifecycle node whose work runs in threads of its own, so that services always answer.

    Subclasses override load, start, stop and unload. load and start may raise: the transition then
    fails, what they had begun is undone by stop and unload, and the sentence is logged and shown in
    the diagnostics. stop and unload are called in any state, also twice.
    """

    def __init__(self, name: str, settings_class: type[SettingsT], *, namespace: str = "") -> None:
        """Declare the parameters, start the diagnostics and plan the autostart.

        Args:
            name: of the node.
            settings_class: its parameters.
            namespace: a full one to use, whatever the command line sets; empty: the command line's.

        Raises:
            SettingError: A parameter was given a value that is refused.
        """
        # rclpy puts the parameter and lifecycle services into the default group; with its own,
        # mutually exclusive one they would wait for each other and for a slow transition.
        self._reentrant = ReentrantCallbackGroup()
        # The command line applies to all nodes of a process and overrides `namespace=`.
        own = ["--ros-args", "-r", f"__ns:={namespace}"] if namespace else None
        super().__init__(name, cli_args=own)
        self.parameters = Parameters(self, settings_class)
        self.warnings = ThrottledWarnings(self.get_logger())
        self.arrivals = Meter()
        self.results = Meter()
        """Seconds from the arrival of the input to the publication of the result."""
        self.ages = Meter()
        """ROS time less stamp at publication, in seconds, where both are known."""
        self.run_id = ""
        self.active = False
        self.fault = ""
        """Why the last transition failed, or what prevents the work; empty: nothing."""
        self.time_watch = TimeWatch(self, self.warnings, self.time_jumped, self.stamps_jumped)
        self._transitions = threading.RLock()
        self._closed = False
        """Whether the process ends; a transition would make entities of a destroyed node."""
        self._starting: threading.Thread | None = None
        self._put_to_rest = False
        """Whether the work was ended on purpose, so that it is no fault that none is done."""
        self.stop_timeout_s = STOP_TIMEOUT_S
        """How long to wait for what is to end."""
        self.watchdog = Watchdog(self._tell_of_hang)
        self._diagnostics = DiagnosticsPublisher(self, self._report, self.parts, self._judge)
        if self.parameters.value.autostart:
            clock = Clock(clock_type=ClockType.STEADY_TIME)  # The ROS clock may stand still.
            self._autostart_timer = self.create_timer(0.0, self._begin_autostart, clock=clock)

    @property
    def default_callback_group(self) -> ReentrantCallbackGroup:
        """The group of whatever is created without one, the node's own services included."""
        return self._reentrant

    @property
    def settings(self) -> SettingsT:
        """The parameters in force."""
        return self.parameters.value

    def load(self) -> None:
        """Configure: load what is needed and warm it up."""

    def start(self) -> None:
        """Activate: subscribe and start to work."""

    def stop(self) -> None:
        """Deactivate: stop to work, keep what was loaded."""

    def unload(self) -> None:
        """Clean up: let go of what was loaded."""

    def time_jumped(self) -> None:
        """Forget what was remembered of the time before: time has jumped back."""

    def stamps_jumped(self, topic: str) -> None:
        """Forget what was remembered of the time before: the stamps on a topic have gone back."""
        self.time_jumped()

    def figures(self) -> Mapping[str, str]:
        """Return what the diagnostics show besides what all nodes show."""
        return {}

    def parts(self) -> Mapping[str, Report]:
        """Return the diagnostics of the node's parts, each under its name."""
        return {}

    def dropped(self) -> int:
        """Return how many inputs were replaced by newer ones before they were worked on."""
        return 0

    def blocking_issue(self) -> str:
        """Return what keeps an active node from working, with a remedy; empty: nothing."""
        return ""

    def concern(self) -> str:
        """Return what an active node cannot do as well as it should, with a remedy; empty: nothing.

        It is looked for ten times a second.
        """
        return ""

    def summary(self) -> str:
        """Return the summary of a node that is active and healthy."""
        return "active"

    def worker(
        self,
        name: str,
        handle: Callable[[ItemT], bool | None],
        interval: Callable[[], float] = lambda: 0.0,
        niceness: int | None = None,
    ) -> Worker[ItemT]:
        """Start a worker of this node; the arguments are those of Worker."""
        worker = Worker(
            name,
            handle,
            self.worker_failed,
            self.watchdog,
            interval=interval,
            niceness=niceness,
        )
        worker.start()
        return worker

    def worker_failed(self, error: BaseException) -> None:
        """Count and log what went wrong with one input."""
        if not self.context.ok():
            return  # The process is ending, and what is published now fails.
        if isinstance(error, VlmPerceptionError):
            self.warnings.add("refused", text_of(error))
        else:
            self.internal_error(error, "input skipped")

    def internal_error(self, error: BaseException, outcome: str) -> str:
        """Count and log a fault of the program with its trace; returns a sentence for others."""
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.warnings.add("internal_errors", f"internal error, {outcome}: {trace}", severe=True)
        return (
            f"internal error ({type(error).__name__}: {text_of(error)}): report it with the trace "
            f"in the log of {self.get_name()}"
        )

    def age_of(self, stamp_ns: int) -> float | None:
        """Return ROS time less stamp in seconds; None when one of them is not known."""
        now_ns = self.get_clock().now().nanoseconds
        return (now_ns - stamp_ns) / 1e9 if now_ns and stamp_ns else None

    def end(self, worker: Worker[Any]) -> None:
        """Stop a worker.

        Raises:
            BusyError: it did not end in time; nothing may be started beside it.
        """
        # What is worked on while the process ends cannot be published any more.
        if not worker.stop(self.stop_timeout_s, at_once=not self.context.ok()):
            raise BusyError("the last input is still being processed; try again")

    def close(self) -> None:
        """Stop and unload, for the end of the process, which takes along what does not end soon."""
        self.stop_timeout_s = CLOSING_S
        self._closed = True
        if self._transitions.acquire(timeout=CLOSING_S):
            try:
                self.active = False
                self.stop()
                self.unload()
            except BusyError as error:
                self.get_logger().debug(f"shut down while {error}")
            finally:
                self._transitions.release()
            self.time_watch.close()
            if self._starting is not None:
                self._starting.join(CLOSING_S)
        self._diagnostics.close()
        self.watchdog.close()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load; on failure the node stays unconfigured."""

        def configure() -> None:
            self.run_id = uuid.uuid4().hex
            # From now on: what load() has read must not be replaced unnoticed.
            self.parameters.configured = True
            self.load()

        def undo() -> None:
            self.unload()
            self.parameters.configured = False

        return self._transition(
            "configure", state, before=configure, entities=super().on_configure, undo=undo
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start; on failure the node stays inactive."""

        def activate() -> None:
            for meter in (self.arrivals, self.results, self.ages):
                meter.restart()
            self.start()
            self.active = True

        return self._transition(
            "activate", state, entities=super().on_activate, after=activate, undo=self.stop
        )

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop to work."""
        return self._transition(
            "deactivate", state, before=self._halt, entities=super().on_deactivate
        )

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unload."""
        return self._transition(
            "clean up", state, before=self._release, entities=super().on_cleanup
        )

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and unload."""
        return self._transition(
            "shut down", state, before=self._release, entities=super().on_shutdown
        )

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured."""
        return self._transition("recover", state, before=self._release, entities=super().on_error)

    def _halt(self) -> None:
        self.active = False
        self.stop()

    def _release(self) -> None:
        self._halt()
        self.unload()
        self.parameters.configured = False

    def _transition(
        self,
        name: str,
        state: LifecycleState,
        *,
        entities: Callable[[LifecycleState], TransitionCallbackReturn],
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
        undo: Callable[[], None] = lambda: None,
    ) -> TransitionCallbackReturn:
        """Run a transition; rclpy would swallow an exception without a line in the log."""
        with self._transitions:
            if self._closed:
                return TransitionCallbackReturn.FAILURE
            try:
                before()
                result = entities(state)
                after()
            except Exception as error:
                self.fault = f"cannot {name}: {text_of(error)}"
                if isinstance(error, DoneError):
                    self.get_logger().info(str(error))
                    self.context.try_shutdown()
                # After a signal nothing can be published any more: that is no fault.
                if self.context.ok():
                    if not isinstance(error, VlmPerceptionError):
                        self.internal_error(error, f"cannot {name}")
                    self.get_logger().error(self.fault)
                undo()
                return TransitionCallbackReturn.FAILURE
        self.fault = ""
        if name != "configure":
            self._put_to_rest = name != "activate"
        if self.context.ok():
            results = f", {self.results.total} results so far" if name == "deactivate" else ""
            self.get_logger().info(f"{TOLD[name]} (run {self.run_id[:8] or 'none'}){results}")
        return result

    def _begin_autostart(self) -> None:
        self._autostart_timer.cancel()
        # To load takes seconds, in which the executor has parameters to answer.
        self._starting = threading.Thread(target=self._autostart, name="autostart", daemon=True)
        self._starting.start()

    def _autostart(self) -> None:
        # A lifecycle manager may have been faster.
        if self._state_machine.current_state[1] != "unconfigured":
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()
            if self.context.ok():
                self._diagnostics.publish()  # Who waits for the node learns it now.
        elif self.context.ok():
            self.get_logger().error(
                f"{self.get_name()} waits unconfigured; when the cause is fixed, run `ros2 "
                f"lifecycle set {self.get_fully_qualified_name()} configure` and `activate`"
            )

    def _tell_of_hang(self, sentence: str, new: bool) -> None:
        """Tell at once, whatever the executor does, that work hangs, still hangs or has ended."""
        if not self.context.ok():
            return
        if new:
            self.warnings.add("hangs", sentence, severe=True)
        elif sentence:
            self.warnings.say("hangs", sentence, severe=True)
        self._diagnostics.publish()

    def _judge(self) -> tuple[bytes, str]:
        """Level and message of the diagnostics; the log has the same words while they hold."""
        hang, active = self.watchdog.hang, self.active
        blocked = self.blocking_issue() if active and not hang else ""
        issue = self.warnings.lasting("issue", blocked)
        well = active and not hang and not issue
        concern = self.warnings.lasting("concern", self.concern() if well else "")
        if hang or self.fault or issue:
            return DiagnosticStatus.ERROR, hang or self.fault or issue
        if not active:
            return self._why_not_active()
        doubts = [each for each in (concern, self.warnings.recent(within_s=10.0)) if each]
        if doubts:
            return DiagnosticStatus.WARN, "; ".join(dict.fromkeys(doubts))
        return DiagnosticStatus.OK, self.summary()

    def _why_not_active(self) -> tuple[bytes, str]:
        state, name = self._state_machine.current_state[1], self.get_fully_qualified_name()
        if self._put_to_rest:
            return DiagnosticStatus.OK, f"{state}, as requested" + (
                f"; to activate it, run {WAKING[state].format(name=name)}"
                if state in WAKING
                else ""
            )
        if state in WAKING and not self.parameters.value.autostart:
            return DiagnosticStatus.WARN, f"waits {state}: run {WAKING[state].format(name=name)}"
        return DiagnosticStatus.WARN, f"not active yet: {state}"

    def _report(self) -> Report:
        level, message = self._judge()
        counts = self.warnings.counts()
        values = {
            **pace(self.arrivals, self.results, self.ages),
            "dropped": str(self.dropped()),
            "bad_messages": str(sum(counts.values())),
            **{f"bad_messages.{kind}": str(count) for kind, count in sorted(counts.items())},
            "troubles": str(self.warnings.troubles),
            "time_jumps": str(self.time_watch.jumps),
            "state": self._state_machine.current_state[1],
            "run_id": self.run_id,
            **self.figures(),
        }
        return Report(level, message, values)
