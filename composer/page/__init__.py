"""What pages that work offline are made of: their style, charts, pieces of HTML."""
