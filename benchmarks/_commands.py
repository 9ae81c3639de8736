"""What measurements take of the commands: the one door between the two."""

from jobs._cli import options
from jobs._cli.command import command
from jobs._cli.progress import duration
from jobs.benchmark import call_windows, controls, lengths_of

__all__ = ["call_windows", "command", "controls", "duration", "lengths_of", "options"]
