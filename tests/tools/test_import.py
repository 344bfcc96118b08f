"""Data sets that a user wrote, in a module that ``--import`` names."""

import json
import re
import sys
from pathlib import Path

import pytest
from samples import SMALL_C4, random_supernet_file

from data_plugin.frameworks.registry import DETECTRON2, MMDET
from data_plugin.images.voc import CLASSES
from data_plugin.tools import finetune_det, search_det

OWN_DATA_SET = {
    "detectron2": """
from functools import partial
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_voc_instances

NAMES = {classes}
for split in ("trainval", "test"):
    DatasetCatalog.register(f"{name}_{{split}}", partial(load_voc_instances, {folder!r}, split, NAMES))
    MetadataCatalog.get(f"{name}_{{split}}").set(
        thing_classes=NAMES, dirname={folder!r}, split=split, year=2007, evaluator_type="pascal_voc"
    )
""",
    "mmdet": """
from mmdet.datasets import VOCDataset
from mmdet.registry import DATASETS


@DATASETS.register_module()
class {name}(VOCDataset):
    pass
""",
}
NAMES = {
    "detectron2": lambda name: [f"DATASETS.TRAIN=('{name}_trainval',)", f"DATASETS.TEST=('{name}_test',)"],
    "mmdet": lambda name: [
        f"train_dataloader.dataset.datasets.0.type={name}",
        f"val_dataloader.dataset.type={name}",
        f"test_dataloader.dataset.type={name}",
    ],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory, which leaves no trace in ``sys.path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TRAINING DATA IS NOT")
@pytest.mark.parametrize("chosen", [MMDET, DETECTRON2], ids=lambda framework: framework.name)
def test_a_data_set_that_a_user_wrote_is_searched_and_fine_tuned_on(chosen, drawn_voc, here: Path, capsys):
    pytest.importorskip(chosen.name, reason=f"{chosen.name} is not installed")
    name = f"own_{chosen.name}"
    classes = list(CLASSES)
    module = OWN_DATA_SET[chosen.name].format(name=name, folder=str(drawn_voc / "VOC2007"), classes=classes)
    (here / f"module_{name}.py").write_text(module)
    supernet = random_supernet_file(here / "supernet.safetensors")
    root = ["--data-root", str(drawn_voc)] if chosen is MMDET else []
    common = ["--framework", chosen.name, "--import", f"module_{name}", *root]
    options = ["--opts", *SMALL_C4[chosen.name], *NAMES[chosen.name](name)]
    search = ["--config", "faster_rcnn_c4_voc", "--supernet", str(supernet), "--out", "search", *common]
    assert search_det.main([*search, "--group", "0-1", "--samples", "2", "--image-count", "2", *options]) == 0
    assert f"--import module_{name} " in capsys.readouterr().out

    (winner,) = json.loads(Path("search/search.json").read_text())["winners"]
    config = Path("search", winner["folder"], f"faster_rcnn_c4_voc{chosen.configs.ending}")
    assert name in config.read_text()
    if chosen is MMDET:
        imports = re.search(r"imports=\[(.*?)\]", config.read_text(), re.DOTALL)
        assert imports is not None
        assert f"'module_{name}'" in imports[1]
    assert finetune_det.main(["--config", str(config), "--out", "detector", *common]) == 0
    assert {"AP", "AP50", "AP75"} <= set(json.loads(Path("detector/metrics.json").read_text()))


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        ("no_such_module_of_mine", None, "ModuleNotFoundError: No module named 'no_such_module_of_mine'"),
        ("broken_module_of_mine", "1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(module, text, message, here: Path, capsys):
    if text is not None:
        (here / f"{module}.py").write_text(text)
    for tool in (search_det, finetune_det):
        arguments = ["--config", "faster_rcnn_c4_voc", "--out", "out", "--import", module]
        assert tool.main(arguments) == 2
        (error,) = capsys.readouterr().err.strip().splitlines()
        assert f"the module {module!r} of --import cannot be imported ({message})" in error
    assert not Path("out").exists()
