"""Ciphertext only: blocks of EtC put back by their borders, though each is turned and recoloured.

A block's place, turn, inversion and order of colours are one key for all images, so that how well
two borders fit is summed over the images.
"""

import dataclasses
import functools

import numpy as np

from keras_dpvit.encryption import EncryptionThenCompression, blocks, color
from keras_dpvit.encryption.cipher import shape_of
from keras_dpvit.errors import InputError

# Of the 8 turns of a square, number 2 k + f rotates by k quarters and then flips the columns if f.
_FLIP_COLUMNS, _QUARTER, _FLIP_ROWS = 1, 2, 5
_RIGHT = (0, 1)
_KEPT = 40  # candidates for each border
_SWEEPS = 10
# Where an object ends its border fits nowhere, in any image: that is worth no more than this.
_HIGHEST_RATIO = 3.0


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A block of the ciphertext where it belongs, and what undoes its steps."""

    y: int
    x: int
    turn: int
    negative: int
    order: int


_Group = dict[int, _Placed]


def recover(encrypted: np.ndarray, block_size: int = 4, seed: int = 0) -> EncryptionThenCompression:
    """The key of EtC in colour, up to what nobody can see: see `views`.

    Best fitting pairs of borders, in all their turns, inversions and orders of colours, are joined
    first, unless groups of blocks would overlap or outgrow the frame; what is left over fills
    holes. Last, each block is turned, inverted and recoloured where it lies while it then fits its
    neighbours better. A border's difference counts against the second best block at that border,
    image by image.

    Args:
        encrypted: uint8 `(n, height, width, 1 or 3)`, under one key.
        block_size: int.
        seed: not used: the attack draws nothing.

    Returns:
        The cipher that the attack believes in; it decrypts all images under the key, or all turned,
        inverted or recoloured alike.

    Raises:
        InputError: if there is no image, or its size does not fit.

    Source: after Gallagher, "Jigsaw puzzles with pieces of unknown orientation", CVPR 2012, with
    inversion and colours added as in Chuman and Kiya's attacks on such schemes.
    """
    if encrypted.ndim != 4 or not len(encrypted) or encrypted.shape[3] not in (1, 3):
        raise InputError(
            f"encrypted must be (n, height, width, 1 or 3), n > 0, got {encrypted.shape}."
        )
    height, width, depth = shape_of(encrypted)
    blocks.check_divisible(height, width, block_size)
    rows, columns = height // block_size, width // block_size
    pixels = blocks.block_pixels(height, width, block_size)
    pieces = encrypted.reshape(len(encrypted), -1, depth)[:, pixels]
    ratios = np.zeros((len(pixels), 4, len(pixels), 8, 2, len(_orders(depth))), np.float32)
    for image in pieces:
        told = _ratios(_borders(image, block_size))
        ratios += np.where(told < np.inf, np.minimum(told, _HIGHEST_RATIO), told)
    groups = _join(ratios, rows, columns, depth)
    group = _in_frame(max(groups, key=len), rows, columns, depth)
    placed = _settled(_filled(group, ratios, rows, columns, depth), ratios, depth)
    return _cipher(placed, block_size, columns, depth)


def views(
    cipher: EncryptionThenCompression, image_shape: blocks.Shape
) -> list[EncryptionThenCompression]:
    """All keys that show the same images turned, inverted or recoloured as wholes.

    Whoever looks at them sees at once which one is right; ciphertexts do not say.

    Args:
        cipher: as `recover` returns it.
        image_shape: (height, width, channels).

    Returns:
        96 ciphers for square images in colour.
    """
    height, width, depth = image_shape
    side = cipher.block_size
    rows, columns = height // side, width // side
    placed = _placed_by(cipher, columns, depth)
    turns = range(8) if rows == columns else [0, 1, 4, 5]
    found = []
    for turn in turns:
        for negative in range(2):
            for order in range(len(_orders(depth))):
                moved = _moved(placed, turn, negative, _orders(depth)[order], depth)
                found.append(_cipher(_in_frame(moved, rows, columns, depth), side, columns, depth))
    return found


def _orders(depth: int) -> np.ndarray:
    return color.ORDERS if depth == len(color.ORDERS[0]) else np.arange(depth)[None]


@functools.lru_cache
def _code_of(depth: int) -> dict[tuple[int, ...], int]:
    return {tuple(order): code for code, order in enumerate(_orders(depth).tolist())}


@functools.lru_cache
def _turn_maps(side: int) -> np.ndarray:
    """The source pixel of each place, by turn: `(8, side^2)`."""
    grid = np.arange(side * side).reshape(side, side)
    turned = [np.rot90(grid, k)[:, :: -1 if f else 1] for k in range(4) for f in range(2)]
    return np.stack(turned).reshape(8, -1)


@functools.lru_cache
def _after() -> np.ndarray:
    """`_after()[a, b]`: turn b, and then a, as one turn."""
    maps = _turn_maps(3)
    names = {turn.tobytes(): i for i, turn in enumerate(maps)}
    return np.array([[names[b[a].tobytes()] for b in maps] for a in maps])


@functools.lru_cache
def _undo() -> np.ndarray:
    return np.argmin(_after(), axis=1)  # turn 0 changes nothing


@functools.lru_cache
def _steps() -> np.ndarray:
    """The effect of each turn on a step by (y, x): `(8, 2, 2)`, matrices."""
    matrices = []
    for turn in _turn_maps(3):
        ends = [np.flatnonzero(turn == start)[0] for start in (7, 5)]  # one down, one to the right
        matrices.append(np.array([np.array(divmod(int(end), 3)) - 1 for end in ends]).T)
    return np.array(matrices)


def _borders(pieces: np.ndarray, side: int) -> np.ndarray:
    """The right border of every block in every turn, continued by half a pixel.

    Returns:
        float32 `(blocks, 8, side, channels)`.
    """
    turned = pieces[:, _turn_maps(side)].astype(np.float32)
    turned = turned.reshape(len(pieces), 8, side, side, -1)
    return 1.5 * turned[:, :, :, -1] - 0.5 * turned[:, :, :, -2]


def _ratios(borders: np.ndarray) -> np.ndarray:
    """The fit of block j, in a turn, inverted or not, recoloured, to the right of block i.

    Block i is in the rotations 0, 2, 4, 6 and otherwise as it is: all else is the same turned.
    Differences are over the second best of other blocks at either border.

    Returns:
        float32 `(blocks, 4, blocks, 8, 2, orders)`; infinite for i = j.
    """
    from scipy.spatial.distance import cdist

    count, _, side, depth = borders.shape
    orders = _orders(depth)
    left = borders[:, _after()[_FLIP_COLUMNS]]
    left = np.stack([left, 255 - left], axis=2)[..., orders]  # (count, 8, 2, side, orders, depth)
    left = np.moveaxis(left, 4, 3).reshape(-1, side * depth)
    right = borders[:, ::2].reshape(-1, side * depth)
    cost = (cdist(right, left, "cityblock") / (side * depth)).astype(np.float32)
    cost = cost.reshape(count, 4, count, 8, 2, len(orders))
    cost[np.arange(count), :, np.arange(count)] = np.inf
    if count < 3:
        return cost
    best = cost.min((3, 4, 5))
    second = np.partition(best, 1, axis=2)[..., 1] + 1e-3  # (count, 4)
    # The one of its four borders that block j shows to the left.
    shown = _after()[_FLIP_COLUMNS]
    shown = np.where(shown % 2, _after()[_FLIP_ROWS][shown], shown) // 2
    scale = np.sqrt(second[:, :, None, None] * second[:, shown])
    return (cost + 1e-3) / scale[..., None, None]


def _join(ratios: np.ndarray, rows: int, columns: int, depth: int) -> list[_Group]:
    """Kruskal's algorithm over pairs of borders; groups of blocks, each upright in its own way."""
    count = len(ratios)
    table = ratios.reshape(4 * count, -1)
    kept = min(_KEPT, table.shape[1])
    best = np.argpartition(table, kept - 1, axis=1)[:, :kept]
    values = np.take_along_axis(table, best, axis=1)
    order = np.argsort(values, axis=None, kind="stable")
    lines, places = np.unravel_index(order, values.shape)
    firsts, turns = np.divmod(lines, 4)
    others = np.stack(np.unravel_index(best[lines, places], ratios.shape[2:]), axis=1)
    groups: list[_Group] = [{i: _Placed(0, 0, 0, 0, 0)} for i in range(count)]
    member = np.arange(count)
    for i, turn, (j, *rest) in zip(firsts.tolist(), turns.tolist(), others.tolist(), strict=True):
        if member[i] == member[j]:
            continue
        fixed, moving = groups[member[i]], groups[member[j]]
        moved = _attached(fixed[i], moving, j, (2 * turn, *rest), depth)
        if not _fits(fixed, moved, rows, columns):
            continue
        fixed.update(moved)
        groups[member[j]] = {}
        member[list(moved)] = member[i]
        if len(fixed) == count:
            break
    return groups


def _attached(
    anchor: _Placed, moving: _Group, j: int, pair: tuple[int, int, int, int], depth: int
) -> _Group:
    """A group moved so that block j lies beside the anchor as the pair of borders wants it.

    Args:
        anchor: block i in the fixed group.
        moving: group with block j.
        j: int.
        pair: turn of i, and turn, negative and order of j, with which j lies to the right of i.
        depth: int.
    """
    turn_i, turn_j, negative, order = pair
    orders, after = _orders(depth), _after()
    whole = after[anchor.turn, _undo()[turn_i]]
    down, right = _steps()[whole] @ _RIGHT
    wanted_turn = after[whole, turn_j]
    wanted_order = orders[order][orders[anchor.order]]
    now = moving[j]
    moved = _moved(
        moving,
        int(after[wanted_turn, _undo()[now.turn]]),
        anchor.negative ^ negative ^ now.negative,
        np.argsort(orders[now.order])[wanted_order],
        depth,
    )
    down, right = anchor.y + down - moved[j].y, anchor.x + right - moved[j].x
    return {k: dataclasses.replace(p, y=p.y + down, x=p.x + right) for k, p in moved.items()}


def _moved(group: _Group, turn: int, negative: int, order: np.ndarray, depth: int) -> _Group:
    """A group turned, inverted and recoloured as a whole."""
    orders, codes, after, step = _orders(depth), _code_of(depth), _after(), _steps()[turn]
    moved = {}
    for k, p in group.items():
        y, x = (step @ (p.y, p.x)).tolist()
        code = codes[tuple(orders[p.order][order].tolist())]
        moved[k] = _Placed(y, x, int(after[turn, p.turn]), p.negative ^ negative, code)
    return moved


def _fits(fixed: _Group, moved: _Group, rows: int, columns: int) -> bool:
    taken = {(p.y, p.x) for p in fixed.values()}
    new = [(p.y, p.x) for p in moved.values()]
    if not taken.isdisjoint(new):
        return False
    ys, xs = zip(*taken, *new, strict=True)
    high, wide = max(ys) - min(ys), max(xs) - min(xs)
    return (high < rows and wide < columns) or (high < columns and wide < rows)


def _in_frame(group: _Group, rows: int, columns: int, depth: int) -> _Group:
    """The group in the frame's upper left corner, on its side if it must be."""
    for turn in (0, _QUARTER):
        moved = _moved(group, turn, 0, np.arange(depth), depth)
        top = min(p.y for p in moved.values())
        left = min(p.x for p in moved.values())
        moved = {k: dataclasses.replace(p, y=p.y - top, x=p.x - left) for k, p in moved.items()}
        if all(p.y < rows and p.x < columns for p in moved.values()):
            break
    return moved


def _filled(group: _Group, ratios: np.ndarray, rows: int, columns: int, depth: int) -> _Group:
    """Puts, one by one, the left-over block that fits best into a hole with most neighbours."""
    placed = dict(group)
    at = {(p.y, p.x): k for k, p in placed.items()}
    left = [k for k in range(len(ratios)) if k not in placed]
    while left:
        best: tuple[int, float, int, int, int] | None = None
        for y in range(rows):
            for x in range(columns):
                near = [(d, at[n]) for d, n in _neighbours(y, x) if n in at]
                if (y, x) in at or not near:
                    continue
                fits = sum(_fit(ratios, placed[k], k, d, depth)[left] for d, k in near)
                value = np.asarray(fits) / len(near)
                told = (-len(near), float(value.min()), y, x, int(np.argmin(value)))
                best = told if best is None else min(best, told)
        assert best is not None  # the largest group is never empty, so some hole has a neighbour
        _, _, y, x, index = best
        piece, turn, negative, order = np.unravel_index(
            index, (len(left), 8, 2, len(_orders(depth)))
        )
        k = left.pop(int(piece))
        placed[k] = _Placed(y, x, int(turn), int(negative), int(order))
        at[y, x] = k
    return placed


def _settled(placed: _Group, ratios: np.ndarray, depth: int) -> _Group:
    """Blocks in their places, each in the form that fits all its neighbours best."""
    at = {(p.y, p.x): k for k, p in placed.items()}
    for _ in range(_SWEEPS):
        before = dict(placed)
        for k, p in placed.items():
            near = [(d, at[n]) for d, n in _neighbours(p.y, p.x) if n in at]
            if near:
                fits = np.asarray(sum(_fit(ratios, placed[i], i, d, depth)[k] for d, i in near))
                form = np.unravel_index(int(np.argmin(fits)), fits.shape)
                if fits[form] < fits[p.turn, p.negative, p.order] - 1e-6:
                    placed[k] = _Placed(p.y, p.x, *map(int, form))
        if placed == before:
            break
    return placed


def _neighbours(y: int, x: int) -> list[tuple[int, tuple[int, int]]]:
    """Places around, each with the turn that puts (y, x) to its right."""
    return [(0, (y, x - 1)), (2, (y - 1, x)), (4, (y, x + 1)), (6, (y + 1, x))]


def _fit(ratios: np.ndarray, anchor: _Placed, i: int, turn: int, depth: int) -> np.ndarray:
    """The fit of every block, in every form, beside a placed one: `(blocks, 8, 2, orders)`."""
    after, orders = _after(), _orders(depth)
    shown = after[turn, anchor.turn]
    whole = turn
    if shown % 2:
        shown, whole = after[_FLIP_ROWS, shown], after[_FLIP_ROWS, turn]
    table = ratios[i, shown // 2][:, after[whole]]
    if anchor.negative:
        table = table[:, :, ::-1]
    back = np.argsort(orders[anchor.order])
    codes = [_code_of(depth)[tuple(order[back].tolist())] for order in orders]
    return np.asarray(table[..., codes])


def _cipher(group: _Group, side: int, columns: int, depth: int) -> EncryptionThenCompression:
    """The cipher that these placings undo."""
    placed = [group[k] for k in range(len(group))]
    turns = _undo()[[p.turn for p in placed]]
    codes = [_code_of(depth)[tuple(np.argsort(_orders(depth)[p.order]).tolist())] for p in placed]
    return EncryptionThenCompression.from_permutations(
        side,
        [p.y * columns + p.x for p in placed],
        turns // 2,
        turns % 2,
        np.array([p.negative for p in placed]),
        np.array(codes),
    )


def _placed_by(cipher: EncryptionThenCompression, columns: int, depth: int) -> _Group:
    """The inverse of `_cipher`."""
    steps = cipher.steps
    turns = _undo()[2 * steps["rotations"] + steps["flips"].astype(np.int64)]
    codes, orders = _code_of(depth), _orders(depth)
    group = {}
    for k, place in enumerate(cipher.block_permutation.tolist()):
        y, x = divmod(place, columns)
        code = codes[tuple(np.argsort(orders[steps["colors"][k] if depth == 3 else 0]).tolist())]
        group[k] = _Placed(y, x, int(turns[k]), int(steps["negatives"][k]), code)
    return group
