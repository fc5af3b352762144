# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What happens around each update: the epoch, the guard, and whether the run is to stop."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations.integration_utils import TensorBoardCallback

from ..errors import Stopped


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
        if state.global_step > 0 and trainer.misses_evaluation():
            trainer._make_up_evaluation()

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
        if args.device.type != "cuda":  # the verdict is there
            guard.wait_for_verdict()
        if guard.is_stopping:
            control.should_save, control.should_evaluate = True, False
        # with each save a line of the log, so that the mean of the next line doesn't reach back
        # across a resume; and with each evaluation, beside whose loss that of training is told
        control.should_log |= control.should_save or control.should_evaluate
        if control.should_log or control.should_evaluate or control.should_training_stop:
            guard.wait_for_verdict()

    def on_epoch_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_log = True  # the line of the epoch tells the loss
        self.on_step_end(args, state, control, **kwargs)

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
