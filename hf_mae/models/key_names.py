# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How each code base spells the names of a Masked Autoencoder's weights, as ordered renames."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor


# transformers' `vit_mae` spells its keys in three ways: as it has them in memory since 5.x (ours),
# as it saves them since 5.x (`decoder.decoder_encoder.layer.0…`) and as it did before
# (`decoder.decoder_layers.0…`). Tried in this order, the renames take all of them to ours.
VIT_MAE_RENAMES = {
    r"encoder\.layer\.": "layers.",
    r"attention\.attention\.query": "attention.q_proj",
    r"attention\.attention\.key": "attention.k_proj",
    r"attention\.attention\.value": "attention.v_proj",
    r"attention\.output\.dense": "attention.o_proj",
    r"intermediate\.dense": "mlp.fc1",
    r"output\.dense": "mlp.fc2",
}

# the spelling of transformers before 5.x, which every version reads; from ours, tried in order
NATIVE_RENAMES = {
    r"^(vit\.)?layers\.": r"\1encoder.layer.",
    r"\.attention\.q_proj\.": ".attention.attention.query.",
    r"\.attention\.k_proj\.": ".attention.attention.key.",
    r"\.attention\.v_proj\.": ".attention.attention.value.",
    r"\.attention\.o_proj\.": ".attention.output.dense.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
}

_FACEBOOK_BLOCK = {
    r"norm1\.": "layernorm_before.",
    r"norm2\.": "layernorm_after.",
    r"attn\.qkv\.": "attention.qkv.",
    r"attn\.proj\.": "attention.o_proj.",
}
FACEBOOK_RENAMES = {
    r"^decoder_blocks\.": "decoder.decoder_layers.",
    r"^(decoder_embed|decoder_norm|decoder_pred|decoder_pos_embed|mask_token)": r"decoder.\1",
    r"^blocks\.": "vit.layers.",
    r"^cls_token$": "vit.embeddings.cls_token",
    r"^pos_embed$": "vit.embeddings.position_embeddings",
    r"^patch_embed\.proj\.": "vit.embeddings.patch_embeddings.projection.",
    r"^norm\.": "vit.layernorm.",
    r"^head\.0\.": "batch_norm.",  # the linear probe's head is batch norm and linear layer
    r"^head\.(1\.)?": "classifier.",
    **_FACEBOOK_BLOCK,
}

_MMPRETRAIN_BLOCK = {
    r"ln1\.": "layernorm_before.",
    r"ln2\.": "layernorm_after.",
    r"attn\.qkv\.": "attention.qkv.",
    r"attn\.proj\.": "attention.o_proj.",
    r"ffn\.layers\.0\.0\.": "mlp.fc1.",
    r"ffn\.layers\.1\.": "mlp.fc2.",
}
MMPRETRAIN_RENAMES = {
    r"^neck\.decoder_blocks\.": "decoder.decoder_layers.",
    r"^neck\.ln1\.": "decoder.decoder_norm.",
    r"^neck\.(decoder_embed|decoder_pred|decoder_pos_embed|mask_token)": r"decoder.\1",
    r"^backbone\.layers\.": "vit.layers.",
    r"^backbone\.cls_token$": "vit.embeddings.cls_token",
    r"^backbone\.pos_embed$": "vit.embeddings.position_embeddings",
    r"^backbone\.patch_embed\.projection\.": "vit.embeddings.patch_embeddings.projection.",
    r"^backbone\.ln1\.": "vit.layernorm.",
    r"^backbone\.ln2\.": "fc_norm.",
    r"^neck\.bn\.": "batch_norm.",
    r"^head\.(fc|layers\.head)\.": "classifier.",
    **_MMPRETRAIN_BLOCK,
}


def rename(state_dict: Mapping[str, Tensor], renames: Mapping[str, str]) -> dict[str, Tensor]:
    """Gives a state dict other names, and splits fused qkv tensors.

    Args:
        state_dict: Name → tensor, as the one code base spells it.
        renames: Pattern → replacement, tried in order, each on the result of the one before.

    Returns:
        Name → tensor; what a code base keeps as one tensor of queries, keys and values is three.

    Example:

    >>> theirs = {"blocks.0.attn.qkv.bias": torch.zeros(144)}
    >>> [name.removeprefix("vit.layers.0.") for name in rename(theirs, FACEBOOK_RENAMES)]
    ['attention.q_proj.bias', 'attention.k_proj.bias', 'attention.v_proj.bias']
    """
    renamed = {}
    for name, tensor in state_dict.items():
        for pattern, replacement in renames.items():
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name and tensor.ndim:
            for part, piece in zip("qkv", tensor.chunk(3)):
                # a copy, for safetensors wants each on its own
                renamed[name.replace(".qkv.", f".{part}_proj.")] = piece.clone()
        else:
            renamed[name] = tensor
    return renamed


def without_identity_pooler(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leaves out the pooler that a native encoder has for transformers' sake.

    Args:
        tensors: Name in our spelling → tensor. A pooler that computes something stays.
    """
    weight, bias = (tensors.get(f"vit.pooler.dense.{name}") for name in ("weight", "bias"))
    if weight is None or bias is None or bias.any():
        return dict(tensors)
    if not torch.equal(weight.float(), torch.eye(len(weight))):
        return dict(tensors)
    return {name: t for name, t in tensors.items() if not name.startswith("vit.pooler.")}
