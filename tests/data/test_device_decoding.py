"""Crops that workers leave to a device: on the CPU they are the same pixels, drawn alike."""

import shutil

import numpy as np
import pytest
import torch
from helpers import TINY
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader

from hf_mae import MAEConfig, MAEForPreTraining
from hf_mae.data.decoding import Jpeg, _Frame
from hf_mae.data.device_decoding import UndecodedCrop, decode_crops
from hf_mae.data.samples import ImageSamples, collate
from hf_mae.data.sources import load_image_dataset
from hf_mae.data.transforms import PretrainingTransform
from hf_mae.errors import BadImageError
from hf_mae.models.image_processing_mae import MAEImageProcessor
from hf_mae.training.arguments import MAETrainingArguments
from hf_mae.training.pretraining import MAETrainer


CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of many kinds: turned eight ways, grey, progressive, tiny, PNG, 16 bits."""
    folder = tmp_path_factory.mktemp("photographs")
    photos = [Image.fromarray(image).resize((210, 140)) for image in load_sample_images().images]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photos[0].save(folder / f"turned-{orientation}.jpg", exif=exif, quality=90)
    photos[1].save(folder / "plain.jpg", quality=85)
    photos[1].save(folder / "full-colour.jpg", subsampling=0)
    photos[1].save(folder / "progressive.jpg", progressive=True)
    photos[1].convert("L").save(folder / "grey.jpg")
    photos[0].convert("L").save(folder / "grey-too.jpg")
    photos[1].convert("CMYK").save(folder / "cmyk.jpg")
    photos[1].resize((3, 2)).save(folder / "tiny.jpg")
    photos[1].save(folder / "lossless.png")
    values = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    Image.fromarray(values).save(folder / "deep.png")
    (folder / "cut-off.jpg").write_bytes((folder / "plain.jpg").read_bytes()[:3000])
    return folder


def make_samples(folder, decode, **fields):
    images = load_image_dataset(train_dir=str(folder), train_val_split=0)["train"]
    transform = PretrainingTransform(MAEConfig(**{**TINY, **fields}), decode=decode)
    return ImageSamples(images, transform, fields.get("num_channels", 3), seed=0)


def batches(samples):
    numbers = [*range(2 * len(samples))]  # of two epochs
    return collate(samples.__getitems__(numbers))


@pytest.mark.parametrize("fields", [{}, {"num_channels": 1}, {"image_size": [40, 24]}])
def test_same_pixels_and_draws(folder, fields):
    expected = batches(make_samples(folder, True, **fields))
    left = make_samples(folder, False, **fields)
    found = batches(left)
    undecoded = [isinstance(image, UndecodedCrop) for image in found["images"]]
    # a third or more of them in colour, one in grey: all others a worker has decoded
    assert sum(undecoded) >= (2 if fields.get("num_channels") else 12)
    assert not all(undecoded)
    images = decode_crops(found["images"], left.transform.crop.processor, CPU)
    assert images.dtype == expected["images"].dtype
    different = (images != expected["images"]).flatten(1).any(dim=1)
    assert different.nonzero().flatten().tolist() == []
    assert torch.equal(found["noise"], expected["noise"])
    assert found["bad_images"] == expected["bad_images"]
    assert {name for _, name, _ in found["bad_images"]} == {str(folder / "cut-off.jpg")}


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_the_workers(folder, channels):
    samples = make_samples(folder, False, num_channels=channels)
    image = Jpeg((folder / "plain.jpg").read_bytes(), channels, _Frame(210, 140, False))
    assert not image.can_be_left((0, 0, 50, 60))
    if channels == 4:
        batch = collate([samples[0], samples[1]])
        assert batch["images"].shape == (2, 4, 32, 32)


def test_large_photographs_are_the_workers(folder):
    data = (folder / "plain.jpg").read_bytes()
    assert Jpeg(data, 3, _Frame(210, 140, False)).can_be_left((0, 0, 50, 60))
    assert not Jpeg(data, 3, _Frame(3000, 140, False)).can_be_left((0, 0, 50, 60))


def test_crops_of_other_sizes(folder):
    larger = make_samples(folder, False).transform.at_size(64)
    image = make_samples(folder, False).open({"image": {"path": str(folder / "plain.jpg")}})
    sample = larger(image, np.random.default_rng(0))
    assert isinstance(sample["images"], UndecodedCrop)
    decoded = decode_crops([sample["images"]], larger.crop.processor, CPU)
    assert decoded.shape == (1, 3, 64, 64)


def test_what_a_device_cant_decode(folder, tmp_path):
    """A file that says nothing bad until it is decoded: its Huffman tables are overwritten."""
    data = (folder / "plain.jpg").read_bytes()
    start = data.index(b"\xff\xc4") + 5
    broken = data[:start] + b"\xff" * 16 + data[start + 16 :]
    samples = make_samples(folder, False)
    image = samples.open({"image": {"bytes": broken}})
    good = samples.open({"image": {"bytes": data}})
    processor = MAEImageProcessor()
    crops = [UndecodedCrop(each, (0, 0, 50, 60), (32, 32), False) for each in (good, image)]
    with pytest.raises(BadImageError, match="can't be decoded: .*; go on by --decode_device"):
        decode_crops(crops, processor, CPU)
    assert decode_crops(crops[:1], processor, CPU).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_the_same(folder, tmp_path, workers):
    shutil.copytree(folder, tmp_path / "whole")
    (tmp_path / "whole/cut-off.jpg").unlink()
    losses = []
    for decode in (True, False):
        torch.manual_seed(0)
        args = MAETrainingArguments(
            output_dir=str(tmp_path / str(decode)),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            warmup_epochs=0,
            dataloader_num_workers=workers,
            save_strategy="no",
            eval_strategy="no",
            logging_steps=1,
            use_cpu=True,
            report_to="none",
        )
        samples = make_samples(tmp_path / "whole", decode)
        model = MAEForPreTraining(MAEConfig(**TINY))
        processor = MAEImageProcessor.from_model_config(model.config)
        trainer = MAETrainer(model, args, samples, processing_class=processor)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses[0]) == 8
    assert losses[0] == losses[1]


def test_workers_hand_over_files(folder):
    loader = DataLoader(make_samples(folder, False), 4, num_workers=1, collate_fn=collate)
    kinds = {type(image) for batch in loader for image in batch["images"]}
    assert kinds == {UndecodedCrop, torch.Tensor}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"decode_device": "cuda"}, "decode_device is cuda, and the run is on cpu; give --decode_"),
        ({"decode_device": "cuda", "crops_per_image": 2}, "decode_device is cuda and crops_per_im"),
        (
            {"decode_device": "cuda", "accelerator_config": {"dispatch_batches": True}},
            "decode_device is cuda and accelerator_config has dispatch_batches",
        ),
        ({"decode_device": "gpu"}, "decode_device is 'gpu'; it must be cpu or cuda"),
    ],
)
def test_refused(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        MAETrainingArguments(output_dir=str(tmp_path), use_cpu=True, **flags).check()


@pytest.mark.gpu
def test_samples_that_come_decoded_are_refused(folder, tmp_path):
    args = MAETrainingArguments(
        output_dir=str(tmp_path), decode_device="cuda", eval_strategy="no", save_strategy="no"
    )
    model = MAEForPreTraining(MAEConfig(**TINY))
    processor = MAEImageProcessor.from_model_config(model.config)
    samples = make_samples(folder, True)
    with pytest.raises(ValueError, match="come decoded; make their PretrainingTransform with"):
        MAETrainer(model, args, samples, processing_class=processor)
    MAETrainer(model, args, make_samples(folder, False), processing_class=processor)
