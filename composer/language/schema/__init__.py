"""The configs of the language as pydantic models, with hashes, defaults and templates."""
