"""The console that the commands print on."""

from rich.console import Console


def plain_console() -> Console:
    """Prints text as it is: what an env, a path or a label says may look like rich's markup."""
    return Console(markup=False, emoji=False, highlight=False)
