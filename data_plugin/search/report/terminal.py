"""The report of a search in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from data_plugin.search.report.search_report import SearchReport
from data_plugin.search.report.words import (
    approximation_texts,
    beside,
    certainty_text,
    cost_label,
    cost_text,
    decimals,
    images_text,
    knowledge_text,
    latency_text,
    lead_text,
    rank_table,
    rank_texts,
    score_label,
    supernet_text,
)

NAMED = 3
"""Networks that are named of those that a winner is not told apart from."""


def terminal_report(report: SearchReport) -> str:
    """The winners, how sure they are, what was approximated, on which images and of which supernet, in plain text."""
    images, supernet = f"compared on {images_text(report)}", f"supernet: {supernet_text(report.run['supernet'])}"
    teacher = f"its teacher: {knowledge_text(report.knowledge, report.run.get('search_teacher', ()))}"
    rivals = ["", *_aligned(beside(report), left=3), ""] if report.rivals else []
    latency = [text for text in (latency_text(report),) if text]
    texts = [*_certainty(report), *latency, *approximation_texts(report), images, supernet, teacher]
    ranked = ["", rank_report(report)] if report.rank_checks else []
    return "\n".join([*_table(report), *rivals, *texts, *ranked])


def rank_report(report: SearchReport) -> str:
    """What a rank check has found, a table a budget, in plain text."""
    lines = []
    for name, check in report.rank_checks.items():
        lines += [name, *_aligned(rank_table(check), left=1), *rank_texts(check), ""]
    return "\n".join(lines[:-1])


def _table(report: SearchReport) -> list[str]:
    """A line a winner: what it is, what it costs, and its score; what else budgets bound in columns of its own."""
    more = report.more_costs
    head = ["budget", "architecture", cost_label("flops"), cost_label("params")]
    lines = [[*head, *(cost_label(quantity, report.input_size) for quantity in more), score_label(report)]]
    for winner in report.winners:
        costs = [cost_text("flops", winner.flops), cost_text("params", winner.params)]
        costs += [cost_text(quantity, winner.costs[quantity]) if quantity in winner.costs else "" for quantity in more]
        lines.append([winner.budget, str(winner.arch), *costs, decimals(winner.score)])
    return _aligned(lines, left=2)


def _aligned(lines: Sequence[Sequence[str]], left: int) -> list[str]:
    """The rows of a table, its first columns aligned at the left and the others at the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _certainty(report: SearchReport) -> list[str]:
    """How far every winner leads, and how far a measured cost is from that of the whole network."""
    lines = []
    for winner in report.winners:
        name = f"{winner.budget}: {winner.arch}" if report.pareto else winner.budget
        at_that_cost = " at no more cost" if report.pareto else ""
        if winner.runner_up is None:
            lines.append(f"{name}: it is the only one{at_that_cost} that was compared on all images")
        else:
            text = f"{name}: leads {winner.runner_up}{at_that_cost} by {lead_text(winner)}, {certainty_text(winner)}"
            if winner.near:
                more = ", …" if winner.not_told_apart > NAMED else ""
                text += f" ({', '.join(map(str, winner.near[:NAMED]))}{more})"
            lines.append(text)
        for quantity, (composed, whole) in winner.measured.items():
            lines.append(
                f"{name}: {cost_label(quantity)} {cost_text(quantity, composed)} from its blocks, "
                f"{cost_text(quantity, whole)} whole ({composed / whole - 1:+.1%})"
                f"{', which is not within the budget' if quantity in winner.exceeded else ''}"
            )
    return lines
