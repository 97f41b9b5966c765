// Gradients of single records, and their norms.

#ifndef KERAS_DPVIT_NATIVE_SUMS_H_
#define KERAS_DPVIT_NATIVE_SUMS_H_

#include <cstdint>

namespace keras_dpvit {

// Writes x^T g of one record, its gradient in a matrix, and returns the squared Frobenius norm.
//   x: `tokens` rows of `width_in` numbers; g: `tokens` rows of `width_out`.
//   product: `width_in` rows of `width_out`.
// `FinishWrites` must be called before another thread reads the product.
float RecordProduct(const float* x, const float* g, int64_t tokens, int64_t width_in,
                    int64_t width_out, float* product);

// Writes the sum of the rows of g, one record's gradient in a bias, and returns its squared norm.
float RecordSum(const float* g, int64_t tokens, int64_t width, float* sum);

// The squared norm that `RecordProduct` returns, from the scalar products of every two rows.
float GramNorm(const float* x, const float* g, int64_t tokens, int64_t width_in,
               int64_t width_out);

}  // namespace keras_dpvit

#endif  // KERAS_DPVIT_NATIVE_SUMS_H_
