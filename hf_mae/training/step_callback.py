# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What happens around each update: the epoch, the guard, and whether the run is to stop."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations.integration_utils import TensorBoardCallback

from ..errors import Stopped
from .arguments import ImageTrainingArguments


class StepCallback(TrainerCallback):
    """Tells the sampler its epoch, and the guard of each update before the optimizer makes it.

    A run that was asked to stop saves a checkpoint at the end of an update, and ends by `Stopped`
    on all processes.

    Args:
        trainer: `ImageTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer = self.trainer
        trainer.nonfinite.skipped = trainer.skipped_before(state)
        state.compute_steps(args, state.max_steps)  # a checkpoint brings its own intervals
        if trainer.is_resumed and self._misses_evaluation(args, state):
            metrics = trainer._evaluate(None, None)
            trainer._determine_best_metric(metrics, None)

    def _misses_evaluation(self, args: ImageTrainingArguments, state: TrainerState) -> bool:
        """Whether the run was stopped when it was about to evaluate."""
        step, is_due = state.global_step, False
        if args.eval_strategy == "epoch":
            is_due = step % self.trainer.updates_per_epoch == 0 and args.eval_delay <= state.epoch
        elif args.eval_strategy == "steps":
            is_due = step % state.eval_steps == 0 and args.eval_delay <= step
        done = [entry["step"] for entry in state.log_history if "eval_loss" in entry]
        return is_due and step not in done

    def on_epoch_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # from the count of updates, for accelerate's set_epoch doesn't reach a sampler below two
        # wrappers (a resumed run on several processes), and state.epoch is a fraction
        self.trainer.epoch_sampler.epoch = state.global_step // self.trainer.updates_per_epoch

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        guard, step = self.trainer.nonfinite, state.global_step + 1
        asked = self.trainer.stop.is_asked
        guard.before_update(step, kwargs["model"], self.trainer.optimizer, asked)

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        guard = self.trainer.nonfinite
        if guard.is_stopping:
            control.should_save, control.should_evaluate = True, False
        # with each save a line of the log, so that the mean of the next line doesn't reach back
        # across a resume
        control.should_log |= control.should_save
        if control.should_log or control.should_evaluate or control.should_training_stop:
            guard.wait_for_verdict()

    on_epoch_end = on_step_end

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.trainer.nonfinite.is_stopping:
            return
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.close()
        stop, said = self.trainer.stop, ""
        if self.trainer.is_world_process_zero():
            step, steps = state.global_step, state.max_steps
            said = (
                f"stopped {stop.reason} after step {step:,} of {steps:,}; checkpoint-{step} is in "
                f"{args.output_dir}. Go on by the same command with --resume_from_checkpoint last"
            )
        raise Stopped(said, stop.signal)

    def on_train_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.nonfinite.wait_for_verdict()
