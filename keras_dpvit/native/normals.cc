// Compiled with fast mathematics, so that logarithms, sines and cosines are vectors of them. No
// number here is infinite or NaN.

#include "normals.h"

#include <algorithm>
#include <cmath>

namespace keras_dpvit {
namespace {

constexpr int kGroup = 16;  // counters at a time

// Salmon et al. 2011, Philox4x32 with 10 rounds: `words[w][l]` of counter l.
void Philox(uint64_t key, const uint32_t counters[4][kGroup], uint32_t words[4][kGroup]) {
  uint32_t key_low = static_cast<uint32_t>(key), key_high = static_cast<uint32_t>(key >> 32);
  std::copy(&counters[0][0], &counters[0][0] + 4 * kGroup, &words[0][0]);
  for (int round = 0; round < 10; ++round) {
    for (int l = 0; l < kGroup; ++l) {
      const uint64_t a = uint64_t{0xD2511F53} * words[0][l];
      const uint64_t b = uint64_t{0xCD9E8D57} * words[2][l];
      words[0][l] = static_cast<uint32_t>(b >> 32) ^ words[1][l] ^ key_low;
      words[1][l] = static_cast<uint32_t>(b);
      words[2][l] = static_cast<uint32_t>(a >> 32) ^ words[3][l] ^ key_high;
      words[3][l] = static_cast<uint32_t>(a);
    }
    key_low += 0x9E3779B9;
    key_high += 0xBB67AE85;
  }
}

}  // namespace

void PhiloxBits(uint64_t key, uint64_t counter_low, uint64_t counter_high, int64_t first,
                int64_t count, int32_t* bits) {
  for (int64_t number = first / 4; number * 4 < first + count; number += kGroup) {
    uint32_t counters[4][kGroup], words[4][kGroup];
    for (int l = 0; l < kGroup; ++l) {
      const uint64_t low = counter_low + static_cast<uint64_t>(number) + l;
      const uint64_t high = counter_high + (low < counter_low);
      counters[0][l] = static_cast<uint32_t>(low);
      counters[1][l] = static_cast<uint32_t>(low >> 32);
      counters[2][l] = static_cast<uint32_t>(high);
      counters[3][l] = static_cast<uint32_t>(high >> 32);
    }
    Philox(key, counters, words);
    int32_t in_order[4 * kGroup];
    for (int l = 0; l < kGroup; ++l) {
      for (int w = 0; w < 4; ++w) in_order[4 * l + w] = words[w][l] & 0x7FFFFFFF;
    }
    const int64_t begin = std::max<int64_t>(first, number * 4);
    const int64_t end = std::min<int64_t>(first + count, (number + kGroup) * 4);
    std::copy(in_order + begin - number * 4, in_order + end - number * 4, bits + begin - first);
  }
}

void StandardNormals(uint64_t key, uint64_t counter_low, uint64_t counter_high, int64_t pairs,
                     int64_t begin, int64_t end, float* cosines, float* sines) {
  constexpr int64_t kPiece = 512;
  constexpr float kScale = 1.0f / 2147483648.0f;
  constexpr float kTurn = 6.283185307179586f * kScale;
  int32_t coarse[kPiece], fine[kPiece], turn[kPiece];
  float radius[kPiece], angle[kPiece];
  for (; begin < end; begin += kPiece) {
    const int64_t size = std::min(kPiece, end - begin);
    PhiloxBits(key, counter_low, counter_high, begin, size, coarse);
    PhiloxBits(key, counter_low, counter_high, pairs + begin, size, fine);
    PhiloxBits(key, counter_low, counter_high, 2 * pairs + begin, size, turn);
    for (int64_t i = 0; i < size; ++i) {
      // In (0, 1]: the fine bits count where the coarse ones are few.
      const float small = (static_cast<float>(fine[i]) + 0.5f) * kScale;
      const float uniform = std::min((static_cast<float>(coarse[i]) + small) * kScale, 1.0f);
      radius[i] = std::sqrt(-2.0f * std::log(uniform));
      angle[i] = kTurn * static_cast<float>(turn[i]);
    }
    // Apart, for GCC has no vectors of a sine and cosine in one.
    for (int64_t i = 0; i < size; ++i) cosines[i] = radius[i] * std::cos(angle[i]);
    for (int64_t i = 0; i < size; ++i) sines[i] = radius[i] * std::sin(angle[i]);
    cosines += size;
    sines += size;
  }
}

}  // namespace keras_dpvit
