"""transformers' own tests of models, from its source distribution, for models that aren't its own.

`make peer-tests` unpacks them. What they import of transformers' repository and the distribution
lacks has a stand-in here; nothing of theirs is changed.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sklearn.datasets
from helpers import ROOT
from transformers import __version__
from transformers.models.auto import image_processing_auto, modeling_auto


FOLDER = ROOT / ".venv" / "peer-tests" / f"transformers-{__version__}" / "tests"
_PACKAGE = "transformers_tests"
_PICTURE = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"


def _stand_in(name: str, **members: Any) -> ModuleType:
    module = sys.modules[name] = ModuleType(name)
    vars(module).update(members)
    return module


def load(name: str) -> ModuleType:
    """Imports one of transformers' test files; without them, the caller is skipped."""
    if not FOLDER.is_dir():
        pytest.skip("make peer-tests gets transformers' own tests", allow_module_level=True)
    if _PACKAGE not in sys.modules:
        _make_package()
    return import_module(f"{_PACKAGE}.{name}")


def _make_package() -> None:
    package = sys.modules[_PACKAGE] = ModuleType(_PACKAGE)
    package.__path__ = [str(FOLDER)]
    for module, mixin in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        _stand_in(f"{_PACKAGE}.{module}", **{mixin: type(mixin, (), {})})  # with no tests in it
    fields = {
        "return_dict": False,
        "output_hidden_states": True,
        "dtype": "float16",
        "chunk_size_feed_forward": 5,
        "architectures": ["BertModel"],
        "id2label": {0: "label"},
        "label2id": {"label": "0"},
        "problem_type": "regression",
    }
    _stand_in(f"{_PACKAGE}.utils.test_configuration_utils", config_common_kwargs=fields)
    _stand_in("fetch_hub_objects_for_ci", url_to_local_path=lambda url: str(_PICTURE))
    for name in ("exporters", "generation", "utils"):
        _stand_in(f"{_PACKAGE}.{name}").__path__ = []
    _take_our_place_in_the_tables()


def _take_our_place_in_the_tables() -> None:
    """Where transformers' own models stand: there the tests look up of which kind one is."""
    modeling_auto.MODEL_MAPPING_NAMES["mae"] = "MAEModel"
    modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES["mae"] = "MAEForPreTraining"
    modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES["mae"] = "MAEBackbone"
    classifiers = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    classifiers["mae"] = "MAEForImageClassification"
    processors = {"torchvision": "MAEImageProcessor", "pil": "MAEImageProcessorPil"}
    image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES["mae"] = processors
