"""Building tokenized data: sources are read, tokenized in parallel into parts, and put together as shards."""
