"""What all commands share at the terminal: the command class, configuration, options, progress."""
