// Points on a CPU: drawn, read from maps that share them, and the sums over them that matching needs. What is computed
// is defined in plain PyTorch by point_sampling.py and matcher.py.
//
// No result depends on the number of threads: every output is written by one thread, in one order.

#include "points_common.h"

namespace {

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): spreads the bits of a seed.
inline uint64_t spread(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// xoshiro128++ (Blackman and Vigna, ACM TOMS 2021), as many of them as fill two vectors of AVX2: additions and shifts
// alone, so that compilers vectorise them. PyTorch's generator gives one number at a time, on one thread.
struct Generators {
  static constexpr int64_t LANES = 16;
  uint32_t a[LANES], b[LANES], c[LANES], d[LANES];

  explicit Generators(uint64_t seed) {
    for (int64_t i = 0; i < LANES; ++i) {
      const uint64_t low = spread(seed), high = spread(seed);
      a[i] = static_cast<uint32_t>(low);
      b[i] = static_cast<uint32_t>(low >> 32);
      c[i] = static_cast<uint32_t>(high);
      d[i] = static_cast<uint32_t>(high >> 32) | 1;  // a state of zeros would stay one
    }
  }

  static uint32_t rotated(uint32_t x, int k) { return (x << k) | (x >> (32 - k)); }

  // In [0, 1), multiples of 2^-24.
  void next(float* to) {
    for (int64_t i = 0; i < LANES; ++i) {
      const uint32_t bits = rotated(a[i] + d[i], 7) + a[i], shifted = b[i] << 9;
      c[i] ^= a[i];
      d[i] ^= b[i];
      b[i] ^= c[i];
      a[i] ^= d[i];
      c[i] ^= shifted;
      d[i] = rotated(d[i], 11);
      to[i] = static_cast<float>(static_cast<int32_t>(bits >> 8)) * 0x1p-24f;
    }
  }
};

void draw(uint64_t seed, int64_t count, float* to) {
  Generators generators(seed);
  int64_t i = 0;
  for (; i + Generators::LANES <= count; i += Generators::LANES) generators.next(to + i);
  float rest[Generators::LANES];
  generators.next(rest);
  std::memcpy(to + i, rest, (count - i) * sizeof(float));
}

}  // namespace

// seeds: (n,), one of each row of numbers (n, count).
M2F_EXPORT void m2f_draw(
    const int64_t* seeds, float* numbers, int64_t n, int64_t count, int64_t threads, void* gomp_parallel) {
  in_parallel(n, team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) draw(static_cast<uint64_t>(seeds[i]), count, numbers + i * count);
  });
}

// maps: (n, height, width), points: (count, 2), values: (n, count). sizes: n, height, width, count.
M2F_EXPORT void m2f_sample(
    const float* maps, const float* points, float* values, const int64_t* sizes, int64_t threads,
    void* gomp_parallel) {
  const Frame frame{sizes[1], sizes[2]};
  const int64_t count = sizes[3];
  std::vector<int32_t> cell(count);
  std::vector<float> dx(count), dy(count);
  for (int64_t i = 0; i < count; ++i) {
    const Place at = place(frame, points[2 * i], points[2 * i + 1]);
    cell[i] = at.cell;
    dx[i] = at.dx;
    dy[i] = at.dy;
  }
  prefer_huge_pages(values, sizes[0] * count * sizeof(float));
  in_parallel(sizes[0], team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    std::vector<float> framed(frame.cells());
    const int64_t stride = frame.stride();
    for (int64_t n = begin; n < end; ++n) {
      frame.put(maps + n * frame.height * frame.width, framed.data());
      const float* map = framed.data();
      float* to = values + n * count;
      for (int64_t i = 0; i < count; ++i) to[i] = sample(map, stride, cell[i], dx[i], dy[i]);
    }
  });
}

// Of logits (rows, count) with weights (count,) or null: weight * sigmoid, (rows, count), its sum and that of
// weight * softplus, (rows,) each.
M2F_EXPORT void m2f_sigmoid_sums(
    const float* logits, const float* weights, float* sigmoids, float* sigmoid_sums, float* softplus_sums,
    int64_t rows, int64_t count, int64_t threads, void* gomp_parallel) {
  prefer_huge_pages(sigmoids, rows * count * sizeof(float));
  in_parallel(rows, team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    std::vector<float> ones(weights ? 0 : BLOCK, 1.0f);
    for (int64_t row = begin; row < end; ++row) {
      double sigmoid_sum = 0, softplus_sum = 0;
      for (int64_t first = 0; first < count; first += BLOCK) {
        const int64_t n = count - first < BLOCK ? count - first : BLOCK;
        const float *x = logits + row * count + first, *weight = weights ? weights + first : ones.data();
        float *to = sigmoids + row * count + first, probabilities = 0, losses = 0;
        for (int64_t i = 0; i < n; ++i) {
          const Logistic at = logistic(x[i]);
          to[i] = weight[i] * at.probability;
          probabilities += to[i];
          losses += weight[i] * at.softplus;
        }
        sigmoid_sum += probabilities;
        softplus_sum += losses;
      }
      sigmoid_sums[row] = static_cast<float>(sigmoid_sum);
      softplus_sums[row] = static_cast<float>(softplus_sum);
    }
  });
}
