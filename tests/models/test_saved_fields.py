"""What a configuration or an image processor may say, before anything is made of it."""

import pytest
import torch

from hf_mae import MAEConfig
from hf_mae.models.configuration_mae import SIZES
from hf_mae.models.saved_fields import check_fields, check_processor_fields, check_sizes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 10**8}, "num_hidden_layers is 100000000; it must be at most 10,000"),
        ({"decoder_num_hidden_layers": 10**8}, "decoder_num_hidden_layers is 100000000; it must"),
        ({"hidden_size": 12 * 10**8}, "hidden_size 1200000000, .*; no machine holds more than"),
        ({"intermediate_size": 10**30}, "intermediate_size 1000000000000000000000000000000, "),
        ({"decoder_hidden_size": 16 * 10**8}, "no machine holds more than"),
        ({"num_channels": 10**9}, "num_channels 1000000000, "),
        ({"image_size": 1_600_000}, "image_size 1600000 in patches of 16 makes 10,000,000,000 pat"),
        ({"image_size": (16, 16 * 10**9)}, "makes 1,000,000,000 patches"),
        ({"image_size": 10**6, "patch_size": 10**6}, "patch_size 1000000 ask for a model of"),
        ({"num_labels": 10**9}, "num_labels is 1000000000; it must be a whole number up to 1,000"),
        ({"num_labels": "x"}, "num_labels is 'x'"),
        ({"layer_norm_eps": 1e300}, "layer_norm_eps is 1e.300; it must be a positive number up to"),
        ({"initializer_range": float("inf")}, "initializer_range is inf"),
        ({"id2label": 5}, "id2label is 5; it must be a mapping of the numbers from 0 up to names"),
        ({"id2label": {"a": "b"}}, "id2label is {'a': 'b'}"),
        ({"id2label": {0: "a", 2: "b"}}, "id2label is "),
        ({"id2label": {0: ["a"]}}, "id2label is "),
        ({"dtype": "nope"}, "dtype is 'nope'; it must be the name of a type of torch's"),
        ({"dtype": "load"}, "dtype is 'load'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"torch_dtype": [5]}, r"dtype is \[5\]"),
        ({"architectures": [5]}, r"architectures is \[5\]; it must be a list of names"),
        ({"quantization_config": 5}, "quantization_config is 5; it must be a mapping"),
        ({"problem_type": "guessing"}, "problem_type is 'guessing'; it must be one of regression"),
        ({"output_attentions": "x"}, "output_attentions is 'x'; it must be True or False"),
    ],
)
def test_impossible_fields_are_named(fields, message):
    """At once: nothing is built."""
    with pytest.raises(ValueError, match=message):
        MAEConfig(**fields)


def test_large_models_are_possible():
    """The largest vision transformer that was trained (arXiv 2302.05442, Table 1), and large
    images."""
    for size in SIZES:
        MAEConfig.from_size(size)
    giant = {"hidden_size": 6144, "num_hidden_layers": 48, "intermediate_size": 24576}
    MAEConfig(**giant, num_attention_heads=48)
    MAEConfig(image_size=16384)
    MAEConfig(dtype=torch.bfloat16, num_labels=21841)


def test_fields_of_other_models():
    """Lists of sizes, as of stages, aren't counted; layers are, whoever's."""
    check_sizes({"num_hidden_layers": [2, 2, 6], "hidden_size": [64, 128], "image_size": None})
    check_fields({"model_type": "resnet", "architectures": ["ResNetModel"], "hidden_sizes": [8]})
    with pytest.raises(ValueError, match="num_hidden_layers is 100000000"):
        check_fields({"model_type": "beit", "num_hidden_layers": 10**8})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"size": {"shortest_edge": -5}},
            "size is {'shortest_edge': -5}; it must be made of whole",
        ),
        ({"size": {"shortest_edge": 10**9}}, "from 1 to 32,768"),
        ({"crop_size": {"height": 0, "width": 0}}, "crop_size is "),
        ({"crop_size": "large"}, "crop_size is 'large'"),
        ({"image_mean": ["a"]}, r"image_mean is \['a'\]; it must be a number, or a list of them"),
        ({"image_mean": [float("nan")]}, "image_mean is "),
        ({"image_std": [0.0]}, "image_std is .*; it must be a positive number"),
        ({"resample": 99}, "resample is 99; it must be the number of one of PIL's filters"),
        ({"rescale_factor": {}}, "rescale_factor is {}; it must be a positive number"),
        ({"do_rescale": True, "rescale_factor": None}, "rescale_factor is None, which do_rescale"),
        ({"do_normalize": {}}, "do_normalize is {}; it must be True or False"),
        ({"value_range": [5, 1]}, "value_range is .*; it must be the values of black and white"),
        ({"bands": 5}, "bands is 5; it must be a list of whole numbers from 1 up"),
    ],
)
def test_impossible_fields_of_a_processor_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        check_processor_fields(fields)


def test_fields_of_other_processors():
    check_processor_fields({"size": 224, "crop_size": {"height": 8, "width": None}, "resample": 3})
    check_processor_fields({"do_resize": False, "resample": None, "image_mean": 0.5})
