// A register of floats, as wide as the processor that this is compiled for has them.

#ifndef KERAS_DPVIT_NATIVE_VECTOR_H_
#define KERAS_DPVIT_NATIVE_VECTOR_H_

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace keras_dpvit {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kRegisters = 32;
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4;
constexpr int kRegisters = 32;
#else
constexpr int kLanes = 4;
constexpr int kRegisters = 16;
#endif

typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

typedef double DoubleVector __attribute__((vector_size(8 * kLanes)));

// Adds squares of floats up without losing any beside a larger sum. What is added at once may be a
// sum of a few dozen floats: each of their additions rounds by 2^-24 of the sum at the most.
class Squares {
 public:
  void Add(Vector few) { sum_ += __builtin_convertvector(few, DoubleVector); }

  double Total() const {
    double total = 0.0;
    for (int lane = 0; lane < kLanes; ++lane) total += sum_[lane];
    return total;
  }

 private:
  DoubleVector sum_ = DoubleVector{};
};

inline Vector Load(const float* from) { return *reinterpret_cast<const Vector*>(from); }

inline void Store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }

// Stores to an aligned place without a detour through the caches. `FinishWrites` must be called
// before another thread reads it.
inline void StorePastCaches(float* to, Vector value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, (__m512)value);
#elif defined(__AVX__)
  _mm256_stream_ps(to, (__m256)value);
#elif defined(__SSE2__)
  _mm_stream_ps(to, (__m128)value);
#else
  Store(to, value);
#endif
}

inline void FinishWrites() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// `a` and `b` folded in half: where the lane's bit `half` is 0, the sum of a's two lanes that
// differ in it; where it is 1, of b's.
template <int half>
inline Vector Fold(Vector a, Vector b) {
  typedef int Lanes __attribute__((vector_size(4 * kLanes)));
  Lanes first, second;
  for (int l = 0; l < kLanes; ++l) {
    first[l] = l & half ? kLanes + l - half : l;
    second[l] = l & half ? kLanes + l : l + half;
  }
  return __builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, second);
}

// The vector whose lane l is the sum of all lanes of `each[l]`, for `kLanes` of them.
template <int half = kLanes / 2>
inline Vector LaneSums(Vector* each) {
  for (int i = 0; i < half; ++i) each[i] = Fold<half>(each[i], each[i + half]);
  if constexpr (half > 1) {
    return LaneSums<half / 2>(each);
  } else {
    return each[0];
  }
}

}  // namespace keras_dpvit

#endif  // KERAS_DPVIT_NATIVE_VECTOR_H_
