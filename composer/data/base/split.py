"""The two splits of every task."""

from typing import Final, Literal

Split = Literal["train", "eval"]
TRAIN: Final = "train"
EVAL: Final = "eval"
