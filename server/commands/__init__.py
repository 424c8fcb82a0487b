"""The `entrostat` command and its subcommands."""
