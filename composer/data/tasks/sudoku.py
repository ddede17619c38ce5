"""sudoku: puzzles of 4 x 4 cells with one solution each.

A sequence is the 16 cells of a puzzle row by row, then `<solve>`, then the cells of the solution up to the
last but one. Each cell of the solution that was blank is a target, at the token before it. There are only
288 solved grids: held out are puzzles, not grids.

Token ids: a blank is 0, digits are 1 .. 4, and `<solve>` is 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from blocks.base.fields import Count
from composer.data.base.config import DataConfig
from composer.data.base.split import Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from composer.data.base.stream import Batch, Ints, Stream

CELLS, SOLVE = 16, 5


class Sudoku(DataConfig):
    """4 x 4 sudoku; accuracy over the blank cells is reported per number of blanks."""

    task: Literal["sudoku"] = "sudoku"
    length: Annotated[Count, Field(ge=2 * CELLS)] = 2 * CELLS
    """Tokens per sequence, 32; what is more is padded with blanks."""
    blanks: Annotated[Count, Field(le=12)] = 10
    """The most blanks, at most 12; each puzzle has its own number of them, uniform in 1 .. blanks."""

    @property
    def vocab_needed(self) -> int:
        """The blank, four digits and `<solve>`."""
        return 6

    @property
    def group_names(self) -> Mapping[int, str]:
        """A sequence's group is its number of blanks."""
        return {count: f"b{count}" for count in range(1, self.blanks + 1)}

    def stream(self, split: Split, seed: int) -> Stream:
        """Open the endless sequences of one split."""
        return SudokuStream(self, split, seed)


class SudokuStream:
    """Batches of sudoku; the puzzle decides the split."""

    def __init__(self, config: Sudoku, split: Split, seed: int) -> None:
        self.config, self.split, self.seed = config, split, seed

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`; its group is the number of blanks."""
        import numpy as np

        from composer.data.base.groups import groups, of_groups
        from composer.data.base.stream import IGNORED, Batch, generator

        rng = generator(self.split, self.seed, step)
        count = groups(self.split, step, size, 1, self.config.blanks, rng)
        puzzles = of_groups(self.split, count, lambda some: _puzzles(rng, some))
        solved = grids()[_solutions(puzzles).argmax(axis=1)]
        tokens = np.zeros((size, self.config.length), np.int64)
        tokens[:, :CELLS], tokens[:, CELLS] = puzzles, SOLVE
        tokens[:, CELLS + 1 : 2 * CELLS] = solved[:, :-1]
        targets = np.full_like(tokens, IGNORED)
        targets[:, CELLS : 2 * CELLS] = np.where(puzzles == 0, solved, IGNORED)
        return Batch(tokens, targets, count)


@cache
def grids() -> Ints:
    """Return all solved grids -> [288, 16]."""
    import numpy as np

    rows: list[list[int]] = [[]]
    for cell in range(CELLS):
        row, column = divmod(cell, 4)
        box = (row // 2 * 2, column // 2 * 2)
        peers = [
            other
            for other in range(cell)
            if other // 4 == row or other % 4 == column or (other // 4 // 2 * 2, other % 4 // 2 * 2) == box
        ]
        rows = [
            [*grid, digit]
            for grid in rows
            for digit in range(1, 5)
            if all(grid[other] != digit for other in peers)
        ]
    return np.array(rows, np.int64)


def _solutions(puzzles: Ints) -> NDArray[np.bool_]:
    """Tell which grids solve which puzzles [n, 16] -> [n, 288]."""
    matches: NDArray[np.bool_] = ((puzzles[:, None] == grids()) | (puzzles[:, None] == 0)).all(axis=2)
    return matches


def _puzzles(rng: np.random.Generator, counts: Ints) -> Ints:
    """Draw a puzzle with one solution for each number of blanks [n] -> [n, 16]."""
    import numpy as np

    rows, missing = np.empty((len(counts), CELLS), np.int64), np.arange(len(counts))
    while len(missing):
        drawn = grids()[rng.integers(0, len(grids()), len(missing))]
        order = rng.permuted(np.tile(np.arange(CELLS), (len(missing), 1)), axis=1)
        rows[missing] = np.where(order < counts[missing, None], 0, drawn)
        missing = missing[_solutions(rows[missing]).sum(axis=1) > 1]
    return rows
