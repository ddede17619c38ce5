"""The two splits of every task."""

from typing import Literal

Split = Literal["train", "eval"]
