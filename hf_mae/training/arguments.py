# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The arguments of pre-training, fine-tuning and linear probing, with the paper's values."""

import contextlib
import datetime
import os
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.distributed as dist
from transformers import TrainingArguments
from transformers.utils.import_utils import is_torch_bf16_gpu_available

from ..data.nvimagecodec import device_decoder
from ..data.resolution import parse_resolution_schedule
from .argument_checks import check_choices, check_limits, check_packages
from .optimization import scaled_learning_rate, warmup_epochs


_SAVE = ("no", "steps", "epoch", "best")
_BALANCES = ("none", "balanced")
_BASE_LEARNING_RATE = (
    "Peak learning rate for each 256 images of a batch. The peak is base * total batch / 256."
)
_MOST_WORKERS = 16  # of a device, by default


def default_workers() -> int:
    """Says how many processes decode ahead for each device, where the user doesn't."""
    if not torch.accelerator.is_available():
        return 0
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))  # those that this process may use
    else:
        cores = os.cpu_count() or 1
    return min(_MOST_WORKERS, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


@dataclass
class ImageTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments as `ImageTrainer` takes them.

    Without a `learning_rate` it is scaled from `base_learning_rate` by the total batch size.

    Raises:
        ValueError: a value is impossible, or would change what doesn't apply here.
    """

    # of the run: 40 epochs of 800 in pre-training, 5 of 100 in fine-tuning (Tables 8 and 9)
    warmup_share: ClassVar[float] = 0.05
    # what is read where samples are made, so that a hyperparameter search can't change it
    of_samples: ClassVar[tuple[str, ...]] = ()

    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "Images a device and forward pass."}
    )
    per_device_eval_batch_size: int = field(
        default=64, metadata={"help": "Images a device and forward pass."}
    )
    base_learning_rate: float = field(
        default=1e-3,
        metadata={"help": _BASE_LEARNING_RATE},
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate, instead of base_learning_rate."}
    )
    min_learning_rate: float = field(default=0.0, metadata={"help": "Where the cosine ends."})
    warmup_epochs: None | str | float = field(
        default="auto",
        metadata={
            "help": "Linear warm-up, in epochs or as 5%% of the run. With auto it is the paper's "
            "share: 5%% in pre-training and fine-tuning, 11%% in the linear probe."
        },
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of the matrices."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 for none."})
    nonfinite: str = field(
        default="raise",
        metadata={
            "choices": ["raise", "skip"],
            "help": "What to do about a loss or gradient that is not finite. Stop before the "
            "weights are touched, or drop the update and count it.",
        },
    )
    max_skipped: int = field(
        default=10,
        metadata={"help": "Updates dropped in a row at which --nonfinite skip stops."},
    )
    allow_changed: list[str] | None = field(
        default=None,
        metadata={
            "help": "What may differ from the run that is resumed, by name. As learning_rate data. "
            "Processes, workers and accumulation at the same total batch size, saving and logging "
            "may without it."
        },
    )
    dataloader_num_workers: int | None = field(
        default=None,
        metadata={"help": "Workers of a device (default: the cores with a GPU, else 0)."},
    )
    ddp_timeout: int = field(
        default=600,
        metadata={"help": "Seconds to wait for another process before the run ends."},
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 autocast (default: where the GPU has it)."}
    )
    eval_strategy: str = field(
        default="epoch",
        metadata={"choices": ["no", "steps", "epoch"], "help": "When to evaluate."},
    )
    save_strategy: str = field(
        default="epoch", metadata={"choices": list(_SAVE), "help": "When to save."}
    )
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints to keep; 0 for all."}
    )
    logging_steps: float = field(
        default=20, metadata={"help": "Updates between two lines of the log."}
    )
    report_to: None | str | list[str] = field(
        default="tensorboard", metadata={"help": "Where to log."}
    )
    # `nonfinite` checks the loss; this filter would hide it, and wait for the device every step
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide losses that are not finite."}
    )
    # our data sets hand over just what the model takes
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Drop columns the model doesn't take."}
    )
    # every parameter takes part in every step
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Passed to DDP."}
    )

    def __post_init__(self) -> None:
        if self.bf16 is None:
            wants_bf16 = not (self.use_cpu or self.fp16)
            self.bf16 = wants_bf16 and is_torch_bf16_gpu_available()  # pyright: ignore[reportIncompatibleVariableOverride]
        if isinstance(self.warmup_epochs, str):  # as of a flag
            with contextlib.suppress(ValueError):
                self.warmup_epochs = float(self.warmup_epochs)
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = default_workers()
        check_limits(self)
        check_choices(self)
        if self.fp16 and not (self.bf16 or torch.accelerator.is_available()):
            raise ValueError(
                "fp16 needs a GPU: on a CPU nothing would be computed in it; leave it out, or take "
                "bf16"
            )
        # pinning is for copies to an accelerator; without one torch warns about it at every epoch
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        explicit_rate = self.learning_rate
        self.learning_rate = explicit_rate or 0.0  # TrainingArguments wants a number
        self._connect()
        try:
            super().__post_init__()
        except (ImportError, OSError, TypeError) as error:  # deepspeed's, accelerator_config's
            raise ValueError(f"the arguments can't be used: {error}") from error
        check_packages(self)
        if explicit_rate is None:
            self.learning_rate = self.scaled_learning_rate  # pyright: ignore[reportIncompatibleVariableOverride]
        self.check()

    def check(self) -> None:
        """Checks what a hyperparameter search may change.

        Raises:
            ValueError: a value is impossible.
        """
        check_limits(self)
        self.warmup_in(1.0)  # raises what is wrong with it
        peak = self.learning_rate or 0.0
        if not 0 <= self.min_learning_rate <= peak:
            raise ValueError(
                f"min_learning_rate is {self.min_learning_rate}; it must be between 0 and the "
                f"peak, {peak}"
            )

    def warmup_in(self, num_epochs: float) -> float:
        """Says how many epochs of warm-up a run of so many has, from `warmup_epochs`.

        Raises:
            ValueError: it is neither a number of epochs, nor a share, nor auto.
        """
        return warmup_epochs(self.warmup_epochs, self.warmup_share, num_epochs)

    def _connect(self) -> None:
        """Connects processes on CPUs, to which transformers doesn't pass `ddp_timeout` on."""
        processes = int(os.environ.get("WORLD_SIZE", 1))
        if self.use_cpu and processes > 1 and not dist.is_initialized():
            patience = datetime.timedelta(seconds=self.ddp_timeout)
            dist.init_process_group(self.ddp_backend or "gloo", timeout=patience)

    @property
    def total_batch_size(self) -> int:
        """Counts the images of an update: over devices, processes and accumulation steps."""
        return self.train_batch_size * self.world_size * self.gradient_accumulation_steps

    @property
    def scaled_learning_rate(self) -> float:
        """The peak that follows from `base_learning_rate` and the total batch size."""
        return scaled_learning_rate(self.base_learning_rate, self.total_batch_size)


@dataclass
class MAETrainingArguments(ImageTrainingArguments):
    """The paper's pre-training (MAE paper, Appendix A.1, Table 8)."""

    of_samples: ClassVar[tuple[str, ...]] = ("crops_per_image", "decode_device", "knn_images")

    num_train_epochs: float = field(default=800, metadata={"help": "Epochs."})
    base_learning_rate: float = field(
        default=1.5e-4,
        metadata={"help": _BASE_LEARNING_RATE},
    )
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW."})
    crops_per_image: int = field(
        default=1,
        metadata={
            "help": "Samples that are made of an image when it is decoded. Each has its own crop "
            "and mask. Epochs count samples: with R crops, each takes an Rth of the images, and "
            "R epochs take all."
        },
    )
    resolution_schedule: str | None = field(
        default=None,
        metadata={
            "help": "Smaller images first, as 0:128,0.6:160,0.85:224. This trains at 128 pixels "
            "from the start, at 160 from 60 %% of the run and at 224 from 85 %%, each from the "
            "next whole epoch. The last must be the model's image_size."
        },
    )
    decode_device: str = field(
        default="cpu",
        metadata={
            "choices": ["cpu", "cuda"],
            "help": "What decodes and crops JPEG files in training. On cuda it is the GPU that "
            "trains, for machines with too few cores for it; its pixels differ from those of the "
            "cpu by a few of 255. Other files, and all in evaluation, are decoded by the cpu.",
        },
    )
    knn_images: int = field(
        default=0,
        metadata={
            "help": "With labels: training images for the k-NN accuracy. It is measured at each "
            "evaluation (k=20), and tells what the features are worth; 0 for none."
        },
    )

    def check(self) -> None:
        super().check()
        _ = self.resolutions  # raises what is wrong with it
        if self.crops_per_image < 1 or self.per_device_train_batch_size % self.crops_per_image:
            raise ValueError(
                f"crops_per_image is {self.crops_per_image}; it must be at least 1 and divide "
                f"per_device_train_batch_size, which is {self.per_device_train_batch_size}"
            )
        self._check_decode_device()

    def _check_decode_device(self) -> None:
        if self.decode_device not in ("cpu", "cuda"):
            raise ValueError(f"decode_device is {self.decode_device!r}; it must be cpu or cuda")
        if self.decode_device == "cpu":
            return
        if self.crops_per_image > 1:
            raise ValueError(
                f"decode_device is cuda and crops_per_image {self.crops_per_image}, which is for "
                "images that the cpu decodes once; give one of the two"
            )
        if getattr(self.accelerator_config, "dispatch_batches", None):
            raise ValueError(
                "decode_device is cuda and accelerator_config has dispatch_batches, which hands "
                "over tensors alone; give one of the two"
            )
        if self.device.type != "cuda":
            raise ValueError(
                f"decode_device is cuda, and the run is on {self.device.type}; give "
                "--decode_device cpu"
            )
        device_decoder(self.device)

    @property
    def resolutions(self) -> dict[float, int]:
        """Share of the run → pixels of a side, from `resolution_schedule`; empty without one.

        Raises:
            ValueError: it can't be read, doesn't start at 0 or doesn't go up.
        """
        return parse_resolution_schedule(self.resolution_schedule)


@dataclass
class ClassifierArguments(ImageTrainingArguments):
    """What fine-tuning and the linear probe share: what is done about classes of unequal size."""

    # what follows from the labels of the training images, before a hyperparameter search
    of_samples: ClassVar[tuple[str, ...]] = ("class_weights", "class_sampling")

    class_weights: str = field(
        default="none",
        metadata={
            "choices": list(_BALANCES),
            "help": "Of the loss: by inverse class frequency, if balanced. So n images, K "
            "classes and n_c images of a class make n / (K * n_c). Of several labels an image each "
            "is balanced by itself, having it against not having it. Evaluation is never weighted.",
        },
    )
    class_sampling: str = field(
        default="none",
        metadata={
            "choices": list(_BALANCES),
            "help": "Drawing of images: every class alike, if balanced. Then those of small "
            "classes come again and again, else each once an epoch. For one class an image.",
        },
    )

    def check(self) -> None:
        super().check()
        for name in ("class_weights", "class_sampling"):
            if getattr(self, name) not in _BALANCES:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(_BALANCES)}"
                )
        if self.class_weights == self.class_sampling == "balanced":
            raise ValueError(
                "class_weights and class_sampling are both balanced, which would correct twice for "
                "the same; take one"
            )


@dataclass
class FineTuningArguments(ClassifierArguments):
    """The paper's fine-tuning (MAE paper, Table 9), with the authors' values for ViT-Base."""

    of_samples: ClassVar[tuple[str, ...]] = (
        *ClassifierArguments.of_samples,
        "auto_augment",
        "random_erasing",
    )

    num_train_epochs: float = field(default=100, metadata={"help": "Epochs."})
    base_learning_rate: float = field(
        default=5e-4,
        metadata={"help": _BASE_LEARNING_RATE},
    )
    min_learning_rate: float = field(default=1e-6, metadata={"help": "Where the cosine ends."})
    layer_decay: float = field(
        default=0.65,
        metadata={"help": "Learning rate of a layer over that of the one above. In (0, 1]."},
    )
    auto_augment: str = field(
        default="rand-m9-mstd0.5-inc1",
        metadata={"help": "RandAugment policy of timm, or none."},
    )
    random_erasing: float = field(
        default=0.25, metadata={"help": "Probability that a box is replaced by noise."}
    )
    mixup: float = field(default=0.8, metadata={"help": "Alpha of mixup; 0 for none."})
    cutmix: float = field(
        default=1.0,
        metadata={"help": "Alpha of CutMix; 0 for none. With mixup, each half of the time."},
    )
    label_smoothing_factor: float = field(
        default=0.1, metadata={"help": "Share of a label spread over all classes."}
    )

    def check(self) -> None:
        super().check()
        if self.per_device_train_batch_size % 2 and (self.mixup or self.cutmix):
            raise ValueError(
                f"per_device_train_batch_size is {self.per_device_train_batch_size}; mixup and "
                "cutmix mix pairs: it must be even, or --mixup 0 --cutmix 0"
            )


@dataclass
class LinearProbeArguments(ClassifierArguments):
    """The paper's linear probe (MAE paper, Appendix A.1, Table 10): LARS without weight decay."""

    warmup_share: ClassVar[float] = 10 / 90  # epochs (Table 10)
    of_samples: ClassVar[tuple[str, ...]] = (*ClassifierArguments.of_samples, "cache_features")

    per_device_train_batch_size: int = field(
        default=512, metadata={"help": "Images a device and forward pass."}
    )
    num_train_epochs: float = field(default=90, metadata={"help": "Epochs."})
    base_learning_rate: float | None = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None,
        metadata={
            "help": f"{_BASE_LEARNING_RATE} Without it 0.1 and, with cache_features, what does "
            "best on a fifth of the training features."
        },
    )
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of the matrix."})
    cache_features: bool = field(
        default=False,
        metadata={
            "help": "Encode each image once, and train the head on that. Of the center crop: "
            "minutes instead of hours, and another number than the paper's crops and flips give."
        },
    )
    save_strategy: str = field(
        default="no", metadata={"choices": list(_SAVE), "help": "When to save."}
    )
    # whether the learning rate is chosen by trying
    chooses_rate: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        is_given = (self.base_learning_rate, self.learning_rate) != (None, None)
        self.chooses_rate = self.cache_features and not is_given
        if self.base_learning_rate is None:
            self.base_learning_rate = 0.1
        super().__post_init__()
