"""What the commands share: a live progress line, messages, a table of scores."""

from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from spaars.cli.plain import plain_console
from spaars.training.trainer import Progress as RunProgress

STAGES = {
    "data": "recording data",
    "prior": "behaviour prior",
    "offline": "offline start",
    "online": "online",
}
# The few numbers worth a glance, by stage.
SHOWN = {
    "prior": ("reconstruction", "kl"),
    "offline": ("q_mean", "raw_regression"),
    "online": ("q_mean", "cloning_error", "raw_share"),
}


class RunDisplay:
    """Context manager: bars for the stages of a run, messages above them."""

    def __init__(self) -> None:
        self.console = plain_console()
        self.bars = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
            console=self.console,
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "RunDisplay":
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def progress(self, progress: RunProgress) -> None:
        if progress.stage not in self.tasks:
            name = STAGES.get(progress.stage, progress.stage)
            self.tasks[progress.stage] = self.bars.add_task(name, total=progress.total, facts="")
        shown = [
            f"{name} {progress.facts[name]:.3g}"
            for name in SHOWN.get(progress.stage, ())
            if name in progress.facts
        ]
        self.bars.update(
            self.tasks[progress.stage], completed=progress.done, facts="  ".join(shown)
        )

    def message(self, text: str) -> None:
        self.console.print(text)


def score_table(summary: dict[str, Any]) -> Table:
    """The result of a run, a row per seed."""
    table = Table(title=f"{summary['method']} on {summary['dataset']['label']}")
    columns = {
        "seed": "seed",
        "offline": "offline_score",
        "hand-over": "handover_score",
        "final": "final_score",
        "worst dip": "dip_worst",
        "below offline": "drop_below_offline",
        "falls/1k": "falls_per_1k",
        "steps": "env_steps",
        "seconds": "wall_seconds",
    }
    for title in columns:
        table.add_column(title, justify="right")
    for row in summary["seeds"]:
        values = [row[key] for key in columns.values()]
        table.add_row(
            *("-" if v is None else f"{v:.1f}" if isinstance(v, float) else str(v) for v in values)
        )
    return table
