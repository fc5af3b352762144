import numpy as np
import pytest
import torch
from helpers import TINY
from PIL import Image
from scipy import stats

from hf_mae import MAEConfig
from hf_mae.data.augmentation import PairMixing, erase, global_generators
from hf_mae.data.samples import ImageSamples
from hf_mae.data.sources import load_image_dataset
from hf_mae.data.transforms import (
    FineTuningTransform,
    LinearProbeTransform,
    MaskedEvaluationTransform,
    PretrainingTransform,
    RandomCropFlip,
    random_crop_box,
)
from hf_mae.models.image_processing_mae import channel_statistics, normalize_images


@pytest.fixture
def config():
    return MAEConfig(**TINY)


def test_crop_boxes_are_torchvisions_distribution():
    from torchvision.transforms import RandomResizedCrop

    rng, image = np.random.default_rng(0), torch.zeros(3, 300, 400)
    ours = np.array([random_crop_box(300, 400, rng) for _ in range(4000)], dtype=float)
    torch.manual_seed(0)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)],
        dtype=float,
    )
    for column in range(4):
        # two samples of one distribution differ so much once in a million times
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-6
    areas, aspects = ours[:, 2] * ours[:, 3] / 120000, ours[:, 3] / ours[:, 2]
    assert areas.min() > 0.19
    assert areas.max() <= 1
    assert aspects.min() > 0.74
    assert aspects.max() < 1.35


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (3, 2), (2000, 10)])
def test_crop_boxes_of_odd_images(height, width):
    rng = np.random.default_rng(0)
    for _ in range(50):
        top, left, h, w = random_crop_box(height, width, rng)
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert h > 0
        assert w > 0


def test_noise_for_dropped_layers_comes_with_the_sample(config, photos):
    """Drawn after all else: without a rate, samples are what they are with one."""
    array, dropping = np.array(photos[0]), config.changed(drop_path_rate=0.2)
    plain = PretrainingTransform(config)(array, np.random.default_rng(3))
    assert plain.keys() == {"images", "noise"}
    noises = []
    for pixels in (32, 16):
        transform = PretrainingTransform(dropping).at_size(pixels)
        sample = transform(array, np.random.default_rng(3))
        noise = sample.pop("drop_path_noise")
        assert noise.shape == (config.num_hidden_layers, 2)
        assert (noise.min() >= 0) & (noise.max() < 1)
        assert torch.equal(transform(array, np.random.default_rng(3))["drop_path_noise"], noise)
        noises.append(transform(array, np.random.default_rng(4))["drop_path_noise"])
        assert not torch.equal(noises[-1], noise)
        if pixels == 32:
            assert sample.keys() == plain.keys()
            assert all(torch.equal(sample[name], plain[name]) for name in plain)


def test_training_crop_is_torchvisions_resize(config, photos):
    """The crop of a sample, cut and resized by PIL, bicubic and antialiased."""
    array = np.array(photos[0])
    transform, flips = PretrainingTransform(config), 0
    for i in range(40):
        sample = transform(array, np.random.default_rng(i))
        rng = np.random.default_rng(i)
        top, left, height, width = random_crop_box(*array.shape[:2], rng)
        expected = (
            photos[0]
            .crop((left, top, left + width, top + height))
            .resize((32, 32), Image.Resampling.BICUBIC)
        )
        expected = np.asarray(expected).astype(int)
        if rng.random() < 0.5:
            expected, flips = expected[:, ::-1], flips + 1
        assert np.abs(sample["images"].permute(1, 2, 0).numpy() - expected).max() <= 1
    assert 8 < flips < 32


def test_held_out_transform_is_the_processor(config, photo_folder):
    from hf_mae import MAEImageProcessor

    dataset = load_image_dataset(train_dir=photo_folder, train_val_split=0)["train"]
    samples = ImageSamples(dataset, MaskedEvaluationTransform(config), 3, seed=0)
    processor = MAEImageProcessor.from_model_config(config)
    for i in range(10):
        image = Image.open(dataset[i]["image"]["path"])
        expected = processor(
            image, return_tensors="pt", do_rescale=False, do_normalize=False
        ).pixel_values[0]
        assert torch.equal(samples[i]["images"], expected)


# fine-tuning -------------------------------------------------------------------------------------


def channels(config, number):
    return MAEConfig(**{**config.to_dict(), "num_channels": number})


def test_fine_tuning_is_timms_stack(config, photos):
    """Crop and flip as everywhere, then timm's own transforms, by the same generators."""
    from timm.data.transforms_factory import transforms_imagenet_train

    array = np.array(photos[0])
    # of timm's stack all but crop and flip: RandAugment, to a tensor, normalise, erase
    stack = transforms_imagenet_train(
        *(32,),
        auto_augment="rand-m9-mstd0.5-inc1",
        color_jitter=None,
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
    ).transforms[2:]
    transform, crop = FineTuningTransform(config), RandomCropFlip(config, scale=(0.08, 1.0))
    erased = changed = 0
    for i in range(60):
        rng = np.random.default_rng(i)
        cropped = crop(array, rng)
        with global_generators(rng):
            expected = Image.fromarray(cropped.permute(1, 2, 0).numpy())
            for step in stack:
                expected = step(expected)
        ours = transform(array, np.random.default_rng(i))
        # the trainer's part, on the device
        pixel_values = normalize_images(ours["images"][None], *channel_statistics(3))
        erase(pixel_values, [ours["erased"]])
        torch.testing.assert_close(pixel_values[0], expected, rtol=0, atol=1e-5)
        plain = normalize_images(cropped, *channel_statistics(3))
        differs = (pixel_values[0] - plain).abs().amax(dim=0) > 0.01
        changed, erased = (
            changed + differs.any().item(),
            erased + (0 < differs.float().mean() < 0.4).item(),
        )
    assert changed > 40
    assert erased > 3


def test_global_generators_leave_no_trace():
    import random

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    def numbers():
        return random.random(), np.random.rand(), torch.rand(()).item()

    before, found = states(), []
    for seed in (0, 0, 1):
        with global_generators(np.random.default_rng(seed)):
            found.append(numbers())
    assert states() == before
    assert found[0] == found[1] != found[2]
    with pytest.raises(KeyError), global_generators(np.random.default_rng(0)):
        raise KeyError
    assert states() == before


@pytest.mark.parametrize("number", [1, 3])
def test_every_policy_of_rand_augment_runs(config, photos, number):
    """On grey pictures too, and at magnitudes where Pillow refuses to posterize."""
    array = np.array(photos[0].convert("L" if number == 1 else "RGB")).reshape(
        *photos[0].size[::-1], number
    )
    transform, black = FineTuningTransform(channels(config, number), random_erasing=0), 0
    for op in transform.augment.ops:
        op.prob, op.magnitude = 1.0, 10
    for i in range(300):
        pixels = transform(array, np.random.default_rng(i))["images"]
        assert pixels.shape == (number, 32, 32)
        assert pixels.dtype == torch.uint8
        black += (pixels == pixels[:, :1, :1]).all().item()
    assert black > 5


def test_augmentation_can_be_turned_off(config, photos):
    array = np.array(photos[0])
    transform = FineTuningTransform(config, auto_augment="none", random_erasing=0)
    expected = RandomCropFlip(config, (0.08, 1.0))(array, np.random.default_rng(3))
    pixels = transform(array, np.random.default_rng(3))["images"]
    assert torch.equal(pixels, expected)


def test_impossible_augmentation(config):
    with pytest.raises(
        ValueError, match="auto_augment is 'augmix-m5'; it must be a policy of timm's RandAugment"
    ):
        FineTuningTransform(config, "augmix-m5")
    with pytest.raises(
        ValueError, match="1 or 3 channels and the model has 12; pass --auto_augment none"
    ):
        FineTuningTransform(channels(config, 12))
    sample = FineTuningTransform(channels(config, 12), "none")(
        np.zeros((40, 40, 12), np.uint8), np.random.default_rng(0)
    )
    assert sample["images"].shape == (12, 32, 32)


def test_linear_probe_crops_and_flips_only(config, photos):
    sample = LinearProbeTransform(config)(np.array(photos[0]), np.random.default_rng(5))
    expected = RandomCropFlip(config, (0.08, 1.0))(np.array(photos[0]), np.random.default_rng(5))
    assert sample.keys() == {"images"}
    assert torch.equal(sample["images"], expected)


# mixing ------------------------------------------------------------------------------------------


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.rand(8, 3, 16, 16), torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


def test_each_pair_is_mixed_by_its_share(batch):
    """What is in an image is in its target, in the same shares, whether blended or pasted."""
    pixels, labels = batch
    mix, kinds = PairMixing(10, mixup=0.8, cutmix=1.0, label_smoothing=0.0), set()
    for start in range(0, 240, 8):
        mixed, targets = mix(pixels, labels, list(range(start, start + 8)))
        for i in range(8):
            partner = i + 1 - 2 * (i % 2)
            share = targets[i, labels[i]].item()
            assert targets[i, labels[partner]].item() == pytest.approx(1 - share, abs=1e-6)
            own = (mixed[i] == pixels[i]).all(dim=0)
            pasted = (mixed[i] == pixels[partner]).all(dim=0)
            if (own | pasted).all():
                kinds.add("cutmix")
                assert own.float().mean().item() == pytest.approx(share, abs=1e-6)
            else:
                kinds.add("mixup")
                torch.testing.assert_close(
                    mixed[i], share * pixels[i] + (1 - share) * pixels[partner]
                )
    assert kinds == {"mixup", "cutmix"}


def test_a_pair_is_mixed_the_same_in_any_batch(batch):
    pixels, labels = batch
    mix, seeds = PairMixing(10, 0.8, 1.0, 0.1), [11, 5, 12, 5, 13, 5, 14, 5]
    whole, targets = mix(pixels, labels, seeds)
    kept = pixels.clone()
    for start in (0, 4, 6):
        part = slice(start, start + 2)
        ours, our_targets = mix(pixels[part], labels[part], seeds[part])
        assert torch.equal(ours, whole[part])
        assert torch.equal(our_targets, targets[part])
    assert torch.equal(pixels, kept)


def test_shares_are_beta_distributed():
    mix, pixels = PairMixing(2, mixup=0.8, cutmix=0.0, label_smoothing=0.0), torch.zeros(2, 1, 1, 1)
    shares = [mix(pixels, torch.tensor([0, 1]), [seed, 0])[1][0, 0].item() for seed in range(2000)]
    assert stats.kstest(shares, stats.beta(0.8, 0.8).cdf).pvalue > 1e-6


def test_odd_batches_cannot_be_mixed(batch):
    pixels, labels = batch
    with pytest.raises(ValueError, match="a batch of 3 is odd"):
        PairMixing(10, 0.8, 1.0, 0.1)(pixels[:3], labels[:3], [1, 2, 3])
    same, targets = PairMixing(10, 0, 0, 0.1)(pixels[:3], labels[:3], [1, 2, 3])
    assert torch.equal(same, pixels[:3])
    torch.testing.assert_close(targets[0], torch.full((10,), 0.01) + 0.9 * torch.eye(10)[3])
