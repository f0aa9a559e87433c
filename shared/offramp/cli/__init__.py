"""The `offramp` command. A subcommand's module is imported only when the subcommand is used."""
