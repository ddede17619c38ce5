"""What a spec may say, as pydantic models, and what is derived from them: hashes, defaults, templates."""
