"""Train object detectors as a relay across whatever GPU is free."""

__version__ = "0.1.0"
