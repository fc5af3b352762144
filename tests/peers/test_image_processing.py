"""Our image processors under transformers' own tests of image processors."""

import subprocess
import sys
import unittest
from typing import Any, ClassVar

import pytest
from helpers import ROOT
from upstream import load

from hf_mae import MAEImageProcessor, MAEImageProcessorPil


common = load("test_image_processing_common")


class ProcessorTester(common.ImageProcessingTester):
    size: ClassVar[dict[str, int]] = {"shortest_edge": 20}
    crop_size: ClassVar[dict[str, int]] = {"height": 18, "width": 18}

    def __init__(self, parent: Any, **options: Any):
        options.setdefault("size", self.size)
        options.setdefault("crop_size", self.crop_size)
        super().__init__(parent, **options)

    def _get_image_processing_classes(self) -> dict[str, type]:
        # theirs finds them by the folder that the test lies in
        return {"torchvision": MAEImageProcessor, "pil": MAEImageProcessorPil}


class TestImageProcessors(common.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ProcessorTester

    @pytest.mark.slow
    def test_pil_can_run_without_torchvision(self):
        # theirs starts a process that imports transformers alone, which doesn't know our classes
        script = (
            "import sys; sys.modules['torchvision'] = None\n"
            "import numpy as np\n"
            "from hf_mae import MAEImageProcessor, MAEImageProcessorPil\n"
            "assert MAEImageProcessor is MAEImageProcessorPil\n"
            "image = np.zeros((40, 30, 3), np.uint8)\n"
            "print(MAEImageProcessor()(image).pixel_values[0].shape)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
        )
        assert done.stdout.strip() == "(3, 224, 224)", done.stderr
