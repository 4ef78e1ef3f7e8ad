// Runs the kernels of post-processing on buffers of exactly the size they may touch, under a sanitizer that stops the
// program at the first access outside them (address), undefined operation (undefined) or race between threads (thread).
// argv[1] names a file: maps, height and width of the logits and of the target as text, then the tables of rows and
// columns, and of rows and columns from the target's size to a second one.

#include M2F_SOURCE

#include <fstream>
#include <memory>
#include <random>

namespace {

std::mt19937 generator(0);

template <typename S> std::unique_ptr<S[]> buffer(int64_t count) { return std::unique_ptr<S[]>(new S[count]()); }

std::unique_ptr<float[]> random_logits(int64_t count) {
  auto numbers = buffer<float>(count);
  std::normal_distribution<float> normal(0, 4);
  for (int64_t i = 0; i < count; ++i) numbers[i] = normal(generator);
  return numbers;
}

struct Table {
  int64_t length = 0;
  std::unique_ptr<int32_t[]> cells;
  std::unique_ptr<float[]> weights;

  void read(std::istream& in) {
    in >> length;
    cells = buffer<int32_t>(length);
    weights = buffer<float>(length);
    for (int64_t i = 0; i < length; ++i) in >> cells[i];
    for (int64_t i = 0; i < length; ++i) in >> weights[i];
  }
};

}  // namespace

int main(int, char** arguments) {
  std::ifstream in(arguments[1]);
  int64_t maps, height, width, rows, columns, last_rows, last_columns;
  in >> maps >> height >> width >> rows >> columns >> last_rows >> last_columns;
  Table table[4];
  for (Table& each : table) each.read(in);
  const void* tables[8];
  for (int i = 0; i < 4; ++i) {
    tables[2 * i] = table[i].cells.get();
    tables[2 * i + 1] = table[i].weights.get();
  }
  auto logits = random_logits(maps * height * width);
  for (const int64_t threads : {1, 3}) {
#ifdef M2F_VOTES
    const int64_t classes = 7;
    auto weights = buffer<float>(maps * classes);
    for (int64_t i = 0; i < maps * classes; ++i) weights[i] = (generator() % 100) / 700.0f;
    const int64_t sizes[] = {maps, classes, height, width, rows, columns, last_rows, last_columns, 1};
    auto labels = buffer<int64_t>(last_rows * last_columns);
    auto best = buffer<float>(last_rows * last_columns), total = buffer<float>(last_rows * last_columns);
    m2f_vote(logits.get(), weights.get(), tables, sizes, labels.get(), best.get(), total.get(), threads, nullptr);
#else
    const int64_t tile_rows = (rows + TILE - 1) / TILE, tiles = tile_rows * ((columns + TILE - 1) / TILE);
    const int64_t sizes[] = {maps, height, width, rows, columns};
    auto chosen = buffer<int64_t>(maps);
    for (int64_t n = 0; n < maps; ++n) chosen[n] = n;
    auto bounds = buffer<float>(tiles * 2 * maps), scores = buffer<float>(maps);
    for (int64_t n = 0; n < maps; ++n) scores[n] = 0.5f + n / 100.0f;
    auto codes = buffer<int32_t>(rows * columns), owner = buffer<int32_t>(rows * columns);
    auto counts = buffer<int64_t>(3 * maps), areas = buffer<int64_t>(maps * tile_rows);
    auto sums = buffer<double>(maps * tile_rows);
    auto masks = buffer<uint8_t>(maps * rows * columns), kept = buffer<uint8_t>(maps);
    m2f_bound_masks(logits.get(), chosen.get(), tables, sizes, bounds.get(), threads, nullptr);
    m2f_merge_masks(logits.get(), chosen.get(), tables, sizes, bounds.get(), scores.get(), 0, codes.get(),
                    counts.get(), threads, nullptr);
    m2f_measure_masks(logits.get(), chosen.get(), tables, sizes, bounds.get(), 0, areas.get(), sums.get(), threads,
                      nullptr);
    m2f_write_masks(logits.get(), chosen.get(), tables, sizes, bounds.get(), 0, chosen.get(), maps, masks.get(),
                    threads, nullptr);
    std::fill(owner.get(), owner.get() + rows * columns, -1);
    m2f_lay_masks(masks.get(), maps, rows * columns, 0.3f, owner.get(), kept.get(), threads, nullptr);
#endif
  }
}
