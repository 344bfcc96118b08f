"""Take the backbone out of a fine-tuned detector or segmenter: as a search writes it, as ONNX, as TorchScript."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_plugin.tools.exit_codes import user_errors_exit_2


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="export.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="checkpoint of a fine-tuned model, of any framework")
    source.add_argument("--backbone", type=Path, help="folder of a searched or exported backbone")
    parser.add_argument("--arch", help="architecture that the backbone must have, such as d3-2-17-3_w32-48-96-192-512")
    parser.add_argument("--out", required=True, type=Path, help="output folder")
    parser.add_argument("--onnx", action="store_true", help="write backbone.onnx too, for images of any size")
    parser.add_argument("--torchscript", action="store_true", help="write backbone.torchscript.pt too")
    arguments = parser.parse_args(argv)

    from data_plugin.backbones.data_resnet import DATAResNet
    from data_plugin.frameworks.finetuned_backbone import load_finetuned_backbone
    from data_plugin.space import cost
    from data_plugin.space.arch import Arch
    from data_plugin.supernet.backbone_files import save_backbone
    from data_plugin.supernet.export import export_onnx, export_torchscript
    from data_plugin.utils.errors import UserError

    if arguments.checkpoint:
        network = load_finetuned_backbone(arguments.checkpoint)
    else:
        network = DATAResNet.from_pretrained(arguments.backbone)
    if arguments.arch and Arch.parse(arguments.arch) != network.arch:
        raise UserError(f"the backbone is {network.arch}; expected {arguments.arch}, which --arch asks for")
    if arguments.onnx:
        export_onnx(network, arguments.out / "backbone.onnx")
    if arguments.torchscript:
        export_torchscript(network, arguments.out / "backbone.torchscript.pt")
    save_backbone(arguments.out, network)
    costs = f"{cost.flops(network.arch) / 1e9:.3f} GFLOPs, {cost.params(network.arch) / 1e6:.2f} M parameters"
    print(f"{network.arch}: {costs}\n" + "\n".join(str(path) for path in sorted(arguments.out.iterdir())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
