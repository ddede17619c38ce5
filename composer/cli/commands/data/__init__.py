"""Build, inspect and tokenize data for `task: tokens`."""

PANEL = "Training"
HELP = "Build and inspect tokenized data for `task: tokens`, and train tokenizers."
