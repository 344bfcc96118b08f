"""Fine-tune networks of a finished search alike: does the search rank them as your detector does?"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.tools.import_argument import add_import_argument, import_modules
from data_plugin.tools.number_arguments import iterations, part, whole
from data_plugin.tools.quiet_lightning import quiet_lightning
from data_plugin.utils.errors import UserError

if TYPE_CHECKING:
    from data_plugin.frameworks.finetuned import Finetuned


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="rank_check.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--search", required=True, type=Path, help="output folder of a finished search")
    parser.add_argument(
        "--finetune",
        required=True,
        type=iterations,
        metavar="N",
        help="length of every training, enough that the networks differ: iterations, the config's schedule in "
        "proportion, and epochs for classification",
    )
    parser.add_argument("--train", type=Path, help="for classification: folder with a sub-folder of images a class")
    parser.add_argument("--val", type=Path, help="for classification: the same for measuring accuracy")
    parser.add_argument(
        "--labels",
        type=part,
        metavar="PERCENT",
        help="for classification: part of every class that is trained on, at least one image (default: 100%%)",
    )
    parser.add_argument("--networks", type=_networks, default=16, help="networks of every budget")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the trainings of every network")
    parser.add_argument(
        "--repeat",
        type=_networks,
        metavar="NETWORKS",
        help="networks of every budget that are trained with each seed, the others with the first alone (default: all)",
    )
    parser.add_argument("--budget", nargs="+", help="budgets of the search by their names (default: all)")
    add_import_argument(parser)
    parser.add_argument("--resume", action="store_true", help="go on with what an earlier check of the search has left")
    parser.add_argument("--dry-run", action="store_true", help="say what would be fine-tuned, and stop")
    arguments = parser.parse_args(argv)

    from data_plugin.ranking.classified import LabelledImages
    from data_plugin.ranking.rank_check import FOLDER, RANKING, check_ranking, plan_rank_check
    from data_plugin.search.found import Search
    from data_plugin.search.report.terminal import rank_report

    quiet_lightning()
    import_modules(arguments.imports)
    given = [each for each in (arguments.train, arguments.val, arguments.labels) if each is not None]
    if given and (arguments.train is None or arguments.val is None):
        raise UserError("for classification --train and --val are needed, each a folder of labelled images")
    labelled = LabelledImages(arguments.train, arguments.val, arguments.labels or 1.0) if given else None
    search = Search.read(arguments.search)
    plan = plan_rank_check(search.report, arguments.budget, arguments.networks, arguments.seeds, arguments.repeat)
    for budget, archs in plan.networks.items():
        print(f"{budget}: {len(archs)} networks, {', '.join(map(str, archs))}")
    count = len(plan.trainings)
    print(
        f"fine-tunes {count} times for {arguments.finetune} {'epochs' if labelled else 'iterations'}, with the "
        f"{'seeds' if len(plan.seeds) > 1 else 'seed'} {' '.join(map(str, plan.seeds))}, below {search.out / FOLDER}",
        flush=True,
    )
    if arguments.dry_run:
        return 0
    found = check_ranking(
        search, plan, arguments.finetune, labelled=labelled, resume=arguments.resume, done=_progress(count)
    )
    print(f"\n{rank_report(found.report)}\n\n{found.out / RANKING}\nreport: {found.out / 'report.html'}")
    return 0


def _progress(count: int) -> Callable[[Finetuned], None]:
    """Prints every training that is done, and how long the others will take if each takes as long as the last."""
    finished, last = 0, time.monotonic()

    def done(finetuned: Finetuned) -> None:
        nonlocal finished, last
        finished += 1
        took, last = time.monotonic() - last, time.monotonic()
        metrics = "  ".join(f"{name} {value:.1f}" for name, value in finetuned.metrics.items())
        left = f"{took * (count - finished) / 60:.0f} min left at this pace"
        print(f"{finished} of {count}, {finetuned.arch}, seed {finetuned.seed}: {metrics}; {left}", flush=True)

    return done


def _networks(text: str) -> int:
    return whole(text, least=1, expected="a number of networks")


if __name__ == "__main__":
    sys.exit(main())
