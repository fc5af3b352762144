import yaml

from hf_mae import MAEConfig
from hf_mae.hub import PreTrainingCard


EXPECTED = """
# Masked Autoencoder pre-trained on chest-xrays

A Masked Autoencoder ([arXiv 2111.06377](https://arxiv.org/abs/2111.06377)): 6.54 M parameters (5.50 M in the encoder), images of 224 x 224 pixels, patches of 16 x 16, 1 channel.
It was trained without labels to fill in images of which 75 % was hidden.

## Use

```python
from hf_mae import MAEImageProcessor, MAEModel

processor, model = MAEImageProcessor.from_pretrained("xrays"), MAEModel.from_pretrained("xrays")
features = model(**processor(image, return_tensors="pt")).last_hidden_state  # class token, then patches in order
```

## Training

12,345 images of chest-xrays, 12.5 epochs
(2,410 updates of 64 images), peak learning rate
3.75e-05, on 1 x NVIDIA H100.
`arguments.yaml` in this folder repeats it:

```
accelerate launch scripts/run_mae.py arguments.yaml --output_dir runs/again
```

## Results

On 678 held-out images, with fixed masks; mean squared error of
patches normalised by their own mean and deviation.

| predictor of the hidden patches | loss |
|---|---|
| this model | 0.5123 |
| mean of the visible patches | 1.2500 |
| best constant patch per image | 0.9877 |

![Held-out images: original, masked, reconstructed](reconstructions.png)

## Versions

"""  # noqa: E501


FACTS = {
    "folder": "xrays",
    "dataset": "chest-xrays",
    "config": MAEConfig.from_size("tiny", num_channels=1, norm_pix_loss=True),
    "num_parameters": (5_500_000, 6_543_210),
    "num_train_images": 12_345,
    "num_held_out_images": 678,
    "epochs": 12.5,
    "steps": 2_410,
    "total_batch_size": 64,
    "learning_rate": 3.75e-5,
    "hardware": "1 x NVIDIA H100",
    "command": "accelerate launch scripts/run_mae.py arguments.yaml --output_dir runs/again",
    "results": {"this model": 0.51234, "mean of the visible patches": 1.25, "best constant patch per image": 0.98765},
}


def test_whole_card():
    card = PreTrainingCard(**FACTS)
    text = str(card.render())
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "hf_mae"
    assert body.startswith(EXPECTED)
    assert "torch " in body[len(EXPECTED) :]


def test_card_without_held_out_images():
    card = PreTrainingCard(**{**FACTS, "num_held_out_images": 0, "results": {}})
    text = str(card.render())
    assert "Results" not in text
    assert "reconstructions.png" not in text
