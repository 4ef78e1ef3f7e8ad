// Runs the kernels of masked attention, Winograd's transforms and group normalisation on buffers of exactly the size they
// may touch, under a sanitizer that stops the program at the first access outside them (address), undefined operation
// (undefined) or race between threads (thread). M2F_KERNEL is 0, 1 or 2.

#include M2F_SOURCE

#include <cstdlib>
#include <memory>

namespace {

template <typename S> std::unique_ptr<S[]> buffer(int64_t count) { return std::unique_ptr<S[]>(new S[count]()); }

std::unique_ptr<float[]> numbers(int64_t count) {
  auto out = buffer<float>(count);
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(std::rand() % 1000) / 500 - 1;
  return out;
}

#if M2F_KERNEL == 0
void run(int64_t threads, int64_t queries, int64_t cells) {
  const int64_t batch = 2, heads = 3, channels = heads * M2F_HEAD_DIM, sizes[] = {batch, queries, cells, heads};
  auto query = numbers(batch * queries * channels), out = buffer<float>(batch * queries * channels);
  auto key = numbers(batch * cells * channels), value = numbers(batch * cells * channels);
  auto keep = buffer<uint8_t>(batch * queries * cells);
  for (int64_t i = 0; i < batch * queries * cells; ++i) keep[i] = i % cells == 0 || std::rand() % 3 == 0;
  m2f_masked_attention(query.get(), key.get(), value.get(), keep.get(), out.get(), sizes, threads, nullptr);
}
#elif M2F_KERNEL == 1
void run(int64_t threads, int64_t height, int64_t width) {
  const int64_t channels = 21, rows = (height + 3) / 4, columns = (width + 3) / 4;
  auto map = numbers(height * width * channels), out = buffer<float>(height * width * channels);
  std::unique_ptr<float[]> tiles[36];
  float* to[36];
  for (const int64_t first : {int64_t(0), rows / 2}) {
    for (int k = 0; k < 36; ++k) to[k] = (tiles[k] = buffer<float>((rows - first) * columns * channels)).get();
    const int64_t sizes[] = {height, width, channels, first, rows - first};
    m2f_winograd_split(map.get(), to, sizes, threads, nullptr);
    m2f_winograd_join(to, out.get(), sizes, threads, nullptr);
  }
}
#else
void run(int64_t threads, int64_t height, int64_t width) {
  const int64_t batch = 2, channels = 24, low = (height + 1) / 2, narrow = (width + 1) / 3 + 1;
  auto weight = numbers(channels), bias = numbers(channels), coarser = numbers(batch * low * narrow * channels);
  const int64_t valid[] = {height, (height + 1) / 2, width, (width + 2) / 3, low, (low + 1) / 2, narrow, 1};
  for (const int64_t relu : {0, 1}) {
    auto map = numbers(batch * height * width * channels);
    const int64_t sizes[] = {batch, height, width, channels, 4, relu, low, narrow};
    m2f_group_norm(map.get(), weight.get(), bias.get(), 1e-5, valid, relu ? nullptr : coarser.get(), sizes, threads,
                   nullptr);
  }
}
#endif

}  // namespace

int main() {
  const int64_t cases[][2] = {{1, 1}, {5, 7}, {100, 130}, {137, 64}, {16, 33}};
  for (const int64_t threads : {1, 3})
    for (const auto& size : cases) run(threads, size[0], size[1]);
}
