"""The version, in one place for code; pyproject.toml states the same."""

__version__ = "0.1.0"
