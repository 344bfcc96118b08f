"""A finished search in a notebook or a script: its winners, with weights, ready for any training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.frameworks.framework import Framework
from data_plugin.frameworks.registry import FRAMEWORKS
from data_plugin.frameworks.run import run_finetune
from data_plugin.search.report import words
from data_plugin.search.report.search_report import SearchReport, Winner
from data_plugin.search.report.terminal import terminal_report
from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.facts_table import facts_table


def framework_of(report: SearchReport) -> Framework:
    """The framework that a search was for.

    Raises:
        UserError: if it was for classification, which is for none.
    """
    found = next((each for each in FRAMEWORKS if each.name == report.framework), None)
    if found is None:
        raise UserError(
            f"{report.config} was searched for classification, where no framework fine-tunes; measure networks with "
            "data-evaluate, or train a winner's backbone() in a loop of your own"
        )
    return found


@dataclass(frozen=True)
class FoundNetwork:
    """One winner of a search.

    Args:
        winner: what the search says of it.
        folder: its weights, architecture and configs.
        report: the search's report.
    """

    winner: Winner
    folder: Path
    report: SearchReport

    @property
    def arch(self) -> Arch:
        """Its architecture."""
        return self.winner.arch

    @property
    def config(self) -> Path:
        """The config of the search's framework that trains it as it is.

        Raises:
            UserError: see :func:`framework_of`.
        """
        return self.folder / framework_of(self.report).configs.file_name(self.report.config)

    def backbone(self) -> DATAResNet:
        """The network with its weights, in evaluation mode, for any training loop."""
        return DATAResNet.from_pretrained(self.folder)

    def finetune(self, out: str | Path, **options: Any) -> Mapping[str, float]:
        """Fine-tune it with the framework's own trainer.

        Args:
            out: folder of checkpoints, logs and metrics.
            options: further arguments of :func:`data_plugin.frameworks.run.run_finetune`; the data root is the
                search's if none is given.

        Returns:
            The framework's metrics in percent.

        Raises:
            UserError: if anything does not fit, such as an ``out`` that holds another run, or see :func:`framework_of`.
        """
        framework = framework_of(self.report)
        root = self.report.data_root
        options = {"data_root": None if root is None else Path(root), **options}
        return run_finetune(str(self.config), Path(out), framework.task, framework=framework.name, **options)

    def __repr__(self) -> str:
        return f"FoundNetwork({self.winner.budget}: {self.arch}, score {self.winner.score:.4g}, {self.folder})"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        winner, report = self.winner, self.report
        costs: list[tuple[str, float, tuple[int, int] | None]]
        costs = [("flops", winner.flops, None), ("params", winner.params, None)]
        costs += [(each, winner.costs[each], report.input_size) for each in report.more_costs if each in winner.costs]
        return facts_table(
            {
                "budget": winner.budget,
                "architecture": winner.arch,
                **{words.cost_label(each, size): words.cost_text(each, cost) for each, cost, size in costs},
                words.score_label(report): words.decimals(winner.score),
                "certainty": words.certainty_text(winner),
                "folder": self.folder,
            }
        )


@dataclass(frozen=True)
class Search:
    """A finished search.

    Args:
        out: its output folder.
        report: what it came to.
    """

    out: Path
    report: SearchReport

    @classmethod
    def read(cls, out: str | Path) -> Search:
        """The search of an output folder.

        Raises:
            UserError: if there is none.
        """
        return cls(Path(out), SearchReport.read(out))

    @cached_property
    def winners(self) -> list[FoundNetwork]:
        """The closest network of every budget, or its whole front."""
        return [FoundNetwork(winner, self.out / winner.folder, self.report) for winner in self.report.winners]

    @property
    def closest(self) -> list[FoundNetwork]:
        """The closest network of every budget, of a front too."""
        by_budget: dict[str, FoundNetwork] = {}
        for found in sorted(self.winners, key=lambda found: -found.winner.score):
            by_budget[found.winner.budget] = found
        return [by_budget[budget] for budget in self.report.budgets]

    def __str__(self) -> str:
        return terminal_report(self.report)

    def __repr__(self) -> str:
        return f"Search({self.out}: {', '.join(map(repr, self.winners))})"

    def _repr_html_(self) -> str:
        """Winners and score plots, as notebooks show them."""
        from data_plugin.search.report.html import html_summary

        return html_summary(self.report)
