# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Masked Autoencoders for the Hugging Face ecosystem. Importing it registers model type "mae" with
the Auto classes."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
)

from .models.configuration_mae import MAEConfig
from .models.image_processing_mae import MAEImageProcessor, MAEImageProcessorPil
from .models.modeling_classification import MAEForImageClassification
from .models.modeling_mae import MAEForPreTraining, MAEModel


AutoConfig.register("mae", MAEConfig)
AutoModel.register(MAEConfig, MAEModel)
AutoModelForPreTraining.register(MAEConfig, MAEForPreTraining)
AutoModelForImageClassification.register(MAEConfig, MAEForImageClassification)
AutoImageProcessor.register(
    MAEConfig,
    image_processor_classes={"torchvision": MAEImageProcessor, "pil": MAEImageProcessorPil},
)

__version__ = "0.1.0"
__all__ = [
    "MAEConfig",
    "MAEForImageClassification",
    "MAEForPreTraining",
    "MAEImageProcessor",
    "MAEImageProcessorPil",
    "MAEModel",
]
