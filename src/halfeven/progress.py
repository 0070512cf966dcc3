"""Progress on the terminal: what is running, how fast, how long it will take."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from halfeven.draft import Progress, no_progress


@contextmanager
def terminal(quiet: bool) -> Iterator[Progress]:
    """Give a callback that draws bars on standard error; nothing when `quiet` or when that is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn as Column
    from rich.text import Text

    class Rate(Column):
        """Samples a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    columns = (TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, int] = {}

        def report(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]

        yield report
