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
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    ViTModel,
    pipeline,
)


@torch.no_grad()
def answer(do, folder, inputs=None, image=None):
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
    model, report = loader.from_pretrained(folder, output_loading_info=True, **options)
    missing = [] if do == "ViTModel" else sorted(report["missing_keys"])
    outputs = model.eval()(**inputs)
    names = ("loss", "logits", "last_hidden_state", "pooler_output")
    return {
        "class": type(model).__name__,
        "missing": missing,
        **{n: outputs[n] for n in names if outputs.get(n) is not None},
    }


if __name__ == "__main__":
    sys.modules["hf_mae"] = None  # whatever asks for it fails
    warnings.simplefilter("ignore")
    with open(sys.argv[1]) as file:
        requests = json.load(file)
    torch.save(
        [{"version": transformers.__version__}, *(answer(**request) for request in requests)],
        sys.argv[1] + ".out",
    )
