#include "sums.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "vector.h"

namespace keras_dpvit {
namespace {

constexpr double kRounding = 1.0 / (1 << 24);  // of float32, relative
constexpr double kLeast = 1e-27;               // see `GramNorm`: 2^-126 over any of its errors

// A tile of the product, `rows` by `vectors` registers, stays in registers over all tokens. One
// more holds a number of x in every lane, `vectors` more a piece of a row of g.
constexpr int Rows(int vectors) { return (kRegisters - 4) / vectors / 4 * 4; }

// Adds the squares of a tile to `squares`, and writes the tile.
template <int rows, int vectors, bool past_caches>
void Tile(const float* x, const float* g, int64_t tokens, int64_t x_stride, int64_t g_stride,
          float* product, int64_t product_stride, Squares* squares) {
  Vector sum[rows][vectors];
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < vectors; ++j) sum[i][j] = Vector{};
  }
  for (int64_t t = 0; t < tokens; ++t, x += x_stride, g += g_stride) {
    Vector piece[vectors];
    for (int j = 0; j < vectors; ++j) piece[j] = Load(g + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const Vector number = Vector{} + x[i];
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j] += number * piece[j];
    }
  }
  Vector few = Vector{};
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < vectors; ++j) {
      few += sum[i][j] * sum[i][j];
      // The whole batch's are written before any is read: more than caches hold.
      (past_caches ? StorePastCaches : Store)(product + i * product_stride + j * kLanes, sum[i][j]);
    }
  }
  squares->Add(few);
}

using TileFunction = void (*)(const float*, const float*, int64_t, int64_t, int64_t, float*,
                              int64_t, Squares*);

// The tile of `rows` rows, `most` if there are more.
template <int vectors, bool past_caches, int most>
TileFunction TileOf(int64_t rows) {
  if constexpr (most > 1) {
    if (rows < most) return TileOf<vectors, past_caches, most - 1>(rows);
  }
  return Tile<most, vectors, past_caches>;
}

// All rows of so many vectors' columns.
template <int vectors, bool past_caches>
void Strip(const float* x, const float* g, int64_t tokens, int64_t width_in, int64_t g_stride,
           float* product, int64_t product_stride, Squares* squares) {
  constexpr int most = Rows(vectors);
  for (int64_t i = 0; i < width_in; i += most) {
    TileOf<vectors, past_caches, most>(width_in - i)(x + i, g, tokens, width_in, g_stride,
                                                     product + i * product_stride, product_stride,
                                                     squares);
  }
}

// As many strips as fit between column `j` and the end; returns the column after them.
template <int vectors, bool past_caches>
int64_t Strips(const float* x, const float* g, int64_t tokens, int64_t width_in, int64_t width_out,
               float* product, int64_t j, Squares* squares) {
  for (; j + vectors * kLanes <= width_out; j += vectors * kLanes) {
    Strip<vectors, past_caches>(x, g + j, tokens, width_in, width_out, product + j, width_out,
                                squares);
  }
  return j;
}

template <bool past_caches>
int64_t WholeVectors(const float* x, const float* g, int64_t tokens, int64_t width_in,
                     int64_t width_out, float* product, Squares* squares) {
  int64_t j = 0;
  if (width_out % (3 * kLanes) == 0) {
    j = Strips<3, past_caches>(x, g, tokens, width_in, width_out, product, j, squares);
  }
  j = Strips<2, past_caches>(x, g, tokens, width_in, width_out, product, j, squares);
  return Strips<1, past_caches>(x, g, tokens, width_in, width_out, product, j, squares);
}

// Rows whose width is a whole number of vectors: `rows` itself, or a copy with zeros at the ends.
const float* WholeRows(const float* rows, int64_t tokens, int64_t* width,
                       std::vector<float>* copy) {
  if (*width % kLanes == 0) return rows;
  const int64_t whole = (*width + kLanes - 1) / kLanes * kLanes;
  copy->assign(tokens * whole, 0.0f);
  for (int64_t t = 0; t < tokens; ++t) {
    std::memcpy(copy->data() + t * whole, rows + t * *width, *width * sizeof(float));
  }
  *width = whole;
  return copy->data();
}

// Lane by lane products of two rows, added up over their vectors.
inline Vector Products(const float* a, const float* b, int64_t width) {
  Vector sum = Load(a) * Load(b);
  for (int64_t k = kLanes; k < width; k += kLanes) sum += Load(a + k) * Load(b + k);
  return sum;
}

}  // namespace

double RecordProduct(const float* x, const float* g, int64_t tokens, int64_t width_in,
                     int64_t width_out, float* product) {
  Squares squares;
  const bool aligned =
      reinterpret_cast<uintptr_t>(product) % sizeof(Vector) == 0 && width_out % kLanes == 0;
  const int64_t j = (aligned ? WholeVectors<true> : WholeVectors<false>)(
      x, g, tokens, width_in, width_out, product, &squares);
  if (j < width_out) {  // the last columns, with zeros beside them
    const int64_t left = width_out - j;
    static thread_local std::vector<float> padded, strip;
    padded.assign(tokens * kLanes, 0.0f);
    strip.resize(width_in * kLanes);
    for (int64_t t = 0; t < tokens; ++t) {
      std::memcpy(&padded[t * kLanes], g + t * width_out + j, left * sizeof(float));
    }
    Strip<1, false>(x, padded.data(), tokens, width_in, kLanes, strip.data(), kLanes, &squares);
    for (int64_t i = 0; i < width_in; ++i) {
      std::memcpy(product + i * width_out + j, &strip[i * kLanes], left * sizeof(float));
    }
  }
  return squares.Total();
}

void WindowRows(const float* image, const Places& places, float* rows) {
  const int64_t channels = places.channels, width = places.sides[1];
  const int64_t segment = places.sizes[1] * channels;
  for (int64_t row = 0; row < places.number[0]; ++row) {
    for (int64_t column = 0; column < places.number[1]; ++column) {
      const int64_t x = column * places.strides[1] - places.before[1];
      for (int64_t i = 0; i < places.sizes[0]; ++i, rows += segment) {
        const int64_t y = row * places.strides[0] - places.before[0] + i * places.rates[0];
        if (y < 0 || y >= places.sides[0]) {
          std::fill(rows, rows + segment, 0.0f);
          continue;
        }
        const float* line = image + y * width * channels;
        if (places.rates[1] == 1 && x >= 0 && x + places.sizes[1] <= width) {
          std::memcpy(rows, line + x * channels, segment * sizeof(float));
          continue;
        }
        for (int64_t j = 0; j < places.sizes[1]; ++j) {
          const int64_t at = x + j * places.rates[1];
          float* to = rows + j * channels;
          if (at < 0 || at >= width) {
            std::fill(to, to + channels, 0.0f);
          } else {
            std::memcpy(to, line + at * channels, channels * sizeof(float));
          }
        }
      }
    }
  }
}

double RecordSum(const float* g, int64_t tokens, int64_t width, float* sum) {
  std::fill(sum, sum + width, 0.0f);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t j = 0; j < width; ++j) sum[j] += g[t * width + j];
  }
  double norm = 0.0;
  for (int64_t j = 0; j < width; ++j) norm += static_cast<double>(sum[j]) * sum[j];
  return norm;
}

double SquaredNorm(const float* numbers, int64_t count) {
  // Squared as doubles: as floats, squares of numbers below 1e-19 would lose digits, or vanish.
  DoubleVector sums = DoubleVector{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const DoubleVector piece = __builtin_convertvector(Load(numbers + i), DoubleVector);
    sums += piece * piece;
  }
  double norm = 0.0;
  for (int lane = 0; lane < kLanes; ++lane) norm += sums[lane];
  for (; i < count; ++i) norm += static_cast<double>(numbers[i]) * numbers[i];
  return norm;
}

double GramNorm(const float* x, const float* g, int64_t tokens, int64_t width_in,
                int64_t width_out) {
  static thread_local std::vector<float> x_copy, g_copy;
  x = WholeRows(x, tokens, &width_in, &x_copy);
  g = WholeRows(g, tokens, &width_out, &g_copy);
  Vector x_products[kLanes], g_products[kLanes], times = Vector{};
  Squares total;
  double lengths = 0.0;  // sum_t |x_t| |g_t|
  int waiting = 0;
  auto add = [&] {
    for (int l = waiting; l < kLanes; ++l) {
      x_products[l] = g_products[l] = Vector{};
      times[l] = 0.0f;
    }
    const Vector xs = LaneSums(x_products), gs = LaneSums(g_products);
    total.Add(times * xs * gs);
    for (int l = 0; l < waiting; ++l) {
      // Rows too small for their squares count as the least that is not.
      if (times[l] == 1.0f) lengths += std::sqrt((xs[l] + kLeast) * (gs[l] + kLeast));
    }
    waiting = 0;
  };
  for (int64_t s = 0; s < tokens; ++s) {
    for (int64_t t = 0; t <= s; ++t) {
      x_products[waiting] = Products(x + s * width_in, x + t * width_in, width_in);
      g_products[waiting] = Products(g + s * width_out, g + t * width_out, width_out);
      times[waiting] = s == t ? 1.0f : 2.0f;  // a pair stands for its mirror image, too
      if (++waiting == kLanes) add();
    }
  }
  if (waiting > 0) add();
  // A NaN, which every comparison denies, stays one.
  const double norm = total.Total(), found = norm < 0.0 ? 0.0 : norm;
  const double units = (width_in + width_out) / kLanes + 2 * tokens + 32;
  return found + units * kRounding * lengths * lengths;
}

}  // namespace keras_dpvit
