"""The layers of models, one folder each, and the options that connect them (`wiring`)."""
