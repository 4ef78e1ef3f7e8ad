// 8-bit pixels to the model's input in one pass: normalised by a table, channels first, padded with 0. Fresh memory
// costs more than the arithmetic, so each page is touched once.

#include "cpu_common.h"

#include <algorithm>

namespace {

struct Canvas {
  const uint8_t* pixels;  // (height, width, 3)
  const float* table;     // (3, 256)
  int64_t height, width, rows, columns;
  float* values;  // (3, rows, columns)
  int64_t* mask;  // (rows, columns)

  void fill_row(int64_t y) const {
    const int64_t filled = y < height ? width : 0;
    for (int64_t c = 0; c < 3; ++c) {
      const uint8_t* from = pixels + y * width * 3 + c;
      float* to = values + (c * rows + y) * columns;
      for (int64_t x = 0; x < filled; ++x) to[x] = table[c * 256 + from[3 * x]];
      std::fill(to + filled, to + columns, 0.0f);
    }
    std::fill(mask + y * columns, mask + y * columns + filled, int64_t(1));
    std::fill(mask + y * columns + filled, mask + (y + 1) * columns, int64_t(0));
  }
};

}  // namespace

// sizes: height and width of the image, rows and columns of the canvas.
M2F_EXPORT void m2f_pad_pixels(const void* pixels, const void* table, const int64_t* sizes, void* values, void* mask,
                               int64_t threads, void* gomp_parallel) {
  const Canvas canvas{static_cast<const uint8_t*>(pixels), static_cast<const float*>(table),
                      sizes[0], sizes[1], sizes[2], sizes[3],
                      static_cast<float*>(values), static_cast<int64_t*>(mask)};
  prefer_huge_pages(values, 3 * canvas.rows * canvas.columns * sizeof(float));
  prefer_huge_pages(mask, canvas.rows * canvas.columns * sizeof(int64_t));
  in_parallel(canvas.rows, team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) canvas.fill_row(y);
  });
}
