"""Which of these belongs to which of those, so that the whole is worth most."""

from __future__ import annotations

from collections.abc import Sequence


def best_pairs(worth: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Return (row, column) pairs of the largest total worth, each row and column at most once.

    Pairs worth nothing are left out. Source: the Hungarian algorithm, Kuhn, Naval Research Logistics
    Quarterly 2, 1955.
    """
    rows = len(worth)
    width = len(worth[0]) if worth else 0
    columns = max(width, rows)
    cost = [[-cell for cell in row] + [0.0] * (columns - width) for row in worth]
    u, v = [0.0] * (rows + 1), [0.0] * (columns + 1)
    match = [0] * (columns + 1)
    for row in range(1, rows + 1):
        match[0], column = row, 0
        slack = [float("inf")] * (columns + 1)
        way = [0] * (columns + 1)
        used = [False] * (columns + 1)
        while match[column] != 0:
            used[column] = True
            here, step, following = match[column], float("inf"), 0
            for j in range(1, columns + 1):
                if not used[j]:
                    reduced = cost[here - 1][j - 1] - u[here] - v[j]
                    if reduced < slack[j]:
                        slack[j], way[j] = reduced, column
                    if slack[j] < step:
                        step, following = slack[j], j
            for j in range(columns + 1):
                if used[j]:
                    u[match[j]] += step
                    v[j] -= step
                else:
                    slack[j] -= step
            column = following
        while column:
            match[column] = match[way[column]]
            column = way[column]
    return sorted(
        (match[j] - 1, j - 1)
        for j in range(1, width + 1)
        if match[j] and worth[match[j] - 1][j - 1] > 0
    )
