"""From one secret to permutations, masks and small numbers, the same on every machine for ever.

Sub-keys come from HKDF-SHA256 (RFC 5869), and each is expanded by SHAKE-256. NumPy's generators are
not used: they are not ciphers, and their output may change between versions, which would change
every ciphertext.
"""

import hashlib
import hmac

import numpy as np

_HASH_BYTES = 32
_WORDS = 2**32


def hkdf_sha256(secret: bytes, info: bytes, length: int = 32, salt: bytes = b"") -> bytes:
    """HKDF with SHA-256 (RFC 5869): extract, then expand.

    Args:
        secret: input key material.
        info: what the output is for; different ones give independent outputs.
        length: int, bytes of output, at most 8160.
        salt: need not be secret; empty stands for 32 zero bytes.

    Returns:
        bytes, `length` of them.
    """
    if not 0 < length <= 255 * _HASH_BYTES:
        raise ValueError(f"length must be 1..{255 * _HASH_BYTES}, got {length}.")
    extracted = hmac.digest(salt or bytes(_HASH_BYTES), secret, "sha256")
    output = block = b""
    for counter in range(1, -(-length // _HASH_BYTES) + 1):
        block = hmac.digest(extracted, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]


def shake_words(subkey: bytes, count: int) -> np.ndarray:
    """The first `count` little-endian 32-bit words of SHAKE-256(subkey), as uint32."""
    return np.frombuffer(hashlib.shake_256(subkey).digest(4 * count), dtype="<u4")


def permutation(subkey: bytes, size: int) -> np.ndarray:
    """A uniform permutation of 0..size-1: Fisher-Yates over SHAKE-256 with rejection sampling.

    From the last position down to the second, each position i is swapped with position r mod (i+1),
    where r is the next word of the stream below the largest multiple of i+1 that 32 bits hold.

    Args:
        subkey: bytes; decides the permutation.
        size: int, at least 1.

    Returns:
        int64 array of shape `(size,)`.
    """
    # Almost no word is rejected; the loop asks for more should these not be enough.
    words = shake_words(subkey, size + 16)
    used = 0
    order = list(range(size))
    for i in range(size - 1, 0, -1):
        limit = _WORDS - _WORDS % (i + 1)
        while True:
            if used == len(words):
                words = shake_words(subkey, 2 * len(words))
            word = int(words[used])
            used += 1
            if word < limit:
                break
        j = word % (i + 1)
        order[i], order[j] = order[j], order[i]
    return np.array(order, dtype=np.int64)


def below(subkey: bytes, size: int, bound: int) -> np.ndarray:
    """Uniform numbers in 0..bound-1, from the words of SHAKE-256 that rejection leaves.

    Args:
        subkey: bytes; decides the numbers.
        size: int, how many.
        bound: int, 1 to 2^32.

    Returns:
        int64 array of shape `(size,)`.
    """
    limit = _WORDS - _WORDS % bound
    count = size + 16
    while True:
        words = shake_words(subkey, count)
        kept = words[words < limit] if limit < _WORDS else words
        if len(kept) >= size:
            return kept[:size].astype(np.int64) % bound
        count *= 2


def bits(subkey: bytes, size: int) -> np.ndarray:
    """Uniform bits: the first `size` of SHAKE-256, least significant bit of each byte first.

    Returns:
        bool array of shape `(size,)`.
    """
    stream = hashlib.shake_256(subkey).digest(-(-size // 8))
    unpacked = np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little")
    return unpacked[:size].astype(bool)


def checked_permutation(values: object, name: str, size: int | None = None) -> np.ndarray:
    """A read-only copy of a permutation given by the user.

    Args:
        values: sequence of whole numbers.
        name: of the argument, for the message.
        size: int; None takes any length above 0.

    Returns:
        int64 array of shape `(size,)`.

    Raises:
        InputError: unless it holds each of 0..size-1 once.
    """
    from keras_dpvit.errors import InputError

    array = np.asarray(values)
    length = size if size is not None else array.size
    fits = array.ndim == 1 and array.dtype.kind in "iu" and array.size == length > 0
    if not fits or not np.array_equal(np.sort(array), np.arange(length)):
        wanted = f"0..{length - 1}" if length else "0..n-1"
        # The values themselves are a key, so the message does not show them.
        raise InputError(f"{name} must hold each of {wanted} exactly once.")
    return read_only(array.astype(np.int64))


def read_only(array: np.ndarray) -> np.ndarray:
    """A copy that cannot be written to."""
    copy = np.array(array)
    copy.setflags(write=False)
    return copy
