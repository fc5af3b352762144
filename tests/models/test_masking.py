"""Masks: 1 for a patch that is removed, 0 for one that the encoder sees."""

from functools import partial

import numpy as np
import pytest
import torch

from hf_mae import MAEConfig
from hf_mae.models.configuration_mae import MASK_STRATEGIES
from hf_mae.models.masking import (
    MaskStrategy,
    block_side,
    choose_mask,
    given_masking,
    mask_noise,
    random_masking,
    seeded_noise,
)


def test_random_masking_keeps_the_smallest_noise():
    noise = torch.rand(5, 49)
    ids_shuffle, ids_restore, mask, num_visible = random_masking(noise, 0.75)
    assert num_visible == 12
    for row in range(5):
        visible = set(noise[row].argsort()[:12].tolist())
        assert set(ids_shuffle[row, :12].tolist()) == visible
        assert {i for i in range(49) if mask[row, i] == 0} == visible
        assert torch.equal(ids_shuffle[row][ids_restore[row]], torch.arange(49))


def test_every_patch_is_masked_equally_often():
    counts = random_masking(torch.rand(20000, 16), 0.75)[2].mean(dim=0)
    # 20,000 draws of probability 3/4: standard deviation 0.003
    assert torch.allclose(counts, torch.full((16,), 0.75), atol=0.015)


def test_equal_noise_keeps_the_natural_order():
    ids_shuffle, _, _, _ = random_masking(torch.zeros(2, 100), 0.5)
    assert torch.equal(ids_shuffle, torch.arange(100).expand(2, -1))


def test_mask_ratio_zero_is_the_natural_order():
    ids_shuffle, _, mask, num_visible = random_masking(torch.rand(2, 9), 0.0)
    assert num_visible == 9
    assert mask.sum() == 0
    assert torch.equal(ids_shuffle, torch.arange(9).expand(2, -1))


def test_given_masking():
    mask = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])
    ids_shuffle, _, returned, num_visible = given_masking(mask)
    assert num_visible == 2
    assert ids_shuffle.tolist() == [[0, 3, 1, 2], [1, 2, 0, 3]]
    assert torch.equal(returned, mask.float())
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        given_masking(torch.tensor([[0, 1, 0], [1, 0, 1]]))
    with pytest.raises(ValueError, match="all 3 patches"):
        given_masking(torch.ones(2, 3))


def test_one_sort_gives_the_order_and_its_inverse():
    ids_shuffle, ids_restore, mask, _ = random_masking(torch.rand(50, 196), 0.75)
    assert torch.equal(ids_restore, ids_shuffle.argsort(dim=1))
    assert torch.equal(
        mask.gather(1, ids_shuffle), (torch.arange(196) >= 49).float().expand(50, -1)
    )


def test_a_mask_names_visible_and_removed_patches():
    mask = random_masking(torch.rand(3, 16), 0.75)
    assert mask.ids_visible.shape == (3, 4)
    assert torch.equal(torch.cat([mask.ids_visible, mask.ids_removed], dim=1), mask.ids_shuffle)
    assert not mask.mask.gather(1, mask.ids_visible).any()
    assert mask.mask.gather(1, mask.ids_removed).all()


@pytest.mark.parametrize("fields", [{}, {"mask_strategy": "block"}])
def test_the_mask_that_is_asked_for(fields):
    config, noise = MAEConfig(image_size=64, **fields), torch.rand(2, 16)
    choose = partial(choose_mask, config, (4, 4), 2, torch.device("cpu"))
    assert choose() is None
    assert choose(noise=noise).num_visible == 4
    assert choose(noise=noise, mask_ratio=0.5).num_visible == 8
    torch.manual_seed(0)
    drawn = choose(mask_ratio=0.5)
    torch.manual_seed(0)
    strategy = MaskStrategy.of(config)
    places = torch.rand(2, strategy.num_places((4, 4)))
    expected = random_masking(strategy.arrange(places, (4, 4)), 0.5)
    assert torch.equal(drawn.ids_shuffle, expected.ids_shuffle)


def test_seeded_noise_is_what_a_generator_of_that_seed_draws_first():
    expected = torch.rand(3, 7, generator=torch.Generator().manual_seed(5))
    assert torch.equal(seeded_noise(3, 7, 5), expected)
    generator = torch.Generator().manual_seed(5)
    torch.randn(4, generator=generator)
    after = torch.Generator().manual_seed(5)
    torch.randn(4, generator=after)
    expected = torch.rand(3, 7, generator=after)
    assert torch.equal(seeded_noise(3, 7, generator), expected)


def test_the_noise_of_a_sample_is_its_generators():
    config = MAEConfig(image_size=48)
    noise = mask_noise(config, np.random.default_rng(3))
    assert noise.dtype == torch.float32
    assert noise.tolist() == np.random.default_rng(3).random(9, dtype=np.float32).tolist()
    blocks = mask_noise(config.changed(mask_strategy="block"), np.random.default_rng(3))
    places = np.random.default_rng(3).random((4, 4), dtype=np.float32)
    assert blocks.view(3, 3)[1, 2] == places[1:3, 2:4].max()


def test_the_strategies_are_those_that_a_configuration_may_name():
    """A new one is a name there, and a branch here that makes noise of its own."""
    drawn = [MaskStrategy(name, 2).draw(4, (6, 6), 0) for name in MASK_STRATEGIES]
    assert [noise.shape for noise in drawn] == [(4, 36)] * len(MASK_STRATEGIES)
    assert len({tuple(random_masking(noise, 0.5).mask[0].tolist()) for noise in drawn}) == 2


def hidden(noise, grid_size, ratio):
    return random_masking(noise, ratio).mask.view(-1, *grid_size).bool()


@pytest.mark.parametrize("ratio", [0.25, 0.4, 0.75])
def test_blocks_hide_as_many_patches_in_every_image(ratio):
    masks = hidden(MaskStrategy("block", 4).draw(50, (14, 10), 0), (14, 10), ratio)
    assert masks.sum(dim=(1, 2)).tolist() == [140 - int(140 * (1 - ratio))] * 50


def test_blocks_are_squares():
    """Whatever is hidden is covered by squares that are hidden, as far as they lie in the grid; but
    for what the last one of an image has too much."""
    masks = hidden(MaskStrategy("block", 3).draw(200, (12, 12), 0), (12, 12), 0.5)
    beyond = torch.nn.functional.pad(masks.float().unsqueeze(1), (2, 2, 2, 2), value=1.0)
    whole = -torch.nn.functional.max_pool2d(-beyond, 3, stride=1)  # places whose patches all are
    covered = torch.nn.functional.max_pool2d(whole, 3, stride=1).squeeze(1).bool()
    left = (masks & ~covered).sum(dim=(1, 2))
    assert left.max() < 9
    single = hidden(seeded_noise(200, 144, 0), (12, 12), 0.5)
    beyond = torch.nn.functional.pad(single.float().unsqueeze(1), (2, 2, 2, 2), value=1.0)
    whole = -torch.nn.functional.max_pool2d(-beyond, 3, stride=1)
    covered = torch.nn.functional.max_pool2d(whole, 3, stride=1).squeeze(1).bool()
    assert (single & ~covered).sum(dim=(1, 2)).float().mean() > 30  # as random ones aren't


def test_blocks_hide_every_patch_equally_often():
    share = hidden(MaskStrategy("block", 2).draw(20000, (5, 4), 1), (5, 4), 0.5).float().mean(dim=0)
    assert torch.allclose(share, torch.full((5, 4), 0.5), atol=0.06)


def test_blocks_are_a_function_of_the_seed():
    draw = MaskStrategy("block", 2).draw
    assert torch.equal(draw(3, (7, 7), 5), draw(3, (7, 7), 5))
    assert not torch.equal(draw(3, (7, 7), 5), draw(3, (7, 7), 6))
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(draw(3, (7, 7), generator), draw(3, (7, 7), 5))
    assert not torch.equal(draw(3, (7, 7), generator), draw(3, (7, 7), 5))
    assert torch.equal(MaskStrategy("block", 1).draw(3, (7, 7), 5), seeded_noise(3, 49, 5))
    assert [block_side(grid) for grid in ((14, 14), (7, 7), (16, 20), (1, 4))] == [4, 2, 4, 2]
    usual = MaskStrategy("block").draw(3, (16, 20), 5)
    assert torch.equal(usual, MaskStrategy("block", 4).draw(3, (16, 20), 5))


def test_blocks_larger_than_the_grid_still_leave_as_many_visible():
    masks = hidden(MaskStrategy("block", 9).draw(20, (4, 3), 0), (4, 3), 0.75)
    assert masks.sum(dim=(1, 2)).tolist() == [9] * 20


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_strategy": "blocks"}, "mask_strategy is 'blocks'; it must be one of random, block"),
        ({"mask_strategy": "block", "mask_block_size": 0}, "mask_block_size is 0; it must be a po"),
        ({"mask_block_size": 4}, "mask_block_size is 4, which is for a mask_strategy 'block'"),
    ],
)
def test_impossible_masks(fields, message):
    with pytest.raises(ValueError, match=message):
        MAEConfig(**fields)
