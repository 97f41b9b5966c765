// Standard normal numbers from Philox' counters.

#ifndef KERAS_DPVIT_NATIVE_NORMALS_H_
#define KERAS_DPVIT_NATIVE_NORMALS_H_

#include <cstdint>

namespace keras_dpvit {

// Writes 31-bit numbers `first` to `first + count` of the stream that TensorFlow's stateless
// generators make of a key and a counter.
void PhiloxBits(uint64_t key, uint64_t counter_low, uint64_t counter_high, int64_t first,
                int64_t count, int32_t* bits);

// Writes the normal numbers of pairs `begin` to `end` to `cosines[0]` and `sines[0]` onwards, by
// Box and Muller's method. Pair i is made of the bits i, `pairs` + i and 2 `pairs` + i.
void StandardNormals(uint64_t key, uint64_t counter_low, uint64_t counter_high, int64_t pairs,
                     int64_t begin, int64_t end, float* cosines, float* sines);

}  // namespace keras_dpvit

#endif  // KERAS_DPVIT_NATIVE_NORMALS_H_
