"""The version, in one place for code; pyproject.toml states the same."""

VERSION = "0.1.0"
