"""Pictures of specs: their text, layout, and output as SVG and HTML."""
