"""Compare two searches of one supernet: do two data sets, or two sets of taps, rank its networks alike?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_plugin.tools.exit_codes import user_errors_exit_2


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    parser = argparse.ArgumentParser(prog="compare_searches.py", description=__doc__)
    parser.add_argument("first", type=Path, help="output folder of a search")
    parser.add_argument("second", type=Path, help="output folder of another search of the same supernet")
    parser.add_argument("--top", type=int, default=10, help="closest networks whose overlap is counted (default: 10)")
    arguments = parser.parse_args(argv)

    from data_plugin.search.agreement import compare_searches
    from data_plugin.search.report.search_report import SearchReport

    first, second = SearchReport.read(arguments.first), SearchReport.read(arguments.second)
    for folder, search in ((arguments.first, first), (arguments.second, second)):
        taps, images = ", ".join(search.taps), len(search.images.names)
        print(f"{folder}: {search.config} on {images} images of {search.data_root} at {taps}")
    agreements = compare_searches(first, second, top=arguments.top)
    for found in agreements:
        print(f"\n{found.budget or 'all networks'}: {found.common} in common")
        print(f"  Spearman correlation  {found.spearman:.3f}")
        by_chance = found.top**2 / found.common
        print(f"  top {found.top} in common      {found.overlap} ({by_chance:.1f} by chance)")
        sides = (("first ", "second"), ("second", "first"))
        for winner, rank, (side, other) in zip(found.winners, found.ranks, sides, strict=True):
            print(f"  closest in the {side} {winner}, number {rank} in the {other}")
    compared = {found.budget for found in agreements}
    for budget in first.budgets:
        if budget in second.budgets and budget not in compared:
            print(f"\n{budget}: fewer than 3 networks in common")
    return 0


if __name__ == "__main__":
    sys.exit(main())
