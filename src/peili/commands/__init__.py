"""The commands of the command line, one a module; cli.py puts them together."""
