// What the kernels that work at points share: bilinear values of maps, with zeros beyond the borders (what grid_sample
// gives with align_corners=False), and the logistic function.

#include "cpu_common.h"

namespace {

constexpr int64_t BLOCK = 256;  // points that are worked on at once; their places stay in the first cache

// A map with a border of zeros: a point's four cells are read without asking where the map ends.
struct Frame {
  int64_t height, width;

  int64_t stride() const { return width + 2; }
  int64_t cells() const { return (height + 2) * stride(); }
  const float* row(const float* framed, int64_t y) const { return framed + (y + 1) * stride() + 1; }
  float* row(float* framed, int64_t y) const { return framed + (y + 1) * stride() + 1; }

  // The border of `framed` must be 0 already.
  void put(const float* map, float* framed) const {
    for (int64_t y = 0; y < height; ++y) std::memcpy(row(framed, y), map + y * width, width * sizeof(float));
  }
  void take(const float* framed, float* map) const {
    for (int64_t y = 0; y < height; ++y) std::memcpy(map + y * width, row(framed, y), width * sizeof(float));
  }
};

// The first of a point's four cells in a frame, and the shares of the second column and row.
struct Place {
  int32_t cell;
  float dx, dy;
};

// A coordinate outside [0, 1], or NaN, is brought to a border: no place lies outside the frame.
inline float whole_cells(float position, float length) {
  const float before = std::floor(position);
  return before > -1 ? (before < length - 1 ? before : length - 1) : -1.0f;
}

// x, y: in [0, 1] of the map.
inline Place place(const Frame& frame, float x, float y) {
  const float height = static_cast<float>(frame.height), width = static_cast<float>(frame.width);
  const float column = x * width - 0.5f, row = y * height - 0.5f;
  const float left = whole_cells(column, width), top = whole_cells(row, height);
  const int32_t stride = static_cast<int32_t>(frame.width) + 2;
  const int32_t cell = (static_cast<int32_t>(top) + 1) * stride + static_cast<int32_t>(left) + 1;
  return {cell, column - left, row - top};
}

inline float sample(const float* framed, int64_t stride, int32_t cell, float dx, float dy) {
  const float* v = framed + cell;
  const float above = v[0] + dx * (v[1] - v[0]), below = v[stride] + dx * (v[stride + 1] - v[stride]);
  return above + dy * (below - above);
}

// log(1 + e) for e in [0, 1], within 2 units in the last place: 2 artanh(e / (2 + e)) as a series, whose argument is at
// most 1/3.
inline float log1p_unit(float e) {
  const float s = e / (2 + e), q = s * s;
  float p = 1.0f / 15;
  p = p * q + 1.0f / 13;
  p = p * q + 1.0f / 11;
  p = p * q + 1.0f / 9;
  p = p * q + 1.0f / 7;
  p = p * q + 1.0f / 5;
  p = p * q + 1.0f / 3;
  return 2 * s * (p * q + 1);
}

struct Logistic {
  float probability, softplus;  // 1 / (1 + exp(-x)) and log(1 + exp(x))
};

inline Logistic logistic(float x) {
  const float e = exp_nonpositive(x < 0 ? x : -x);
  return {(x < 0 ? e : 1.0f) / (1 + e), (x > 0 ? x : 0.0f) + log1p_unit(e)};
}

}  // namespace
