import pytest
from helpers import TINY
from transformers import AutoConfig, ViTMAEConfig

from hf_mae import MAEConfig
from hf_mae.models.configuration_mae import SIZES


def test_field_names_are_those_of_transformers():
    ours, theirs = MAEConfig().to_dict(), ViTMAEConfig().to_dict()
    added = {"drop_path_rate", "pooling", "final_norm", "head_batch_norm"}
    added |= {"simple_feature_pyramid", "mask_strategy", "mask_block_size"}
    added |= {"decoder_type", "decoder_layer_mixing", "prediction_ratio"}
    assert set(ours) - set(theirs) == added
    assert set(theirs) <= set(ours)
    assert ours["layer_norm_eps"] == 1e-6


@pytest.mark.parametrize(
    ("size", "width", "depth", "heads", "patch"),
    [
        ("tiny", 192, 12, 3, 16),
        ("small", 384, 12, 6, 16),
        ("base", 768, 12, 12, 16),
        ("large", 1024, 24, 16, 16),
        ("huge", 1280, 32, 16, 14),
    ],
)
def test_sizes(size, width, depth, heads, patch):
    config = MAEConfig.from_size(size)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (
        width,
        depth,
        heads,
    )
    assert config.patch_size == patch
    assert config.intermediate_size == 4 * width


def test_overrides_win_over_the_size():
    config = MAEConfig.from_size("huge", patch_size=16, image_size=(224, 448))
    assert config.grid_size == (14, 28)
    assert config.num_patches == 392


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 225),
        ("image_size", (224, 225)),
        ("image_size", 0),
        ("image_size", (1, 2, 3)),
        ("image_size", "224"),
        ("patch_size", 15),
        ("patch_size", -16),
        ("hidden_size", 770),
        ("hidden_size", 0),
        ("num_attention_heads", 7),
        ("decoder_hidden_size", 500),
        ("decoder_num_attention_heads", 7),
        ("num_hidden_layers", 0),
        ("num_channels", 0),
        ("num_channels", True),
        ("mask_ratio", 1.0),
        ("mask_ratio", -0.1),
        ("mask_ratio", float("nan")),
        ("drop_path_rate", 1.0),
        ("hidden_dropout_prob", 2),
        ("layer_norm_eps", 0),
        ("initializer_range", -1),
        ("hidden_act", "gelo"),
        ("pooling", "max"),
        ("norm_pix_loss", "yes"),
    ],
)
def test_impossible_values_name_field_and_value(field, value):
    shown = value[1] if isinstance(value, tuple) and len(value) == 2 else value
    with pytest.raises(ValueError, match=r"\b" + field) as error:
        MAEConfig(**{field: value})
    assert str(shown) in str(error.value)


def test_width_must_divide_by_four():
    with pytest.raises(ValueError, match="hidden_size is 42; it must be a multiple of 4"):
        MAEConfig(**{**TINY, "hidden_size": 42})


def test_unknown_names():
    with pytest.raises(ValueError, match="'giant'.*tiny, small, base, large, huge"):
        MAEConfig.from_size("giant")
    with pytest.raises(ValueError, match="no field 'hiden_size'"):
        MAEConfig.from_size("tiny", hiden_size=3)


def test_round_trip(tmp_path):
    config = MAEConfig.from_size(
        "tiny", image_size=(64, 96), patch_size=(8, 16), num_channels=12, pooling="cls"
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is MAEConfig
    assert loaded.to_json_string() == config.to_json_string()
    assert loaded.grid_size == (8, 6)


def test_sizes_hold_only_fields():
    assert all(hasattr(MAEConfig, field) for size in SIZES.values() for field in size)
