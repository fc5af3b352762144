# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Foreign state dicts → ours: an ordered table of renames for each code base and a split of the fused qkv."""

import re


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
    r"^head\.": "classifier.",
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


def rename(state_dict, renames):
    """A state dict under our names, its fused qkv tensors split into queries, keys and values.

    Args:
        state_dict: name → tensor, as saved by the other code.
        renames: pattern → replacement, tried in order, each on the result of the one before.

    Example:

    >>> sorted(rename({"blocks.0.attn.qkv.bias": torch.zeros(144)}, FACEBOOK_RENAMES))
    ['vit.layers.0.attention.k_proj.bias', 'vit.layers.0.attention.q_proj.bias', 'vit.layers.0.attention.v_proj.bias']
    """
    renamed = {}
    for name, tensor in state_dict.items():
        for pattern, replacement in renames.items():
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3)):
                renamed[name.replace(".qkv.", f".{part}_proj.")] = piece
        else:
            renamed[name] = tensor
    return renamed
