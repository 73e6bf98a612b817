"""The command line of the package; see main.py."""
