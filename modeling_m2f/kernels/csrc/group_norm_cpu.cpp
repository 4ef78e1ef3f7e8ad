// Group normalisation of channels-last maps in place, and what follows it in a feature pyramid, in two passes over
// memory on a CPU; formula and shapes in kernels/group_norm.py.
//
// Compiled once for each M2F_DTYPE (float, bfloat16); sums are made in double.
//
// No result depends on the number or kind of threads: each row's sums are made by one thread, and added in order.

#include "cpu_common.h"

#include <algorithm>

namespace {

using T = M2F_DTYPE;

// A map with its valid part, the upper left corner.
struct Map {
  T* cells;  // (B, height, width, channels)
  int64_t height, width, channels;
  const int64_t *rows, *columns;  // (B,)

  T* row(int64_t b, int64_t y) const { return cells + (b * height + y) * width * channels; }
};

struct Problem {
  Map map;
  int64_t groups;
  const float *weight, *bias;  // (channels,)
  double eps;
  Map coarser;  // cells is null without one
  bool relu;

  int64_t group_channels() const { return map.channels / groups; }
};

// Mean of each group over the first row: sums of differences from it lose nothing where means are large.
void first_means(const Problem& in, int64_t b, float* means) {
  const T* row = in.map.row(b, 0);
  const int64_t size = in.group_channels(), columns = in.map.columns[b];
  for (int64_t g = 0; g < in.groups; ++g) {
    double sum = 0;
    for (int64_t x = 0; x < columns; ++x)
      for (int64_t c = 0; c < size; ++c) sum += load(row[x * in.map.channels + g * size + c]);
    means[g] = static_cast<float>(sum / (columns * size));
  }
}

// Sums of the differences from `means` and of their squares over a row: (groups, 2)
void sum_row(const Problem& in, int64_t b, int64_t y, const float* means, double* sums) {
  const int64_t channels = in.map.channels, size = in.group_channels();
  std::vector<float> memory(3 * channels, 0.0f);
  float *centre = memory.data(), *sum = centre + channels, *squares = sum + channels;
  for (int64_t c = 0; c < channels; ++c) centre[c] = means[c / size];
  const T* row = in.map.row(b, y);
  for (int64_t x = 0; x < in.map.columns[b]; ++x)
    for (int64_t c = 0; c < channels; ++c) {
      const float difference = load(row[x * channels + c]) - centre[c];
      sum[c] += difference;
      squares[c] += difference * difference;
    }
  for (int64_t g = 0; g < in.groups; ++g) {
    sums[2 * g] = sums[2 * g + 1] = 0;
    for (int64_t c = g * size; c < (g + 1) * size; ++c) {
      sums[2 * g] += sum[c];
      sums[2 * g + 1] += squares[c];
    }
  }
}

// Normalisation as factor and summand of each channel.
void line_of(const Problem& in, int64_t b, const float* means, const double* sums, float* factor, float* summand) {
  const int64_t size = in.group_channels(), rows = in.map.rows[b];
  const double count = static_cast<double>(rows * in.map.columns[b] * size);
  for (int64_t g = 0; g < in.groups; ++g) {
    double sum = 0, squares = 0;
    for (int64_t y = 0; y < rows; ++y) {
      sum += sums[(y * in.groups + g) * 2];
      squares += sums[(y * in.groups + g) * 2 + 1];
    }
    const double offset = sum / count, variance = squares / count - offset * offset;
    const double rate = 1 / std::sqrt((variance < 0 ? 0 : variance) + in.eps);  // a NaN stays one
    for (int64_t c = g * size; c < (g + 1) * size; ++c) {
      factor[c] = static_cast<float>(rate * in.weight[c]);
      summand[c] = static_cast<float>(in.bias[c] - (means[g] + offset) * rate * in.weight[c]);
    }
  }
}

// Where a place of a map lies in a coarser one, whose last valid cell is repeated: as in bilinear resizing without
// aligned corners.
struct Place {
  int64_t low, high;
  float share;  // of `high`

  Place(int64_t position, int64_t length, int64_t coarse_length, int64_t valid) {
    const float scale = static_cast<float>(coarse_length) / static_cast<float>(length);
    const float at = std::max(0.0f, (static_cast<float>(position) + 0.5f) * scale - 0.5f);
    low = std::min(static_cast<int64_t>(at), coarse_length - 1);
    high = std::min(low + 1, coarse_length - 1);
    share = at - static_cast<float>(low);
    high = std::min(high, valid - 1);
  }
};

void write_row(const Problem& in, int64_t b, int64_t y, const float* factor, const float* summand) {
  const int64_t channels = in.map.channels;
  const int64_t columns = y < in.map.rows[b] ? in.map.columns[b] : 0;
  T* row = in.map.row(b, y);
  for (int64_t x = 0; x < columns; ++x) {
    T* cell = row + x * channels;
    if (in.coarser.cells) {
      const Map& from = in.coarser;
      const Place v(y, in.map.height, from.height, from.rows[b]), h(x, in.map.width, from.width, from.columns[b]);
      const T *a0 = from.row(b, v.low) + h.low * channels, *a1 = from.row(b, v.low) + h.high * channels;
      const T *b0 = from.row(b, v.high) + h.low * channels, *b1 = from.row(b, v.high) + h.high * channels;
      const float w00 = (1 - v.share) * (1 - h.share), w01 = (1 - v.share) * h.share;
      const float w10 = v.share * (1 - h.share), w11 = v.share * h.share;
      for (int64_t c = 0; c < channels; ++c) {
        const float resized = w00 * load(a0[c]) + w01 * load(a1[c]) + w10 * load(b0[c]) + w11 * load(b1[c]);
        store(cell + c, load(cell[c]) * factor[c] + summand[c] + resized);
      }
    } else if (in.relu) {
      for (int64_t c = 0; c < channels; ++c) {
        const float value = load(cell[c]) * factor[c] + summand[c];
        store(cell + c, value < 0 ? 0.0f : value);  // a NaN stays one
      }
    } else {
      for (int64_t c = 0; c < channels; ++c) store(cell + c, load(cell[c]) * factor[c] + summand[c]);
    }
  }
  std::fill(row + columns * channels, row + in.map.width * channels, T());
}

}  // namespace

// valid: rows and columns of the map and of the coarser one, (4, B). coarser may be null.
// sizes: batch, height, width, channels, groups, relu, height and width of the coarser map.
M2F_EXPORT void m2f_group_norm(void* map, const void* weight, const void* bias, double eps, const int64_t* valid,
                               const void* coarser, const int64_t* sizes, int64_t threads, void* gomp_parallel) {
  const int64_t batch = sizes[0];
  const Problem in{{static_cast<T*>(map), sizes[1], sizes[2], sizes[3], valid, valid + batch},
                   sizes[4],
                   static_cast<const float*>(weight),
                   static_cast<const float*>(bias),
                   eps,
                   {static_cast<T*>(const_cast<void*>(coarser)), sizes[6], sizes[7], sizes[3], valid + 2 * batch,
                    valid + 3 * batch},
                   sizes[5] != 0};
  const Team team = team_of(threads, gomp_parallel);
  std::vector<float> means(in.groups), factor(in.map.channels), summand(in.map.channels);
  std::vector<double> sums(in.map.height * in.groups * 2);
  for (int64_t b = 0; b < batch; ++b) {
    first_means(in, b, means.data());
    in_parallel(in.map.rows[b], team, [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) sum_row(in, b, y, means.data(), sums.data() + y * in.groups * 2);
    });
    line_of(in, b, means.data(), sums.data(), factor.data(), summand.data());
    in_parallel(in.map.height, team, [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) write_row(in, b, y, factor.data(), summand.data());
    });
  }
}
