"""The wavelet scattering transform: features of an image for which nothing is learned."""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.errors import InputError


@keras.saving.register_keras_serializable(package="keras_dpvit")
class ScatteringTransform(keras.layers.Layer):
    """Moduli of wavelet coefficients, averaged locally (Bruna & Mallat 2013, arXiv:1203.1513).

    With Morlet wavelets `psi` of scale `2^j` and angle `t` and a Gaussian `phi` of width `2^J`:
    `x * phi`, `|x * psi_1| * phi` and `||x * psi_1| * psi_2| * phi` for `j_2 > j_1`, each taken at
    every `2^J`-th pixel. Filters, reflecting border and order of the paths are kymatio 0.3's
    (Andreux et al. 2020, arXiv:1812.11214), and so are the numbers, to rounding.

    The filters are fixed, so the layer has no variables and costs no privacy: one image's features
    depend on that image alone. Computed in float32, whatever the policy; gradients with respect to
    the images are finite everywhere.

    Args:
        scales: int, `J`.
        orientations: int, `L`, the number of angles.
        order: 1 or 2.

    Input shape:
        `(batch, height, width, channels)`, height and width fixed multiples of `2^J`.

    Output shape:
        `(batch, height / 2^J, width / 2^J, channels * paths)` with `paths = 1 + J L` and, for order
        2, `L^2 J (J - 1) / 2` more: all paths of the first channel, then all of the second.

    Raises:
        InputError: if an argument or a side of the image is out of range.
    """

    def __init__(
        self, scales: int = 2, orientations: int = 8, order: int = 2, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.scales = _validate.positive_int(scales=scales)
        self.orientations = _validate.positive_int(orientations=orientations)
        self.order = _validate.positive_int(order=order)
        if self.order > 2:
            raise InputError(f"order must be 1 or 2, got {order}.")

    @property
    def num_paths(self) -> int:
        """Output channels for each input channel."""
        first = self.scales * self.orientations
        second = self.orientations**2 * self.scales * (self.scales - 1) // 2
        return 1 + first + (second if self.order == 2 else 0)

    def build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)  # which refuses what does not fit
        height, width = input_shape[1:3]
        self.transform = _transform(height, width, self.scales, self.orientations, self.order)

    def call(self, images: Any) -> Any:
        _, rows, columns, channels = self.compute_output_shape(images.shape)
        maps = ops.transpose(ops.cast(images, "float32"), (1, 2, 0, 3))
        maps = ops.reshape(maps, (*images.shape[1:3], -1))
        paths = ops.reshape(
            self.transform(maps), (rows, columns, self.num_paths, -1, images.shape[-1])
        )
        paths = ops.transpose(paths, (3, 0, 1, 4, 2))
        return ops.cast(ops.reshape(paths, (-1, rows, columns, channels)), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        shape, step = tuple(input_shape), 2**self.scales
        if len(shape) != 4 or not all(shape[1:]) or shape[1] % step or shape[2] % step:
            raise InputError(
                "images must be (batch, height, width, channels) with sides that are multiples of "
                f"2**scales = {step}, got {shape}."
            )
        return (shape[0], shape[1] // step, shape[2] // step, shape[3] * self.num_paths)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scales": self.scales,
            "orientations": self.orientations,
            "order": self.order,
        }


# The transform below takes maps as (rows, columns, number of maps): every linear step is then a
# small fixed matrix times a wide one. kymatio convolves in Fourier space, and the wavelets it uses
# on subsampled maps are cut off there, so that no short spatial kernel equals them. A Fourier
# transform of one axis as a matrix product is exact, faster on a CPU than convolution with kernels
# long enough for four digits, and runs wherever a matrix product does: TFLite has no inverse FFT.
#
# A complex map is one real array whose real part stands before its imaginary part, on an axis
# beside the one that the next matrix sums over.


class _Transform:
    """Paths of all orders: `(height, width, n)` to `(height / 2^J, width / 2^J, paths, n)`."""

    def __init__(self, height: int, width: int, scales: int, orientations: int, order: int) -> None:
        border = 2**scales  # at each end, as kymatio has it
        extend = [_reflection(side, border) for side in (height, width)]
        phi, psi = _filters(height + 2 * border, width + 2 * border, scales, orientations)
        self.orientations = orientations
        self.average_images = _LowPass(phi[0], border, extend)
        self.spectrum_of_images = _Spectrum(*extend)
        self.first = [_Wavelets(psi[j][0], 2**j) for j in range(scales)]
        self.average = [_LowPass(phi[j], 2 ** (scales - j)) for j in range(scales)]
        self.second = []
        for j in range(scales - 1 if order == 2 else 0):
            spectrum = _Spectrum(*(np.eye(side) for side in phi[j].shape))
            wider = {k: _Wavelets(psi[k][j], 2 ** (k - j)) for k in range(j + 1, scales)}
            self.second.append((spectrum, wider))

    def __call__(self, images: Any) -> Any:
        zeroth, first, second = self.average_images(images), [], []
        spectrum = self.spectrum_of_images(images)
        for j, wavelets in enumerate(self.first):
            moduli = wavelets(spectrum)
            first.append(self._by_path(self.average[j](moduli), 1))
            if j < len(self.second):
                second.append(self._second_order(j, moduli))
        return ops.concatenate([ops.expand_dims(zeroth, 2), *first, *second], axis=2)

    def macs(self, maps: int) -> int:
        """Multiply-accumulates, of real numbers, of the fixed matrices for a number of maps."""
        turned = self.orientations * maps  # moduli of one scale
        count = maps * (self.average_images.macs + self.spectrum_of_images.macs)
        for j, wavelets in enumerate(self.first):
            count += maps * wavelets.macs + turned * self.average[j].macs
        for to_spectrum, wider in self.second:
            count += turned * to_spectrum.macs
            for k, wavelets in wider.items():
                count += turned * (wavelets.macs + self.orientations * self.average[k].macs)
        return count

    def _second_order(self, j: int, moduli: Any) -> Any:
        to_spectrum, wider = self.second[j]
        spectrum = to_spectrum(moduli)
        # Second angles stand before first ones here; in kymatio's order it is the other way.
        paths = [
            self._by_path(self.average[k](wavelets(spectrum)), 2) for k, wavelets in wider.items()
        ]
        joined = ops.transpose(ops.concatenate(paths, axis=2), (0, 1, 3, 2, 4))
        rows, columns, first, second, _ = joined.shape
        return ops.reshape(joined, (rows, columns, first * second, -1))

    def _by_path(self, maps: Any, angles: int) -> Any:
        return ops.reshape(maps, (*maps.shape[:2], *[self.orientations] * angles, -1))


# Models are built again and again (saving, loading, members of a fusion); the filters take a
# tenth of a second for 28x28 images and seconds for 224x224. What is cached is never changed.
_transform = functools.lru_cache(maxsize=8)(_Transform)


class _Spectrum:
    """Fourier transform of real maps: `(height, width, n)` to `(rows, 2 * columns, n)`.

    Args:
        extend_rows, extend_columns: float `(rows, height)` and `(columns, width)`, what is done to
            each axis beforehand.
    """

    def __init__(self, extend_rows: np.ndarray, extend_columns: np.ndarray) -> None:
        rows = _real_form(_fourier(len(extend_rows)) @ extend_rows)[..., 0]
        columns = _real_form(_fourier(len(extend_columns)) @ extend_columns)
        self.rows = _flat(rows[..., None], (0, 1), (2, 3))
        self.columns = _flat(columns, (1, 0), (3, 2))
        self.macs = _macs(self.rows, self.columns, parts=2)

    def __call__(self, maps: Any) -> Any:
        return _columns_after_rows(self.rows, self.columns, maps, parts=2)


class _Wavelets:
    """Moduli of convolutions with several wavelets, every `step`-th pixel of them.

    `(rows, 2 * columns, n)`, a spectrum, to `(rows / step, columns / step, wavelets * n)`.

    Args:
        filters: float `(wavelets, rows, columns)`, real spectra of the wavelets.
        step: int, divides rows and columns.
    """

    def __init__(self, filters: np.ndarray, step: int) -> None:
        count, height, width = filters.shape
        self.step = step
        self.shape = rows, columns = height // step, width // step
        # Subsampling adds up the frequencies that `step` makes equal.
        folded = filters.reshape(count, step, rows, step, columns).transpose(2, 4, 0, 1, 3)
        # The axis of one is for the real and the imaginary part, which are filtered alike.
        filters = folded.reshape(rows, 1, columns, count, step * step)
        self.filters = filters.astype("float32")
        inverse = [_real_form(np.conj(_fourier(n)) / (n * step)) for n in self.shape]
        self.rows = _flat(inverse[0], (0, 1), (2, 3))
        self.columns = _flat(inverse[1], (1, 0), (3, 2))
        self.macs = 2 * self.filters.size + count * _macs(self.rows, self.columns, parts=2)

    def __call__(self, spectrum: Any) -> Any:
        (rows, columns), step = self.shape, self.step
        if step > 1:
            spectrum = ops.reshape(spectrum, (step, rows, 2, step, columns, -1))
            spectrum = ops.transpose(spectrum, (1, 2, 4, 0, 3, 5))
        spectrum = ops.reshape(spectrum, (rows, 2, columns, step * step, -1))
        filtered = ops.reshape(ops.matmul(self.filters, spectrum), (rows * 2, columns, -1))
        maps = _columns_after_rows(self.rows, self.columns, filtered, parts=2)
        real, imaginary = maps[:, :columns], maps[:, columns:]
        # The bound keeps the root's gradient at zero from being infinite times zero.
        return ops.sqrt(ops.maximum(real * real + imaginary * imaginary, 1e-30))


class _LowPass:
    """Local average, every `step`-th pixel of it and without the outermost at each end.

    Args:
        spectrum: float `(rows, columns)`, of the average. It is the product of one over the rows
            and one over the columns: a round Gaussian, cut off along the axes if at all.
        step: int, divides rows and columns.
        extend: for rows and columns, as in `_Spectrum`; or None.
    """

    def __init__(
        self, spectrum: np.ndarray, step: int, extend: list[np.ndarray] | None = None
    ) -> None:
        top = np.sqrt(spectrum[0, 0])
        self.matrices = []
        for axis, profile in enumerate((spectrum[:, 0] / top, spectrum[0] / top)):
            fourier = _fourier(len(profile))
            matrix = (np.conj(fourier) @ (profile[:, None] * fourier)).real / len(profile)
            matrix = matrix[::step][1:-1]
            matrix = matrix if extend is None else matrix @ extend[axis]
            self.matrices.append(matrix.astype("float32"))
        self.macs = _macs(self.matrices[0], self.matrices[1], parts=1)

    def __call__(self, maps: Any) -> Any:
        rows, columns = self.matrices
        return _columns_after_rows(rows, columns, maps, parts=1)


def _columns_after_rows(rows: np.ndarray, columns: np.ndarray, maps: Any, parts: int) -> Any:
    """Multiplies the first axis by one matrix, then what stands beside it by another.

    `parts` is 2 if the first product's complex parts belong to the second product's sum.
    """
    products = ops.matmul(rows, ops.reshape(maps, (rows.shape[1], -1)))
    products = ops.reshape(products, (len(rows) // parts, columns.shape[1], -1))
    return ops.matmul(columns, products)


def _macs(rows: np.ndarray, columns: np.ndarray, parts: int) -> int:
    """Multiply-accumulates of `_columns_after_rows` for one map."""
    return len(rows) * (rows.shape[1] + len(columns)) * (columns.shape[1] // parts)


def _filters(height: int, width: int, scales: int, orientations: int) -> tuple[Any, Any]:
    """Spectra from kymatio: `phi[resolution]` and `psi[scale][resolution]` of all angles."""
    # Imported here so that a model without this layer does without kymatio. Its top-level front
    # ends need scipy < 1.15; this module does not import them.
    from kymatio.scattering2d.filter_bank import filter_bank

    bank = filter_bank(height, width, scales, orientations)
    phi = [np.asarray(level, "float64") for level in bank["phi"]["levels"]]
    psi = []
    for j in range(scales):
        angles = [wavelet["levels"] for wavelet in bank["psi"] if wavelet["j"] == j]
        psi.append([np.stack(level).astype("float64") for level in zip(*angles, strict=True)])
    return phi, psi


def _reflection(side: int, border: int) -> np.ndarray:
    """The matrix `(side + 2 * border, side)` that reflects a line at both ends."""
    return np.eye(side)[np.pad(np.arange(side), border, mode="reflect")]


def _fourier(size: int) -> np.ndarray:
    steps = np.arange(size)
    return np.exp(-2j * np.pi * (np.outer(steps, steps) % size) / size)


def _real_form(matrix: np.ndarray) -> np.ndarray:
    """A complex matrix `(m, n)` as a real one `(m, 2, n, 2)` on real and imaginary parts."""
    real, imaginary = matrix.real, matrix.imag
    parts = np.array([[real, -imaginary], [imaginary, real]])
    return parts.transpose(2, 0, 3, 1)


def _flat(matrix: np.ndarray, outputs: tuple[int, int], inputs: tuple[int, int]) -> np.ndarray:
    """A real form with its axes in the order given, as a float32 matrix."""
    size = matrix.shape[0] * matrix.shape[1]
    return matrix.transpose(*outputs, *inputs).reshape(size, -1).astype("float32")
