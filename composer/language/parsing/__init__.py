"""From YAML text to one merged tree of plain values with places, with choices and references resolved."""
