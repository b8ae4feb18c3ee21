"""The package's version, as its metadata and the files that it writes have it."""

__version__ = "0.1.0"
