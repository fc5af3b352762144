from pathlib import Path

from setuptools import find_packages, setup


setup(
    name="hf-mae",
    version="0.2.0",
    description="Masked Autoencoders for the Hugging Face ecosystem: pre-train, fine-tune, "
    "convert and publish",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["hf_mae", "hf_mae.*"]),
    package_data={"hf_mae": ["py.typed", "conversion/*.csv", "hub/templates/*.md"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "numpy>=2.1",
        "transformers>=5.17,<6",
        "accelerate>=1.15",
        "datasets>=5.0",
        "pyarrow>=24.0",  # prepared sets, and answers for many images
        "evaluate>=0.4.6",
        "safetensors>=0.8",
        "huggingface_hub>=1.5",
        "pillow>=12.0",
        "timm>=1.0.20",
        "scikit-learn>=1.7",  # the embedded digits
        "scipy>=1.15",  # confidence intervals
        "matplotlib>=3.10",  # panels
        "tensorboard>=2.20",  # training curves
        "pyyaml>=6.0",  # recipes
        "jinja2>=3.1",  # model cards
        "filelock>=4.0",  # one run at a time writes a folder
        "fsspec>=2025.3",  # images inside archives
        "psutil>=7.0",  # memory of benchmarks, and launchers that are gone
        "tqdm>=4.67",
        "xxhash>=3.5",  # what checkpoints hold
    ],
    extras_require={
        # decodes just the crop of a JPEG; CPU only, no GPU or CUDA is needed
        "fast": ["nvidia-nvimgcodec-cu13>=0.9 ; platform_system in 'Linux Windows'"],
        # --decode_device cuda
        "gpu-decoding": [
            "nvidia-nvimgcodec-cu13[nvjpeg]>=0.9 ; platform_system in 'Linux Windows'"
        ],
        # bands and depths that PIL has no mode for, in TIFF and PNG files; and DICOM
        "scientific": ["tifffile>=2025.5", "imagecodecs>=2025.3", "pydicom>=3.0"],
        "heif": ["pillow-heif>=1.1"],  # photographs of phones
        "search": ["faiss-cpu>=1.13"],  # scripts/extract_features.py --index
        "app": ["gradio>=6.0"],  # scripts/app.py
        # scripts/export.py --to onnx
        "onnx": ["onnx>=1.23", "onnxruntime>=1.32", "onnxscript>=0.7"],
        "docs": ["mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"],  # make docs
        "test": [
            "hf-mae[docs,heif,onnx,scientific,search]",
            "hypothesis>=6.150",  # flags, recipes and folders that nobody would write
            "ipykernel>=7.0",  # runs the notebook
            "nbclient>=0.10",
            "nbformat>=5.10",
            "optuna>=5.0",  # hyperparameter_search
            "parameterized>=0.9",  # transformers' own tests of models
            "peft>=0.21",  # adapters on our models
            "playwright>=1.50",  # drives a browser, which is Debian's chromium
            "pyright[nodejs]>=1.1.414",
            "pytest>=9.0",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            "setuptools>=77",  # builds the wheel that is tested
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
