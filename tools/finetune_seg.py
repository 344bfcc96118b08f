"""Fine-tune a segmenter on a searched backbone with its framework's own trainer and evaluator."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.tools.finetune_cli import add_finetune_arguments, finetune_and_print


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    parser = argparse.ArgumentParser(prog="finetune_seg.py", description=__doc__)
    add_finetune_arguments(parser, "segmentation")
    finetune_and_print(parser.parse_args(argv), "segmentation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
