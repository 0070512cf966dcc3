"""Progress on the terminal: what is running, how fast, how long it will take."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, int, int | None], None]


@contextmanager
def terminal(quiet: bool) -> Iterator[Report]:
    """Give a callback that draws bars on standard error; nothing when `quiet` or when that is no terminal.

    The callback takes a task's name, how much is done and of how much (None: unknown). One task runs at a time: that
    another begins means that the one before is over.
    """
    if quiet or not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        Task,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import ProgressColumn as Column
    from rich.text import Text

    class Count(Column):
        """Done, of how many, and how many a second."""

        def render(self, task: Task) -> Text:
            if not task.completed or task.total == 1:
                return Text("")
            of = f"/{task.total:.0f}" if task.total and not task.finished else ""
            rate = f"  {task.speed:.1f}/s" if task.speed and not task.finished else ""
            return Text(f"{task.completed:.0f}{of}{rate}")

    columns = (SpinnerColumn(finished_text=" "), TextColumn("{task.description:<14}"), BarColumn(20), Count())
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                for before in tasks.values():
                    count = bars.tasks[before].completed or 1
                    bars.update(before, total=count, completed=count)
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield report


def _silent(task: str, done: int, total: int | None) -> None:
    """Draw nothing."""
