// Gradients of single records, and their norms.

#ifndef KERAS_DPVIT_NATIVE_SUMS_H_
#define KERAS_DPVIT_NATIVE_SUMS_H_

#include <cstdint>

namespace keras_dpvit {

// Writes x^T g of one record, its gradient in a matrix, and returns the squared Frobenius norm.
//   x: `tokens` rows of `width_in` numbers; g: `tokens` rows of `width_out`.
//   product: `width_in` rows of `width_out`.
// `FinishWrites` must be called before another thread reads the product. The norm is that of the
// product as written, to 2e-6 of its square.
double RecordProduct(const float* x, const float* g, int64_t tokens, int64_t width_in,
                    int64_t width_out, float* product);

// The places of a convolution's kernel over an image, of height and width each.
struct Places {
  int64_t sides[2], channels;   // of the image
  int64_t sizes[2];             // of the kernel
  int64_t strides[2], rates[2]; // rates: of dilation
  int64_t before[2];            // zeros above and to the left
  int64_t number[2];            // places

  int64_t Tokens() const { return number[0] * number[1]; }
  int64_t Width() const { return sizes[0] * sizes[1] * channels; }
};

// Writes what the kernel sees of an image: a row of `Width` numbers for each place.
void WindowRows(const float* image, const Places& places, float* rows);

// Writes the sum of the rows of g, one record's gradient in a bias, and returns its squared norm.
double RecordSum(const float* g, int64_t tokens, int64_t width, float* sum);

// An upper bound of the squared norm of x^T g, from the scalar products of every two rows.
//
// Where rows cancel each other, rounding can take the sum S of the products far below its true
// value, even to 0. With u = 2^-24, L lanes and A = sum_t |x_t| |g_t|, every product of rows is
// wrong by (width / L + log2 L + 1) u of their norms at the most, so S by
// ((in + out) / L + 2 log2 L + 4) u A^2; and x^T g as somebody adds it up in float32, one product
// after another, is wrong by (tokens + 3) u A at the most, which adds (2 tokens + 7) u A^2 to its
// square. The bound is S plus both.
double GramNorm(const float* x, const float* g, int64_t tokens, int64_t width_in,
                int64_t width_out);

// The squared norm of `count` numbers, to 3e-6.
double SquaredNorm(const float* numbers, int64_t count);

}  // namespace keras_dpvit

#endif  // KERAS_DPVIT_NATIVE_SUMS_H_
