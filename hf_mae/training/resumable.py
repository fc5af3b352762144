# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What our Trainers save, and how they go on with it."""

import functools
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..checkpoints import (
    begin_checkpoint,
    find_flaw,
    finish_checkpoint,
    numbered_checkpoints,
    read_facts,
    rotate_checkpoints,
)
from ..data.samples import BatchShape, Samples
from ..errors import NonFiniteLossError
from ..models.image_processing_mae import MAEImageProcessor
from .arguments import ImageTrainingArguments
from .nonfinite import nonfinite_weights
from .run_facts import check_facts, collect_facts, default_facts
from .sharding import ShardingTrainer


# of an optimizer's groups, what the arguments decide
_OPTIONS = ("initial_lr", "weight_decay", "betas", "eps", "momentum")


class ResumableTrainer(ShardingTrainer):
    """transformers' Trainer whose checkpoints are whole and say what the run is made of.

    Attributes:
        changed: What differs from the run that is resumed, as `allow_changed` lets it.
    """

    # what the constructor takes; transformers' own types are wider
    args: ImageTrainingArguments
    model: Any
    train_dataset: Samples
    eval_dataset: Samples | None
    processing_class: MAEImageProcessor
    batch_shape: BatchShape
    changed: tuple[str, ...] = ()

    @functools.cached_property
    def data_facts(self) -> dict[str, Any]:
        """Names the images that are trained on and held out; of many files it takes seconds."""
        facts = {"data": self.train_dataset.describe_data(), "held_out_data": "none"}
        if self.eval_dataset is not None:
            facts["held_out_data"] = self.eval_dataset.describe_data()
        # which images are bad
        return {**facts, "max_image_pixels": getattr(self.train_dataset, "max_image_pixels", None)}

    def _facts(self) -> dict[str, Any]:
        return collect_facts(self.args, self.model.config, self.processing_class, self.data_facts)

    # going on ------------------------------------------------------------------------------------

    def check_resume(self, checkpoint: str | None) -> None:
        """Compares the run with the one that it goes on with, on process 0 for all.

        The data set takes from the checkpoint what it has to know.

        Args:
            checkpoint: Folder; None for a fresh start.

        Raises:
            ValueError: on every process, if what the run is made of differs and
                `args.allow_changed` doesn't name it; it does and there are newer checkpoints; the
                best model so far is damaged; a stream is to be resumed with other processes or
                workers; or the model is sharded otherwise.
        """
        if not checkpoint:
            return
        self.check_sharding(Path(checkpoint))
        before = read_facts(checkpoint)
        outcome: list[Any] = [(), None]  # what has changed, an error
        if self.is_world_process_zero():
            try:
                self._check_best(Path(checkpoint))
                if before is not None:
                    allowed = self.args.allow_changed or ()
                    before = {**default_facts(self.args), **before}
                    outcome[0] = check_facts(before, self._facts(), allowed)
                if outcome[0]:
                    self._check_newest(Path(checkpoint))
            except ValueError as error:
                outcome[1] = error
        broadcast_object_list(outcome)
        self.changed, error = outcome
        if error is not None:
            raise error
        self.train_dataset.load_state(Path(checkpoint), self.batch_shape)

    def steps_done(self, checkpoint: str) -> int:
        """Counts the updates that a checkpoint has behind it."""
        return TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME))).global_step

    def best_checkpoint(self, state: TrainerState, output_dir: Path) -> Path | None:
        """The best checkpoint of a run, wherever its folder lies now; None if there is none."""
        if not (self.args.load_best_model_at_end and state.best_global_step):
            return None
        return output_dir / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"

    def _check_best(self, checkpoint: Path) -> None:
        """Raises ValueError if the model that is to be loaded at the end isn't whole."""
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        best = self.best_checkpoint(state, checkpoint.parent)
        if best is None or best.name == checkpoint.name:
            return
        flaw = find_flaw(best)
        if flaw:
            raise ValueError(
                f"{best} has the best model so far, which load_best_model_at_end is to load at the "
                f"end, and can't be used: {flaw}; go on without it by --load_best_model_at_end "
                "false"
            )

    def _check_newest(self, checkpoint: Path) -> None:
        """Raises ValueError if newer checkpoints stand beside this one, of the unchanged run."""
        newest = numbered_checkpoints(checkpoint.parent)[0]
        if newest.name != checkpoint.name and checkpoint.parent.samefile(str(self.args.output_dir)):
            raise ValueError(
                f"{newest} is of the run before it is changed, and newer than {checkpoint.name}; "
                "delete it, or name another output_dir"
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # the state of a checkpoint, by the arguments of now
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer: Any = self.optimizer
        options = []
        for group in optimizer.param_groups:
            options.append({name: group[name] for name in _OPTIONS if name in group})
        super()._load_optimizer_and_scheduler(checkpoint)
        if not self._created_lr_scheduler:  # the caller's
            return
        scheduler: Any = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        scheduler.base_lrs = [own["initial_lr"] for own in options]
        shares = [share(scheduler.last_epoch) for share in scheduler.lr_lambdas]
        for group, own, share in zip(optimizer.param_groups, options, shares):
            group.update(own, lr=own["initial_lr"] * share)
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]

    # saving --------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model; as transformers' Trainer.

        Raises:
            NonFiniteLossError: on every process, if weights are not finite; then nothing is saved.
        """
        self._check_weights(together=_internal_call or self.is_fsdp_enabled)
        super().save_model(output_dir, _internal_call)

    def _check_weights(self, together: bool) -> None:
        """Raises NonFiniteLossError if weights are not finite: here, or on any process."""
        names = nonfinite_weights(self.model)
        count: Any = torch.tensor(len(names), device=self.args.device)
        if together:
            count = self.accelerator.reduce(count)
        if not int(count):
            return
        where = f"{', '.join(names[:3])} and others" if len(names) > 3 else ", ".join(names)
        raise NonFiniteLossError(
            f"after step {self.state.global_step} weights are not finite "
            f"({where or 'on another process'}); they are not saved. Go on from an older "
            "checkpoint, or start again, with a lower learning rate"
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = self._checkpoint_folder(trial)
        self.train_dataset.save_state(folder, self.batch_shape)
        if self.args.should_save:
            begin_checkpoint(folder)
        # transformers would delete older ones before this one is whole
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self._finish_checkpoint(folder)
        if self.args.should_save:
            rotate_checkpoints(folder, limit, self.state.best_model_checkpoint)

    def _checkpoint_folder(self, trial: Any) -> Path:
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        return Path(self._get_output_dir(trial), name)

    def _finish_checkpoint(self, folder: Path) -> None:
        self.accelerator.wait_for_everyone()  # each process writes some of it
        if self.args.should_save:
            finish_checkpoint(folder, self._facts())

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self._finish_checkpoint(Path(checkpoint_folder))
        super()._push_from_checkpoint(checkpoint_folder)
