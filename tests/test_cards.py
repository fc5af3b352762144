import yaml

from hf_mae import MAEConfig
from hf_mae.training_cards import ClassifierCard, PreTrainingCard


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


def test_k_nn_accuracy_is_shown_if_it_was_measured():
    line = "k-NN accuracy of the features (cosine, k=20): 81.23 %"
    assert line in str(PreTrainingCard(**FACTS, knn_accuracy=0.81234).render())
    assert "k-NN" not in str(PreTrainingCard(**FACTS).render())


CLASSIFIER = """
# Classifier of chest-xrays on a Masked Autoencoder's encoder

A Vision Transformer with 2 classes (ill, well): 6.54 M parameters (5.50 M in the encoder), images of 224 x 224 pixels, patches of 16 x 16, 1 channel.
It was trained whole (fine-tuning). The encoder, that of a Masked Autoencoder ([arXiv 2111.06377](https://arxiv.org/abs/2111.06377)), started from mae-xrays.

## Use

```python
import hf_mae
from transformers import pipeline

pipeline("image-classification", "xrays")("picture.jpg")
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

On 678 held-out images.

| metric | value |
|---|---|
| top-1 accuracy | 91.23 % |

## Versions

"""  # noqa: E501


def test_whole_card_of_a_classifier():
    config = MAEConfig.from_size("tiny", num_channels=1, id2label={0: "ill", 1: "well"}, label2id={"ill": 0, "well": 1})
    card = ClassifierCard(
        **{**FACTS, "config": config, "results": {"top-1 accuracy": 0.912346}},
        method="It was trained whole (fine-tuning).",
        started_from="mae-xrays",
    )
    _, head, body = str(card.render()).split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("hf_mae", "image-classification")
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"]["name"] == "chest-xrays"
    assert result["metrics"] == [{"type": "accuracy", "value": 0.91235, "name": "top-1 accuracy"}]
    assert body.startswith(CLASSIFIER)


def test_card_of_a_classifier_without_held_out_images():
    facts = {**FACTS, "results": {}, "num_held_out_images": 0}
    text = str(ClassifierCard(**facts, method="m.", started_from="random weights").render())
    assert "model-index" not in text
    assert "## Results" not in text
