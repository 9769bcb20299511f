"""The version: the one place that names it, read by the build as well."""

__version__ = "0.1.0"
