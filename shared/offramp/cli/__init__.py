"""The `offramp` command. A command's module is loaded once the command is asked for, not before."""
