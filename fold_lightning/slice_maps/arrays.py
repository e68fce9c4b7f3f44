"""Array types, and an array that grows."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)


class Stack(Generic[Scalar]):
    """An array that grows by rows at its end, in amortised constant time per row.

    Args:
        rows: The first rows.
    """

    def __init__(self, rows: NDArray[Scalar]) -> None:
        self._all, self._size = rows, len(rows)

    @property
    def rows(self) -> NDArray[Scalar]:
        """The rows added so far, as a view: writing into it changes them."""
        return self._all[: self._size]

    def add(self, rows: NDArray[Scalar]) -> None:
        """Add rows at the end."""
        size = self._size + len(rows)
        if size > len(self._all):
            grown = np.empty((2 * size, *self._all.shape[1:]), dtype=self._all.dtype)
            grown[: self._size] = self.rows
            self._all = grown
        self._all[self._size : size] = rows
        self._size = size
