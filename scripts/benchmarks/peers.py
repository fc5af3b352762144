# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Other libraries' Masked Autoencoders and classifiers of the same size, to measure beside ours.

Each builder takes our configuration and returns a model and how it is run: (model, pixel_values) →
the loss of a pre-training step, or the logits of a classifier.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    PreTrainedConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from hf_mae.models.configuration_mae import MAEConfig
from hf_mae.models.functional import sincos_position_table
from hf_mae.models.modeling_classification import MAEForImageClassification
from hf_mae.models.modeling_mae import MAEForPreTraining


Runner = Callable[[Any, Tensor], Tensor]
Peer = tuple[nn.Module, Runner]


def _loss(model: Any, pixel_values: Tensor) -> Tensor:
    return model(pixel_values).loss


def _logits(model: Any, pixel_values: Tensor) -> Tensor:
    return model(pixel_values).logits


def ours(config: MAEConfig) -> Peer:
    """Builds ours."""
    return MAEForPreTraining(config), _loss


def transformers_mae(config: MAEConfig) -> Peer:
    """Builds transformers' own; its position tables, which it leaves at zero, are set."""
    model = ViTMAEForPreTraining(_as(ViTMAEConfig, config))
    _set_positions(
        config, model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed
    )
    return model, _loss


@torch.no_grad()
def _set_positions(config: MAEConfig, *tables: Tensor) -> None:
    for table in tables:
        table.copy_(sincos_position_table(config.grid_size, table.shape[-1]))


def mmpretrain_mae(config: MAEConfig) -> Peer:
    """Builds mmpretrain's, as its configuration files have it."""
    from mmpretrain.models import MAE  # pyright: ignore[reportMissingImports]  # of `make peers`

    size, patch = config.image_hw[0], config.patch_hw[0]
    backbone = {
        "type": "MAEViT",
        "arch": {
            "embed_dims": config.hidden_size,
            "num_layers": config.num_hidden_layers,
            "num_heads": config.num_attention_heads,
            "feedforward_channels": config.intermediate_size,
        },
        "img_size": size,
        "patch_size": patch,
        "mask_ratio": config.mask_ratio,
    }
    neck = {
        "type": "MAEPretrainDecoder",
        "patch_size": patch,
        "num_patches": config.num_patches,
        "embed_dim": config.hidden_size,
        "decoder_embed_dim": config.decoder_hidden_size,
        "decoder_depth": config.decoder_num_hidden_layers,
        "decoder_num_heads": config.decoder_num_attention_heads,
        "mlp_ratio": config.decoder_intermediate_size / config.decoder_hidden_size,
    }
    head = {
        "type": "MAEPretrainHead",
        "norm_pix": config.norm_pix_loss,
        "patch_size": patch,
        "loss": {"type": "PixelReconstructionLoss", "criterion": "L2"},
    }
    preprocessor = {"type": "BaseDataPreprocessor", "_scope_": "mmengine"}
    model = MAE(backbone=backbone, neck=neck, head=head, data_preprocessor=preprocessor)
    _set_positions(config, model.backbone.pos_embed, model.neck.decoder_pos_embed)
    return model, lambda model, pixel_values: model.loss(pixel_values, None)["loss"]


def lightly_mae(config: MAEConfig) -> Peer:
    """Builds one of lightly's modules, put together as its documentation shows."""
    from lightly.models import utils  # pyright: ignore[reportMissingImports]  # of `make peers`
    from lightly.models.modules import (  # pyright: ignore[reportMissingImports]
        MAEDecoderTIMM,
        MaskedVisionTransformerTIMM,
    )

    patch = config.patch_hw[0]
    backbone = MaskedVisionTransformerTIMM(vit=_timm_vit(config, num_classes=0))
    backbone.mask_token = None  # the encoder sees none
    decoder = MAEDecoderTIMM(
        num_patches=config.num_patches,
        patch_size=patch,
        in_chans=config.num_channels,
        embed_dim=config.hidden_size,
        decoder_embed_dim=config.decoder_hidden_size,
        decoder_depth=config.decoder_num_hidden_layers,
        decoder_num_heads=config.decoder_num_attention_heads,
        mlp_ratio=config.decoder_intermediate_size / config.decoder_hidden_size,
    )

    def loss(model: Any, pixel_values: Tensor) -> Tensor:
        backbone, decoder = model
        size = (len(pixel_values), 1 + config.num_patches)
        kept, masked = utils.random_token_mask(
            size, mask_ratio=config.mask_ratio, device=pixel_values.device
        )
        encoded = decoder.embed(backbone.encode(images=pixel_values, idx_keep=kept))
        tokens = utils.repeat_token(decoder.mask_token, size).to(encoded.dtype)
        decoded = decoder.decode(utils.set_at_index(tokens, kept, encoded))
        pred = decoder.predict(utils.get_at_index(decoded, masked))  # (B, M, p * p * C)
        target = utils.get_at_index(utils.patchify(pixel_values, patch), masked - 1)
        if config.norm_pix_loss:
            target = utils.normalize_mean_var(target)
        return F.mse_loss(pred, target)

    return nn.ModuleList([backbone, decoder]), loss


def stable_pretraining_mae(config: MAEConfig) -> Peer:
    """Builds stable-pretraining's, around timm's ViT; its decoders are four times wide within."""
    from stable_pretraining.methods.mae import MAE  # pyright: ignore[reportMissingImports]

    model = MAE(
        _timm_vit(config, num_classes=0),
        decoder_embed_dim=config.decoder_hidden_size,
        decoder_depth=config.decoder_num_hidden_layers,
        decoder_num_heads=config.decoder_num_attention_heads,
        mask_ratio=config.mask_ratio,
        norm_pix_loss=config.norm_pix_loss,
    )
    return model, _loss


def _timm_vit(config: MAEConfig, **options: Any) -> VisionTransformer:
    return VisionTransformer(
        img_size=config.image_hw,
        patch_size=config.patch_hw,
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        **options,
    )


def our_classifier(config: MAEConfig) -> Peer:
    """Builds our classifier."""
    return MAEForImageClassification(config), _logits


def timm_classifier(config: MAEConfig) -> Peer:
    """Builds timm's ViT, mean-pooled as MAE's classifiers are."""
    model = _timm_vit(config, num_classes=config.num_labels, global_pool="avg")
    return model, lambda model, pixel_values: model(pixel_values)


def transformers_vit(config: MAEConfig) -> Peer:
    """Builds transformers' ViT, which pools the class token."""
    return ViTForImageClassification(_as(ViTConfig, config)), _logits


def transformers_beit(config: MAEConfig) -> Peer:
    """Builds transformers' BEiT as an exported MAE classifier is: the same mathematics."""
    beit_config = _as(
        BeitConfig,
        config,
        use_mask_token=False,
        use_absolute_position_embeddings=True,
        use_mean_pooling=True,
        layer_scale_init_value=0.0,
    )
    return BeitForImageClassification(beit_config), _logits


def _as(config_class: type[PreTrainedConfig], config: MAEConfig, **options: Any) -> Any:
    """A configuration of another class, with the fields that both know."""
    known = config_class().to_dict()
    skipped = ("model_type", "architectures", "transformers_version", "dtype")
    shared = {
        name: value
        for name, value in config.to_dict().items()
        if name in known and name not in skipped
    }
    return config_class(**shared, **options)


PRETRAINING: dict[str, Callable[[MAEConfig], Peer]] = {
    "hf_mae": ours,
    "transformers ViTMAE": transformers_mae,
    "mmpretrain": mmpretrain_mae,
    "lightly": lightly_mae,
    "stable-pretraining": stable_pretraining_mae,
}
CLASSIFIERS: dict[str, Callable[[MAEConfig], Peer]] = {
    "hf_mae": our_classifier,
    "timm ViT": timm_classifier,
    "transformers ViT": transformers_vit,
    "transformers BEiT": transformers_beit,
}
ASK_FOR_VALUES = ("stable-pretraining",)  # as they run, which meta tensors don't have
