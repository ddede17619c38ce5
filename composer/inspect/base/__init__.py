"""What measures are made of: the model that is inspected, scores, and what a page shows of them."""
