"""Others may read what training, converting and exporting write, as the umask has it."""

import os

import pytest
from helpers import TINY

from hf_mae import MAEConfig, MAEForPreTraining, MAEImageProcessor
from hf_mae.conversion.to_transformers import export


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_files_of_models_have_the_permissions_of_other_new_files(umask, mode, tmp_path):
    config = MAEConfig(**TINY)
    model, processor = MAEForPreTraining(config), MAEImageProcessor.from_model_config(config)
    before = os.umask(umask)
    try:
        model.save_pretrained(tmp_path / "own", max_shard_size="200KB")
        export(model, processor, tmp_path / "native")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.suffix == ".safetensors" for path in files) > 3
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {
        path.name: mode for path in files
    }
