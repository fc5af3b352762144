# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What transformers' Trainer leaves open when a model is sharded over processes (FSDP)."""

from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import register_fsdp_forward_method
from transformers import Trainer
from transformers.trainer import FSDP_MODEL_NAME


_ENCODE = "encode_images"


class ShardingTrainer(Trainer):
    """transformers' Trainer, whose sharded models encode images and are saved whole."""

    @property
    def state_dict_type(self) -> str | None:
        """How checkpoints keep a sharded model, as accelerate names it; None if it isn't sharded.

        Without accelerators there is no sharding, whatever `args.fsdp` says.
        """
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        return None if plugin is None else str(plugin.state_dict_type).rpartition(".")[2]

    @torch.no_grad()
    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Computes the features (B, D) of images (B, C, H, W)."""
        model: Any = self.model
        # methods of sharded models find whole parameters only if they are registered, once
        if _ENCODE not in vars(model):
            register_fsdp_forward_method(model, _ENCODE)
        with self.accelerator.autocast():
            return model.encode_images(pixel_values).float()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves model, configuration and processor, for `from_pretrained`; of shards gathered."""
        if self.state_dict_type not in (None, "FULL_STATE_DICT"):  # else transformers does it
            self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))
        super().save_model(output_dir, _internal_call)

    def check_sharding(self, checkpoint: Path) -> None:
        """Checks that a checkpoint keeps its model as this run would.

        Raises:
            ValueError: it doesn't.
        """
        found = None
        if (checkpoint / f"{FSDP_MODEL_NAME}.bin").is_file():
            found = "FULL_STATE_DICT"
        elif (checkpoint / f"{FSDP_MODEL_NAME}_0").is_dir():
            found = "SHARDED_STATE_DICT"
        if found != self.state_dict_type:
            now, before = (_describe(kind) for kind in (self.state_dict_type, found))
            raise ValueError(
                f"this run is {now}, and the one that is to be resumed ({checkpoint}) was "
                f"{before}; go on as before, or start another run from its weights by "
                f"--model_name_or_path {checkpoint}"
            )


def _describe(state_dict_type: str | None) -> str:
    if state_dict_type is None:
        return "not sharded"
    return f"sharded by --fsdp with state_dict_type {state_dict_type}"
