"""The one place that knows Peili's version."""

VERSION = "0.1.0"
