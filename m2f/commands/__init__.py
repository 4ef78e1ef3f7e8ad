"""The subcommands of `m2f`, a module each, with `add_arguments(parser)` and `run(args) -> int`, the exit code.

`m2f/cli.py` lists them and imports the one that is asked for.
"""
