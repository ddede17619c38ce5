"""What specs and data share: errors with places, trees of plain values, field types."""
