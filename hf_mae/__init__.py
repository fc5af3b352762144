# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Masked Autoencoders for the Hugging Face ecosystem.

Importing it registers model type "mae" with the Auto classes. Configuration, models and image
processors are there at once; trainers, data and conversion are imported when they are first used,
so that a machine that only loads a model needs neither datasets nor timm.

Example:

>>> import hf_mae
>>> model = hf_mae.MAEModel(hf_mae.MAEConfig.from_size("tiny"))
>>> model(torch.rand(1, 3, 224, 224)).last_hidden_state.shape
torch.Size([1, 197, 192])
"""

import importlib
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
)

from .models.configuration_mae import MAEConfig
from .models.image_processing_mae import MAEImageProcessor, MAEImageProcessorPil
from .models.modeling_backbone import MAEBackbone
from .models.modeling_classification import MAEForImageClassification
from .models.modeling_mae import MAEForPreTraining, MAEModel


if TYPE_CHECKING:  # the same names as below, for editors and type checkers
    from .conversion.from_others import convert
    from .conversion.to_transformers import export
    from .data.preparation import prepare_dataset
    from .data.samples import ImageSamples
    from .data.sources import load_evaluation_dataset, load_image_dataset
    from .data.streaming import ImageStream
    from .data.transforms import (
        CenterCropTransform,
        FineTuningTransform,
        LinearProbeTransform,
        MaskedEvaluationTransform,
        PretrainingTransform,
    )
    from .inference.features import extract_features
    from .inference.predictions import predict
    from .inference.reconstructions import plot_reconstructions
    from .models.loading import load_classifier, load_encoder, load_model, load_processor
    from .training.arguments import (
        FineTuningArguments,
        LinearProbeArguments,
        MAETrainingArguments,
    )
    from .training.classification import FineTuningTrainer, LinearProbeTrainer
    from .training.pretraining import MAETrainer


# public name → the module that it is imported from when it is first used
_LAZY = {
    "CenterCropTransform": ".data.transforms",
    "FineTuningArguments": ".training.arguments",
    "FineTuningTrainer": ".training.classification",
    "FineTuningTransform": ".data.transforms",
    "ImageSamples": ".data.samples",
    "ImageStream": ".data.streaming",
    "LinearProbeArguments": ".training.arguments",
    "LinearProbeTrainer": ".training.classification",
    "LinearProbeTransform": ".data.transforms",
    "MAETrainer": ".training.pretraining",
    "MAETrainingArguments": ".training.arguments",
    "MaskedEvaluationTransform": ".data.transforms",
    "PretrainingTransform": ".data.transforms",
    "convert": ".conversion.from_others",
    "export": ".conversion.to_transformers",
    "extract_features": ".inference.features",
    "load_classifier": ".models.loading",
    "load_encoder": ".models.loading",
    "load_evaluation_dataset": ".data.sources",
    "load_image_dataset": ".data.sources",
    "load_model": ".models.loading",
    "load_processor": ".models.loading",
    "plot_reconstructions": ".inference.reconstructions",
    "predict": ".inference.predictions",
    "prepare_dataset": ".data.preparation",
}

AutoConfig.register("mae", MAEConfig)
AutoModel.register(MAEConfig, MAEModel)
AutoModelForPreTraining.register(MAEConfig, MAEForPreTraining)
AutoModelForImageClassification.register(MAEConfig, MAEForImageClassification)
AutoBackbone.register(MAEConfig, MAEBackbone)
AutoImageProcessor.register(
    MAEConfig,
    image_processor_classes={"torchvision": MAEImageProcessor, "pil": MAEImageProcessorPil},
)

__version__ = "0.2.0"
__all__ = [
    "CenterCropTransform",
    "FineTuningArguments",
    "FineTuningTrainer",
    "FineTuningTransform",
    "ImageSamples",
    "ImageStream",
    "LinearProbeArguments",
    "LinearProbeTrainer",
    "LinearProbeTransform",
    "MAEBackbone",
    "MAEConfig",
    "MAEForImageClassification",
    "MAEForPreTraining",
    "MAEImageProcessor",
    "MAEImageProcessorPil",
    "MAEModel",
    "MAETrainer",
    "MAETrainingArguments",
    "MaskedEvaluationTransform",
    "PretrainingTransform",
    "convert",
    "export",
    "extract_features",
    "load_classifier",
    "load_encoder",
    "load_evaluation_dataset",
    "load_image_dataset",
    "load_model",
    "load_processor",
    "plot_reconstructions",
    "predict",
    "prepare_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name], __name__), name)
    globals()[name] = value  # the next time it is found without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
