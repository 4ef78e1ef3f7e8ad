"""Metadata, and the one place that knows which folder holds which package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# Import name -> folder at the top of the repository.
FOLDERS = {
    "m2f": "m2f",
    "m2f.configuration": "configuration",
    "m2f.image_processing": "image_processing",
    "m2f.modeling_m2f": "modeling_m2f",
}

# The oldest releases that the tests were run with (scripts/test_versions.sh). No upper bounds: to keep one, pip would
# replace the torch or transformers that a user has by an older release.
REQUIREMENTS = [
    "torch>=2.11",
    "transformers>=5.17",
    "accelerate>=1.15",
    "datasets>=5.2",
    "evaluate>=0.4.6",
    "faster-coco-eval>=1.8",
    "huggingface-hub>=1.31",
    "jinja2>=3.1",
    "markupsafe>=3.0",
    "numpy>=2.2",
    "packaging>=24.0",
    "pillow>=12.3",
    "psutil>=7.2",
    "pycocotools>=2.0.11",
    "pyyaml>=6.0",
    "safetensors>=0.8",
    "scipy>=1.15",
    "shtab>=1.13",
    "tqdm>=4.67",
]
EXTRAS = {
    "test": [
        "hypothesis>=6.170",
        "mypy>=2.4",
        # They run the notebooks.
        "ipykernel>=7.3",
        "nbclient>=0.11",
        # They make and run exported graphs.
        "onnx>=1.20",
        "onnxruntime>=1.23",
        "onnxscript>=0.7",
        "openvino>=2026.4",
        # Compiles the CUDA source in the tests, on machines without a GPU too.
        'nvidia-cuda-nvrtc>=13.0; sys_platform == "linux"',
        "parameterized>=0.9",
        # Trains LoRA adapters.
        "peft>=0.21",
        "pytest>=9.2",
        "pytest-xdist>=3.8",
        "ruff>=0.17",
        "setuptools>=70.1",
        "tifffile>=2025.5",
        "types-pyyaml>=6.0",
        # Talks to a browser, where there is one, in which the tests look at the report.
        "websocket-client>=1.9",
    ],
    "dev": ["pre-commit>=4.7"],
    # Compiles the CPU kernels where the machine has no C++ compiler, and those that wheels carry.
    "compiler": ["ziglang>=0.17.1"],
    # LoRA adapters: `m2f train --lora`, and models that have some.
    "peft": ["peft>=0.21"],
    # What `m2f export` writes, and what runs it.
    "onnx": ["onnx>=1.20", "onnxruntime>=1.23", "onnxscript>=0.7"],
    "openvino": ["openvino>=2026.4"],
    # Serves the page of `m2f demo`.
    "demo": ["gradio>=6.0"],
    # Reads TIFF of several bands, which Pillow does not.
    "tiff": ["tifffile>=2025.5"],
    # Programs that m2f is a part of, see docs/integrations.md.
    "cvat": ["cvat-sdk>=2.80"],
    "sahi": ["sahi>=0.12"],
    # Compresses OpenVINO's graphs: `m2f export --compress`.
    "int8": ["nncf>=3.4", "openvino>=2026.4"],
    # Run transformers' model in `m2f bench`, beside ours.
    "bench": ["onnx>=1.20", "onnxruntime>=1.23", "onnxscript>=0.7", "openvino>=2026.4"],
}


def version() -> str:
    # Read, not imported: importing needs torch, which need not be there when a wheel is built.
    text = (ROOT / "m2f" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)[1]


def packages() -> list[str]:
    names = list(FOLDERS)
    for name, folder in FOLDERS.items():
        names += [f"{name}.{sub}" for sub in find_packages(str(ROOT / folder))]
    return names


setup(
    name="m2f",
    version=version(),
    description="Mask2Former for Hugging Face Transformers",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=packages(),
    package_dir=FOLDERS,
    package_data={
        "m2f": ["py.typed"],
        "m2f.modeling_m2f.kernels": ["csrc/*"],
        "m2f.checkpoints": ["nuclei/*.*", "nuclei/card/*"],
    },
    include_package_data=False,
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["m2f = m2f.cli:main"]},
)
