# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a run prints while it trains: a line an epoch, when it will end, and a bar."""

import datetime
import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState


STEPS_TO_ESTIMATE = 20
_FIRST_STEPS = 3  # which are slower: workers start, memory is found, kernels are chosen
_SILENCE = 600  # seconds after which a line of the log is printed amid an epoch


class ProgressCallback(TrainerCallback):
    """Prints a line an epoch, on the first process; a bar where stderr is a terminal.

    Args:
        trainer: `ImageTrainer`, whose `describe_metrics` says what an evaluation found.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self._bar: tqdm | None = None
        self._first_step = self._timed_from = self._told_step = 0
        self._metrics: dict[str, float] = {}
        self._start = self._told_at = 0.0

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._first_step = self._timed_from = self._told_step = state.global_step
        self._start = self._told_at = time.monotonic()
        if state.is_world_process_zero and not args.disable_tqdm:
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                unit="step",
                dynamic_ncols=True,
                leave=False,
                disable=not sys.stderr.isatty(),
            )

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)
        steps = state.global_step - self._first_step
        if steps == _FIRST_STEPS:
            self._start, self._timed_from = time.monotonic(), state.global_step
        if steps == STEPS_TO_ESTIMATE and state.max_steps > state.global_step:
            left = self._seconds_left(state)
            end = datetime.datetime.now() + datetime.timedelta(seconds=left)
            self._print(state, f"about {say_seconds(left)}, done {_say_time(end)}")

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._bar is not None and "loss" in (logs or {}):
            self._bar.set_postfix_str(f"loss {(logs or {})['loss']:.4g}")
        if time.monotonic() - self._told_at > _SILENCE and not control.should_evaluate:
            self._tell(state)

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._metrics = metrics or {}
        self._tell(state)

    def on_epoch_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # of an epoch without an evaluation; with one its line is printed already
        if state.global_step > self._told_step:
            self._tell(state)

    def on_train_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step > self._told_step:
            self._tell(state)
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _tell(self, state: TrainerState) -> None:
        """Prints the line of what was trained and measured since the last one."""
        epochs = state.max_steps / self.trainer.updates_per_epoch
        parts = [f"epoch {state.epoch or 0:.4g}/{epochs:.4g}"]
        loss, speed = self._since_last_line(state)
        if loss is not None:
            parts.append(f"loss {say_loss(loss)}")
        parts += self.trainer.describe_metrics(self._metrics)
        if speed is not None:
            parts.append(f"{say_speed(speed)} images/s")
        if self._timed_from < state.global_step < state.max_steps:
            parts.append(f"{say_seconds(self._seconds_left(state))} left")
        self._print(state, "  ".join(parts))
        self._told_step, self._told_at, self._metrics = state.global_step, time.monotonic(), {}

    def _since_last_line(self, state: TrainerState) -> tuple[float | None, float | None]:
        """Means of loss and images/s over the updates that were logged since the last line."""
        before, total, images, updates = self._told_step, 0.0, 0.0, 0
        for entry in state.log_history:
            if "loss" not in entry or entry["step"] <= self._told_step:
                continue
            steps = entry["step"] - before
            before = entry["step"]
            updates += steps
            total += steps * entry["loss"]
            images += steps * entry.get("images_per_second", 0.0)
        return (total / updates, images / updates) if updates else (None, None)

    def _seconds_left(self, state: TrainerState) -> float:
        """Seconds that the rest takes at the speed so far, evaluations as they come."""
        elapsed = time.monotonic() - self._start
        done = state.global_step - self._timed_from
        return elapsed / done * (state.max_steps - state.global_step)

    def _print(self, state: TrainerState, line: str) -> None:
        if state.is_world_process_zero:
            with tqdm.external_write_mode():  # above the bar
                print(line, flush=True)


def say_seconds(seconds: float) -> str:
    """Writes a time as people say it.

    Example:

    >>> say_seconds(42), say_seconds(200), say_seconds(11400), say_seconds(270000)
    ('42 s', '3 min 20 s', '3 h 10 min', '3 d 3 h')
    """
    whole = round(seconds)
    for size, unit, smaller_size, smaller_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            first, rest = divmod(whole, size)
            return f"{first} {unit} {rest // smaller_size} {smaller_unit}"
    return f"{whole} s"


def say_loss(loss: float, digits: int = 4) -> str:
    """Writes a loss, or a share of one, with so many digits behind the point; absurd ones in short.

    Example:

    >>> say_loss(0.37541), say_loss(2100475776.0)
    ('0.3754', '2.1e+09')
    """
    return f"{loss:.{digits}f}" if loss < 1e5 else f"{loss:.3g}"


def say_speed(images_per_second: float) -> str:
    """Writes images a second; below ten with the digits that tell.

    Example:

    >>> say_speed(3531.08), say_speed(0.41)
    ('3,531', '0.41')
    """
    return f"{images_per_second:,.0f}" if images_per_second >= 10 else f"{images_per_second:.2g}"


def _say_time(moment: datetime.datetime) -> str:
    is_today = moment.date() == datetime.date.today()
    return moment.strftime("%H:%M" if is_today else "%A %d %B, %H:%M")
