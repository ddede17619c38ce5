"""What a spec costs, counted on the graph its module is emitted from, and the caps that hold it."""
