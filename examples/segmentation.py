# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Semantic segmentation: a pre-trained encoder as the backbone of transformers' UperNet.

python examples/segmentation.py --model_name_or_path runs/pretrain --steps 200

The pictures are drawn here: discs on a textured ground, each pixel labelled ground or disc. For
your own, give UperNet their pixel_values (B, 3, H, W) and labels (B, H, W).
"""

import argparse

import torch
from torch import Tensor
from transformers import UperNetConfig, UperNetForSemanticSegmentation

from hf_mae import MAEBackbone, MAEConfig


def main() -> None:
    args = parse()
    torch.manual_seed(args.seed)
    backbone = make_backbone(args.model_name_or_path)
    depth = backbone.config.num_hidden_layers
    backbone.config.out_indices = [depth // 4, depth // 2, 3 * depth // 4, depth]
    config = UperNetConfig(backbone_config=backbone.config, num_labels=2, hidden_size=64)
    config.use_auxiliary_head = False
    model = UperNetForSemanticSegmentation(config)
    model.backbone.load_state_dict(backbone.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    images, labels = draw_discs(8, backbone.config.image_hw)
    model.train()
    for step in range(args.steps):
        loss = model(images, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == args.steps - 1:
            print(f"step {step}: loss {loss.item():.4f}")
    print(f"pixels of the right class: {accuracy(model, images, labels):.1%}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model_name_or_path", help="of a model of ours; else a new, tiny one")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make_backbone(model_name_or_path: str | None) -> MAEBackbone:
    if model_name_or_path:
        return MAEBackbone.from_pretrained(model_name_or_path)
    return MAEBackbone(MAEConfig.from_size("tiny", image_size=64, patch_size=8))


def draw_discs(count: int, image_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) and the class of each pixel (B, H, W)."""
    height, width = image_hw
    y = torch.arange(height).view(1, -1, 1)
    x = torch.arange(width).view(1, 1, -1)
    centers = torch.rand(count, 2) * 0.5 + 0.25
    row, column = centers[:, :1, None] * height, centers[:, 1:, None] * width
    inside = (y - row) ** 2 + (x - column) ** 2 < (min(image_hw) / 5) ** 2  # (B, H, W)
    images = torch.randn(count, 3, height, width) * 0.3
    return images + inside.unsqueeze(1), inside.long()


@torch.no_grad()
def accuracy(model: UperNetForSemanticSegmentation, images: Tensor, labels: Tensor) -> float:
    model.eval()
    found = model(images).logits.argmax(dim=1)  # (B, H, W)
    return (found == labels).float().mean().item()


if __name__ == "__main__":
    main()
