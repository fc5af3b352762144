"""A whole pre-training in one short file: our model, PyTorch's loop, scanned digits.

python examples/pretrain_minimal.py --epochs 20 --output digits.png

It shows what the trainer does at its heart. scripts/run_mae.py has the rest: recipes, held-out
losses, checkpoints, several GPUs.
"""

import argparse
import math

import torch
from torch.utils.data import DataLoader

from hf_mae import (
    ImageSamples,
    MAEConfig,
    MAEForPreTraining,
    MAEImageProcessor,
    PretrainingTransform,
    load_image_dataset,
    plot_reconstructions,
)
from hf_mae.data.samples import collate
from hf_mae.models.image_processing_mae import normalize_images


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = MAEConfig.from_size("tiny", image_size=32, patch_size=4, num_channels=1)
    model = MAEForPreTraining(config).to(device)
    processor = MAEImageProcessor.from_model_config(config)
    digits = load_image_dataset("digits")
    samples = ImageSamples(digits["train"], PretrainingTransform(config), 1, args.seed)

    updates = args.epochs * math.ceil(len(samples) / args.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=updates)
    model.train()
    for epoch in range(args.epochs):
        # sample numbers: crop and mask of an image are drawn from (seed, epoch, image)
        order = torch.randperm(len(samples)) + epoch * len(samples)
        total = 0.0
        for batch in DataLoader(
            samples, args.batch_size, sampler=order.tolist(), collate_fn=collate
        ):
            images, noise = batch["images"].to(device), batch["noise"].to(device)
            pixel_values = normalize_images(images, processor.image_mean, processor.image_std)
            loss = model(pixel_values, noise=noise).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total += loss.item() * len(images)
        print(f"epoch {epoch + 1}: loss {total / len(samples):.4f}", flush=True)

    held_out = [row["image"]["bytes"] for row in digits["validation"].select(range(4))]
    plot_reconstructions(model, processor, held_out).savefig(args.output, dpi=100)
    print(f"digits that it hasn't seen in {args.output}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--output", default="digits.png", help="picture to write")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
