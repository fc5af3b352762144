import json
import re
import shutil

import pytest
import timm
import torch
from helpers import GOLDEN, TINY, run_script, script_error
from tiny_models import HEADS, upstream_tensors

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining, MAEModel
from hf_mae.conversion.checkpoint_files import read_checkpoint
from hf_mae.conversion.from_others import FORMATS, CheckpointFormat, convert
from hf_mae.conversion.provenance import output_checksum, same_checksum
from hf_mae.conversion.zoo import ZOO
from hf_mae.models.key_names import FACEBOOK_RENAMES


FILE = f"--checkpoint={GOLDEN / 'facebook_mae.pth'}"
FLAGS = [f"--{name}={heads}" for name, heads in HEADS.items()]
KEYS = sorted((GOLDEN / "mmpretrain_keys").glob("*.tsv"))


@pytest.mark.parametrize("path", KEYS, ids=lambda path: path.stem)
@torch.no_grad()
def test_every_size_at_full_scale(path):
    kind, size = path.stem.split("-", 1)
    names = [
        name
        for name, model in ZOO.items()
        if model.source == "mmpretrain"
        and (model.kind, model.size) == (kind, size.removesuffix("-448px"))
        if (model.image_size == 448) == path.stem.endswith("448px")
    ]
    tensors = upstream_tensors(path)
    conversion = convert(tensors, image_size=ZOO[names[0]].image_size)
    model = conversion.model
    assert conversion.num_source_tensors == len(tensors)
    assert sum(t.numel() for t in model.state_dict().values()) == sum(
        t.numel() for t in tensors.values()
    )
    total = sum(t.double().sum() for t in model.state_dict().values())
    assert total == pytest.approx(sum(t.double().sum() for t in tensors.values()).item(), abs=1e-6)
    assert (
        model.config.num_attention_heads
        == {"base": 12, "large": 16, "huge": 16}[size.split("-")[0]]
    )
    assert output_checksum(model)["mean_absolute"] > 0
    assert names
    for name in names:  # what the table says of it is what the tensors say
        named = convert(tensors, published=ZOO[name]).model
        differing = {
            key
            for key, value in named.config.to_dict().items()
            if getattr(model.config, key, value) != value
        }
        assert differing <= {"id2label", "label2id", "transformers_version"}
        if kind != "pretrain":
            assert named.config.id2label[1] == "goldfish, Carassius auratus"


def test_a_name_that_contradicts_the_tensors():
    tensors = upstream_tensors(GOLDEN / "mmpretrain_keys" / "finetune-base.tsv")
    for name, message in {
        "mae_vit-base-p16_8xb512-amp-coslr-300e_in1k": "the model is "
        "MAEForImageClassification, not MAEForPreTraining",
        "vit-large-p16_mae-400e-pre_8xb128-coslr-50e_in1k": "hidden_size is 768, not 1024, "
        "num_hidden_layers is 12, not 24",
        "vit-base-p16_mae-300e-pre_8xb2048-linear-coslr-90e_in1k": "pooling is mean, not "
        "cls, head_batch_norm is False",
    }.items():
        with pytest.raises(
            ValueError, match=re.escape(f"the tensors are not {name}: ") + ".*" + message
        ):
            convert(tensors, published=ZOO[name])


def test_a_name_that_contradicts_what_was_given():
    tensors = upstream_tensors(GOLDEN / "mmpretrain_keys" / "pretrain-base.tsv")
    published = ZOO["mae_vit-base-p16_8xb512-amp-coslr-300e_in1k"]
    for given, message in {
        ("norm_pix_loss", False): "norm_pix_loss is False, not True",
        ("num_attention_heads", 6): "num_attention_heads is 6, not 12",
        ("layer_norm_eps", 1e-12): "layer_norm_eps is 1e-12, not 1e-06",
    }.items():
        with pytest.raises(ValueError, match=message):
            convert(tensors, published=published, **dict([given]))
    assert convert(tensors, published=published).model.config.norm_pix_loss


def test_every_unused_and_missing_key_is_named():
    tensors, extras = read_checkpoint(GOLDEN / "mmpretrain_mae.pth")
    del tensors["neck.ln1.bias"], tensors["backbone.layers.1.attn.qkv.weight"]
    tensors["neck.surplus"] = tensors["backbone.norm_of_another"] = torch.zeros(1)
    tensors["neck.decoder_pred.bias"] = torch.zeros(7)
    with pytest.raises(
        ValueError, match="the tensors are not those of a MAEForPreTraining; in our names"
    ) as caught:
        convert(tensors, extras, **HEADS)
    for name in (
        "left over: neck.surplus, backbone.norm_of_another",
        "vit.layers.1.attention.q_proj.weight, vit.layers.1.attention.k_proj.weight, "
        "vit.layers.1.attention.v_proj.weight",
        "decoder.decoder_norm.bias",
        "of another shape: decoder.decoder_pred.bias (7,), not (192,)",
    ):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "form", ["bare state dict", "module.", "encoder alone", "encoder without its prefix"]
)
@torch.no_grad()
def test_forms_of_mmpretrains_files(form, tmp_path, golden):
    tensors, _ = read_checkpoint(GOLDEN / "mmpretrain_mae.pth")
    if form == "module.":
        tensors = {f"module.{name}": tensor for name, tensor in tensors.items()}
    elif "encoder" in form:
        prefix = "backbone." if "without" in form else ""
        tensors = {
            name.removeprefix(prefix): t
            for name, t in tensors.items()
            if name.startswith("backbone.")
        }
    torch.save(tensors, tmp_path / "a.pth")
    conversion = convert(*read_checkpoint(tmp_path / "a.pth"), **HEADS)
    golden = golden("mmpretrain_mae")
    if "encoder" in form:
        assert isinstance(conversion.model, MAEModel)
        assert any("no decoder" in note for note in conversion.notes)
        latent = conversion.model(golden["pixel_values"], noise=golden["noise"]).last_hidden_state
        torch.testing.assert_close(latent, golden["latent"], rtol=0, atol=1e-5)
    else:
        pred = conversion.model(golden["pixel_values"], noise=golden["noise"]).logits
        torch.testing.assert_close(pred, golden["pred"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["avg", "token"])
@torch.no_grad()
def test_timm(pool):
    torch.manual_seed(0)
    theirs = timm.create_model(
        "vit_small_patch16_224", num_classes=7, global_pool=pool, img_size=64
    ).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02)
    conversion = convert(theirs.state_dict(), image_size=64)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(conversion.model(images).logits, theirs(images), rtol=0, atol=1e-5)
    assert conversion.model.config.num_attention_heads == 6


@pytest.mark.parametrize(
    ("image_size", "patch_size", "channels"),
    [((64, 32), 8, 3), ((32, 512), 16, 3), ((1024, 128), 16, 1)],
)
@torch.no_grad()
def test_rectangular_models_of_timm(image_size, patch_size, channels):
    """Of 8 x 32 patches, which could be 16 x 16, and of spectrograms, among them."""
    torch.manual_seed(0)
    options = {"img_size": image_size, "patch_size": patch_size, "in_chans": channels}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options).eval()
    images = torch.randn(2, channels, *image_size)
    expected = theirs.forward_features(images)
    for wrong in ({}, {"image_size": (image_size[0] * 2, image_size[1])}):
        with pytest.raises(ValueError, match="the position table has"):
            convert(theirs.state_dict(), **wrong)
    model = convert(theirs.state_dict(), image_size=image_size).model
    torch.testing.assert_close(model(images).last_hidden_state, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("moved", [0.0, 0.1])
@torch.no_grad()
def test_sincos_positions_tell_the_grid(moved):
    """Those of a pre-training, and of fine-tuning that moved them by a tenth."""
    torch.manual_seed(0)
    fields = {**TINY, "image_size": (64, 256), "hidden_size": 192}
    model = MAEForPreTraining(MAEConfig(**fields)).eval()
    table = model.vit.embeddings.position_embeddings
    table[:, 1:] += moved * torch.randn_like(table[:, 1:]) * table[:, 1:].std()
    heads = {name: count for name, count in HEADS.items() if name != "image_size"}
    again = convert(model.state_dict(), **heads, layer_norm_eps=1e-6).model
    assert again.config.grid_size == (8, 32)
    images, noise = torch.randn(1, 3, 64, 256), torch.rand(1, 256)
    assert torch.equal(again(images, noise=noise).logits, model(images, noise=noise).logits)


@torch.no_grad()
def test_the_authors_linear_probe(golden):
    """Their head is Sequential(BatchNorm1d, Linear) on the class token, as mmpretrain's neck and
    head are."""
    ours, extras = read_checkpoint(GOLDEN / "mmpretrain_linear.pth")
    names = {"neck.bn.": "head.0.", "head.layers.head.": "head.1."}
    model = convert(ours, extras, **HEADS).model
    facebook, _ = read_checkpoint(GOLDEN / "facebook_mae_encoder_only.pth")
    heads = {
        new + key.removeprefix(old): t
        for key, t in ours.items()
        for old, new in names.items()
        if key.startswith(old)
    }
    probe = convert({**facebook, **heads}, **HEADS).model
    assert (probe.config.pooling, probe.config.head_batch_norm) == ("cls", True)
    assert torch.equal(probe.batch_norm.running_mean, model.batch_norm.running_mean)
    assert torch.equal(probe.classifier.weight, model.classifier.weight)


def test_what_no_tensor_tells():
    tensors, extras = read_checkpoint(GOLDEN / "mmpretrain_mae.pth")
    with pytest.raises(ValueError, match="num_attention_heads is 0; .*give --num_attention_heads"):
        convert(tensors, extras, image_size=32)
    with pytest.raises(
        ValueError,
        match="48; it must be a multiple of num_attention_heads, which is 5.*give --num_att",
    ):
        convert(tensors, extras, num_attention_heads=5, image_size=32)
    assert any(
        "norm_pix_loss is taken to be true" in note
        for note in convert(tensors, extras, **HEADS).notes
    )
    conversion = convert(tensors, extras, **HEADS, norm_pix_loss=False)
    assert not conversion.notes
    assert not conversion.model.config.norm_pix_loss
    extras["meta"]["cfg"] = (
        "model = dict(head=dict(type='MAEPretrainHead', norm_pix=False, patch_size=8))"
    )
    assert not convert(tensors, extras, **HEADS).model.config.norm_pix_loss


def test_class_names_of_mmengine():
    tensors, extras = read_checkpoint(GOLDEN / "mmpretrain_finetune.pth")
    names = [f"kind {i}" for i in range(10)]
    extras["meta"]["dataset_meta"] = {"classes": tuple(names)}
    assert (
        list(
            convert(
                tensors, extras, num_attention_heads=3, image_size=32
            ).model.config.id2label.values()
        )
        == names
    )
    extras["meta"]["dataset_meta"] = {"classes": [*names[:8], "crane", "crane"]}
    unique = convert(tensors, extras, num_attention_heads=3, image_size=32).model.config
    assert list(unique.id2label.values()) == [*names[:8], "crane (8)", "crane (9)"]
    assert unique.label2id["crane (9)"] == 9
    extras["meta"]["dataset_meta"] = {"classes": names[:9]}
    conversion = convert(tensors, extras, num_attention_heads=3, image_size=32)
    assert conversion.model.config.id2label[0] == "LABEL_0"
    assert any(
        "the 9 class names in the file or beside it are left out" in note
        for note in conversion.notes
    )
    for nothing in (None, 3, {}, {"classes": None}):
        extras["meta"]["dataset_meta"] = nothing
        assert (
            convert(tensors, extras, num_attention_heads=3, image_size=32).model.config.id2label[0]
            == "LABEL_0"
        )


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"conv1.weight": torch.zeros(3)},
            r"the keys \(conv1\.weight, …\) are none of a Vision Transformer of mmpretrain",
        ),
        (
            {"patch_embed.proj.weight": torch.zeros(48, 3, 8, 8)},
            "a tensor is missing, in our names vit",
        ),
        ({"net.patch_embed.proj.weight": torch.zeros(48, 3, 8, 8)}, "the keys start with 'net.'"),
    ],
)
def test_other_tensors(tensors, message):
    with pytest.raises(ValueError, match=message):
        convert(tensors)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"patch_embed.proj.weight": torch.zeros(48, 192)},
            r"projection\.weight, is \(48, 192\); it must have 4",
        ),
        (
            {"pos_embed": torch.zeros(48)},
            r"position_embeddings, is \(48,\); it must have 3 dimensions",
        ),
        (
            {"pos_embed": torch.zeros(1, 0, 48)},
            r"position_embeddings, is \(1, 0, 48\); it must have 3 dimensions",
        ),
        (
            {"decoder_pos_embed": torch.zeros(17, 32)},
            r"of another shape: decoder\.decoder_pos_embed \(17, 32\), not",
        ),
        ({"mask_token": torch.zeros(32)}, r"mask_token, is \(32,\); it must have 3 dimensions"),
        (
            {"norm.weight": torch.zeros(48).to_sparse()},
            r"tensors are sparse, without data or not.* norm\.weight",
        ),
        (
            {"norm.weight": torch.zeros(48, device="meta")},
            "tensors are sparse, without data or not of a floating-point",
        ),
        (
            {"norm.weight": torch.zeros(48, dtype=torch.int8)},
            "tensors are sparse, without data or not of a floating-point",
        ),
        (
            {"norm.weight": torch.full((48,), torch.nan)},
            r"values that are not finite: norm\.weight",
        ),
        (
            {"blocks.0.attn.qkv.bias": torch.tensor(1.0)},
            r"left over: vit\.layers\.0\.attention\.qkv\.bias",
        ),
        (
            {"blocks.0.attn.qkv.bias": torch.zeros(144).to_sparse()},
            "tensors are sparse, without data",
        ),
        (
            {"blocks.9999999.norm1.weight": torch.zeros(48)},
            r"left over: vit\.layers\.9999999\.layernorm_before",
        ),
        (
            {"blocks.0.attn.qkv.weight": torch.zeros(2, 2)},
            "of another shape: vit.layers.0.attention.q_proj.weight",
        ),
        ({"blocks.x.attn.qkv.weight": torch.zeros(2, 2)}, r"left over: vit\.layers\.x\.attention"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_odd_tensors(tensors, message):
    whole, _ = read_checkpoint(GOLDEN / "facebook_mae.pth")
    with pytest.raises(ValueError, match=message):
        convert(whole | tensors, **HEADS)


def test_a_further_code_base_is_a_table_of_names_and_a_row(monkeypatch):
    theirs, _ = read_checkpoint(GOLDEN / "facebook_mae.pth")
    others = {name.replace("patch_embed.proj", "stem.conv"): t for name, t in theirs.items()}
    with pytest.raises(ValueError, match=r"are none of a Vision Transformer of mmpretrain"):
        convert(others, **HEADS)
    renames = {r"^stem\.conv\.": "patch_embed.proj.", **FACEBOOK_RENAMES}
    row = CheckpointFormat(name="others", patch_key="stem.conv.weight", prefix="", renames=renames)
    monkeypatch.setattr("hf_mae.conversion.from_others.FORMATS", [*FORMATS, row])
    conversion = convert(others, **HEADS)
    assert conversion.format == "others"
    known = convert(theirs, **HEADS)
    assert same_checksum(output_checksum(known.model), output_checksum(conversion.model))


def test_timms_poolings_cannot_be_told_apart():
    theirs = timm.create_model("vit_small_patch16_224", num_classes=7, img_size=32)
    assert any(
        "the head is taken to be on the class token" in note
        for note in convert(theirs.state_dict(), image_size=32).notes
    )


def test_half_precision_becomes_single():
    tensors, extras = read_checkpoint(GOLDEN / "mmpretrain_finetune.pth")
    model = convert(
        {k: t.half() for k, t in tensors.items()}, extras, num_attention_heads=3, image_size=32
    ).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_script(tmp_path):
    """A file alone; then the folder is a model like any other, whose provenance can be repeated."""
    flags = [
        "--num_attention_heads=3",
        "--decoder_num_attention_heads=4",
        "--image_size=32",
        f"--output_dir={tmp_path / 'mae'}",
    ]
    printed = run_script(
        "convert_checkpoint.py", f"--checkpoint={GOLDEN / 'facebook_mae.pth'}", *flags
    )
    assert "MAEForPreTraining, 94 tensors, 128,992 parameters" in printed
    provenance = json.loads((tmp_path / "mae" / "conversion.json").read_text())
    assert (provenance["source_tensors"], provenance["tensors"], provenance["parameters"]) == (
        74,
        94,
        128992,
    )
    assert provenance["source_sha256"] in printed
    model = MAEForPreTraining.from_pretrained(tmp_path / "mae")
    assert same_checksum(provenance["outputs"], output_checksum(model))
    with torch.no_grad():
        model.vit.layers[1].mlp.fc1.weight[0, 0] += 5
    assert not same_checksum(provenance["outputs"], output_checksum(model))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--name=mae-vit-giant"], "no published model is called 'mae-vit-giant'"),
        (
            ["--name=mae-vit-base", f"--checkpoint={GOLDEN / 'mmpretrain_mae.pth'}"],
            "its sha256 starts with 744e5194, not",
        ),
        (
            ["--name=vit-base-p16-mae-300e-in1k"],
            "no file of vit-base.* was published, results only; train it with scripts/",
        ),
        (["--checkpoint=nothing.pth"], "there is no file nothing.pth"),
        ([], "give --output_dir, and --name or --checkpoint"),
        (
            [f"--output_dir={GOLDEN / 'models.tsv'}", "--name=mae-vit-base"],
            "models.tsv is a file; it must be a folder",
        ),
        (
            [f"--output_dir={GOLDEN / 'facebook_mae.pth' / 'under'}", FILE, *FLAGS],
            "Not a directory",
        ),
    ],
)
def test_scripts_errors_are_one_line(flags, message, tmp_path):
    assert re.search(
        message, script_error("convert_checkpoint.py", f"--output_dir={tmp_path / 'out'}", *flags)
    )
    assert not (tmp_path / "out").exists()


def test_a_published_row_end_to_end(tmp_path):
    """A row without a published file takes anybody's of the right shape, with ImageNet's class
    names."""
    tensors = upstream_tensors(GOLDEN / "mmpretrain_keys" / "finetune-base.tsv")
    torch.save(
        {"meta": {}, "state_dict": {k: t.clone() for k, t in tensors.items()}}, tmp_path / "a.pth"
    )
    flags = [f"--checkpoint={tmp_path / 'a.pth'}", f"--output_dir={tmp_path / 'out'}"]
    run_script("convert_checkpoint.py", "--name=vit-base-p16-mae-300e-in1k", *flags)
    model = MAEForImageClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label[0] == "tench, Tinca tinca"
    provenance = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert provenance["name"] == "vit-base-p16_mae-300e-pre_8xb128-coslr-100e_in1k"
    assert same_checksum(provenance["outputs"], output_checksum(model))


def test_a_damaged_config_json_is_named(tmp_path):
    shutil.copy(GOLDEN / "facebook_mae.pth", tmp_path)
    (tmp_path / "config.json").write_text("{")
    flags = [f"--checkpoint={tmp_path / 'facebook_mae.pth'}", f"--output_dir={tmp_path / 'out'}"]
    assert "config.json, which says what no tensor tells, is damaged" in script_error(
        "convert_checkpoint.py", *flags
    )


@pytest.mark.slow
def test_huge_fits_in_memory(tmp_path):
    """Converting takes at most 2.5 times the file's size."""
    import resource

    tensors = upstream_tensors(GOLDEN / "mmpretrain_keys" / "pretrain-huge.tsv")
    torch.save(
        {"state_dict": {name: tensor.clone() for name, tensor in tensors.items()}},
        tmp_path / "huge.pth",
    )
    run_script(
        "convert_checkpoint.py",
        f"--checkpoint={tmp_path / 'huge.pth'}",
        "--image_size=224",
        f"--output_dir={tmp_path / 'out'}",
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak < 2.5 * (tmp_path / "huge.pth").stat().st_size


def test_configurations_of_published_models():
    assert ZOO["vit-huge-p14_mae-1600e-pre_32xb8-coslr-50e_in1k-448px"].config.grid_size == (32, 32)
    assert isinstance(ZOO["mae_visualize_vit_large"].config, MAEConfig)
