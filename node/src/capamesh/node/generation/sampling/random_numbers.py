"""Random numbers that are a function of the seed, the choice, the position and the number of the draw. Pure.

Nothing is kept between two tokens, so that a sequence may go on in another batch, slot or node with its tokens alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def random_numbers(seed: int, choice: int, position: int) -> Callable[[], float]:
    """Return what gives one number of [0, 1) after the other, for the token at `position` of the sequence.

    They are Philox's, keyed by seed and choice; the position is the counter's second word, so that no two positions share a number.
    """
    philox = np.random.Philox(key=seed | choice << 64, counter=position << 64)
    return np.random.Generator(philox).random
