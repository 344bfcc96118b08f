"""Search a supernet for the backbone that fits a detector's data, task and budget best."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.tools.search_config_cli import add_config_search_arguments, search_and_print


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    parser = argparse.ArgumentParser(prog="search_det.py", description=__doc__)
    add_config_search_arguments(parser, "detection", example="faster_rcnn_c4_voc")
    search_and_print(parser.parse_args(argv), "detection", finetune="finetune_det")
    return 0


if __name__ == "__main__":
    sys.exit(main())
