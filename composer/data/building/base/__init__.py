"""What formats are made of: documents and units, files and lines, records, arrays of tokens."""
