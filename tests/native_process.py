"""Loads native folders as a user without hf_mae does, and says what they give. Run by
test_to_transformers.py, on any transformers.

python native_process.py REQUESTS.json: [{"do": …, "folder": …, …}] → a list of answers in
REQUESTS.json.out, torch.save's
"""

import json
import sys
import warnings

import torch
import transformers
from PIL import Image
from torchvision.transforms import Compose, Normalize, RandomResizedCrop, ToTensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    ViTModel,
    pipeline,
)


@torch.no_grad()
def answer(do, folder, inputs=None, image=None, subfolder=""):
    if do == "run_image_classification":
        return train_classifier(folder)
    inputs = torch.load(inputs) if inputs else {}
    if do in ("image-classification", "image-feature-extraction"):
        options = {"top_k": 10} if do == "image-classification" else {}
        found = pipeline(do, model=folder)(Image.open(image), **options)
        return (
            {part["label"]: part["score"] for part in found}
            if do == "image-classification"
            else torch.tensor(found)
        )
    classes = (AutoModel, AutoModelForImageClassification, AutoModelForPreTraining, ViTModel)
    loader = next(c for c in classes if c.__name__ == do)
    options = {"add_pooling_layer": False} if do == "ViTModel" else {}
    model, report = loader.from_pretrained(
        folder, output_loading_info=True, subfolder=subfolder, **options
    )
    missing = [] if do == "ViTModel" else sorted(report["missing_keys"])
    outputs = model.eval()(**inputs)
    names = ("loss", "logits", "last_hidden_state", "pooler_output")
    return {
        "class": type(model).__name__,
        "missing": missing,
        **{n: outputs[n] for n in names if outputs.get(n) is not None},
    }


@torch.enable_grad()
def train_classifier(folder):
    """As transformers' run_image_classification.py: a new head, the crop that the processor says.

    Returns the loss before and after some updates.
    """
    processor = AutoImageProcessor.from_pretrained(folder)
    size = processor.size
    side = size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    transform = Compose(
        [
            RandomResizedCrop(side),
            ToTensor(),
            Normalize(mean=processor.image_mean, std=processor.image_std),
        ]
    )
    names = {0: "dark", 1: "bright"}
    model = AutoModelForImageClassification.from_pretrained(
        folder, num_labels=2, id2label=names, label2id={name: i for i, name in names.items()}
    )
    pictures = [Image.new("RGB", (70, 50), (20 + 200 * i,) * 3) for i in (0, 1)]
    pixel_values = torch.stack([transform(picture) for picture in pictures])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = model(pixel_values=pixel_values, labels=torch.tensor([0, 1])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {"class": type(model).__name__, "losses": losses}


if __name__ == "__main__":
    sys.modules["hf_mae"] = None  # whatever asks for it fails
    warnings.simplefilter("ignore")
    with open(sys.argv[1]) as file:
        requests = json.load(file)
    torch.save(
        [{"version": transformers.__version__}, *(answer(**request) for request in requests)],
        sys.argv[1] + ".out",
    )
