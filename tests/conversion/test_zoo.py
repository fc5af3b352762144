import csv

import pytest
from helpers import GOLDEN, ROOT

from hf_mae.conversion.zoo import KINDS, SOURCES, ZOO, published_model


with (GOLDEN / "models.tsv").open() as lines:
    ROWS = list(csv.DictReader(lines, delimiter="\t"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_mmpretrains_table(row):
    model = ZOO[row["name"]]
    assert (model.source, model.kind) == ("mmpretrain", row["kind"])
    assert (model.url or "") == row["weights_url"]
    assert (f"{model.top1:.2f}" if model.top1 else "") == row["top1"]
    below = ZOO[model.starts_from].url.rsplit("/", 1)[1] if model.starts_from else ""
    assert below == row["starts_from_weights_file"]
    if model.url:
        assert row["weights_url"].endswith(f"-{model.digest.removeprefix('sha256:')}.pth")
    # its name says the patch 16 of ViT-Huge's pre-training, its configuration file 14
    assert (
        model.config.hidden_size
        == {"base": 768, "large": 1024, "huge": 1280}[row["name"].split("-")[1]]
    )
    assert f"-p{model.config.patch_size}_" in row["config"].replace("benchmarks/", "")


def test_the_table_is_whole():
    assert [model.name for model in ZOO.values() if model.source == "mmpretrain"] == [
        row["name"] for row in ROWS
    ]
    assert sum(model.source == "facebookresearch" for model in ZOO.values()) == 12
    assert len({model.hub_name for model in ZOO.values()}) == len(ZOO)
    for model in ZOO.values():
        assert model.kind in KINDS
        assert model.source in SOURCES
        assert (
            model.recipe is None
            or (ROOT / "scripts" / "recipes" / f"{model.recipe}.yaml").is_file()
        )
        assert (model.kind == "pretrain") == (model.starts_from is None)


def test_the_authors_models():
    encoder, full, pixels, finetuned = (
        ZOO[name]
        for name in (
            *("mae_pretrain_vit_huge", "mae_pretrain_vit_huge_full", "mae_visualize_vit_huge"),
            "mae_finetuned_vit_huge",
        )
    )
    assert [m.architecture for m in (encoder, full, pixels)] == [
        "MAEModel",
        "MAEForPreTraining",
        "MAEForPreTraining",
    ]
    assert [m.config.norm_pix_loss for m in (encoder, full, pixels)] == [True, True, False]
    assert (finetuned.top1, finetuned.digest, finetuned.license) == (
        86.928,
        "md5:2541f2",
        "cc-by-nc-4.0",
    )


def test_names():
    assert published_model("mae-vit-huge") is published_model(
        "mae_vit-huge-p16_8xb512-amp-coslr-1600e_in1k"
    )
    assert published_model("vit-huge-p14-mae-in1k").top1 == 86.90
    with pytest.raises(
        ValueError, match="no published model is called 'resnet-50'; there are mae-vit-base-300e, "
    ):
        published_model("resnet-50")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mae-vit-bse", "mae-vit-base"),
        ("mae-vit-hug", "mae-vit-huge"),
        ("MAE-ViT-Large", "mae-vit-large"),
        ("vit-base-p16-mae-in1kk", "vit-base-p16-mae-in1k"),
        ("mae_vit-huge-p16_8xb512-amp-coslr-1600e", "mae_vit-huge-p16_8xb512-amp-coslr-1600e_in1k"),
    ],
)
def test_names_that_are_misspelt(name, nearest):
    message = f"no published model is called '{name}'; did you mean {nearest}[ ?].*--list shows all"
    with pytest.raises(ValueError, match=message):
        published_model(name)
