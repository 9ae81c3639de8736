"""What measurements take of the commands: the one door between the two."""

from jobs._cli import options
from jobs._cli.command import command
from jobs._cli.controls import call_windows, lengths_of, measure_controls
from jobs._cli.progress import duration

__all__ = ["call_windows", "command", "duration", "lengths_of", "measure_controls", "options"]
