import itertools
import math

import pytest
import torch

from hf_mae.models.functional import (
    baseline_losses,
    masked_losses,
    patch_statistics,
    patchify,
    pixel_target,
    resize_position_table,
    sincos_position_table,
    unpatchify,
)


def test_patchify_against_loops():
    images = torch.randn(2, 3, 8, 12)
    p, q = 4, 3
    expected = torch.empty(2, 2 * 4, p * q * 3)
    for b, row, column in itertools.product(range(2), range(2), range(4)):
        values = [
            images[b, c, row * p + y, column * q + x]
            for y, x, c in itertools.product(range(p), range(q), range(3))
        ]
        expected[b, row * 4 + column] = torch.stack(values)
    assert torch.equal(patchify(images, (p, q)), expected)


@pytest.mark.parametrize(
    ("channels", "size", "patch"),
    [(1, (8, 8), (4, 4)), (12, (16, 8), (8, 2)), (3, (28, 14), (14, 7))],
)
def test_unpatchify_is_the_inverse(channels, size, patch):
    images = torch.randn(2, channels, *size)
    assert torch.equal(unpatchify(patchify(images, patch), patch, size), images)


def test_patch_errors():
    with pytest.raises(ValueError, match="30 x 32 pixels.*8 x 8"):
        patchify(torch.zeros(1, 3, 30, 32), (8, 8))
    with pytest.raises(ValueError, match="15 patches don't make 32 x 32"):
        unpatchify(torch.zeros(1, 15, 192), (8, 8), (32, 32))


def test_sincos_table_against_loops():
    rows, columns, width = 2, 3, 8
    table = sincos_position_table((rows, columns), width)
    assert torch.equal(table[0, 0], torch.zeros(width))
    for row, column in itertools.product(range(rows), range(columns)):
        expected = []
        for position in (column, row):
            angles = [position / 10000 ** (i / 2) for i in range(2)]
            expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        torch.testing.assert_close(table[0, 1 + row * columns + column], torch.tensor(expected))


def test_position_tables_resize_in_two_dimensions():
    # a table that is linear in row and column stays so away from the border; a 1-D resize would mix
    # rows
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="ij")
    table = torch.cat(
        [torch.full((1, 2), 7.0), torch.stack([rows, columns], -1).reshape(-1, 2)]
    ).unsqueeze(0)
    resized = resize_position_table(table, (8, 6), (16, 12))
    assert torch.equal(resized[0, 0], table[0, 0])
    grid = resized[0, 1:].reshape(16, 12, 2)[4:-4, 4:-4]
    expected_rows = (torch.arange(4, 12) + 0.5) / 2 - 0.5
    expected_columns = (torch.arange(4, 8) + 0.5) / 2 - 0.5
    # torch's bicubic (a = -0.75) leaves a line by up to 0.047
    torch.testing.assert_close(grid[..., 0], expected_rows[:, None].expand(8, 4), rtol=0, atol=0.05)
    torch.testing.assert_close(grid[..., 1], expected_columns[None].expand(8, 4), rtol=0, atol=0.05)
    assert resize_position_table(table, (8, 6), (8, 6)) is table


def test_losses_against_loops():
    images = torch.rand(2, 3, 8, 8)
    patches = patchify(images, (4, 4))
    target = pixel_target(patches, norm_pix_loss=True)
    pred, mask = torch.randn_like(patches), torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, 1]])
    total = 0.0
    for b, n in itertools.product(range(2), range(4)):
        if mask[b, n]:
            values = patches[b, n].tolist()
            mean = sum(values) / len(values)
            deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) + 1e-6)
            errors = [
                (p - (v - mean) / deviation) ** 2 for p, v in zip(pred[b, n].tolist(), values)
            ]
            total += sum(errors) / len(errors) / 6
    assert masked_losses(pred, target, mask).mean().item() == pytest.approx(total, rel=1e-5)


def test_targets_of_flat_patches():
    """Borders of scans are one value, or nearly."""
    flat = torch.full((1, 768), 2.64)
    nearly = 2.64 + 2e-3 * torch.randn(
        1, 768
    )  # a deviation near to the 1e-3 that are added under the root
    assert not pixel_target(flat, norm_pix_loss=True).any()
    mean, std = patch_statistics(nearly.double())
    expected = ((nearly.double() - mean) / std).float()
    torch.testing.assert_close(
        pixel_target(nearly, norm_pix_loss=True), expected, rtol=1e-3, atol=1e-3
    )


def test_baselines_against_loops():
    target, mask = torch.randn(3, 6, 5), torch.tensor([[1, 0, 1, 1, 0, 1.0]] * 3)
    visible_mean, best_constant = baseline_losses(target, mask)
    for b in range(3):
        masked, visible = target[b][mask[b] == 1], target[b][mask[b] == 0]
        assert visible_mean[b].item() == pytest.approx(
            (masked - visible.mean(0)).square().mean().item(), rel=1e-5
        )
        assert best_constant[b].item() == pytest.approx(
            (masked - masked.mean(0)).square().mean().item(), rel=1e-5
        )
        for _ in range(20):  # no other constant is better
            other = masked.mean(0) + 0.1 * torch.randn(5)
            assert (masked - other).square().mean() > best_constant[b]
