"""One file a subcommand of `infbox`. Each has `register(commands)`, which adds its parser and sets `run`."""
