// Runs the kernel of window attention on buffers of exactly the size it may touch, under a sanitizer that stops the
// program at the first access outside them, undefined operation or race between threads.

#include M2F_SOURCE

#include <memory>
#include <random>

namespace {

std::mt19937 generator(0);

template <typename S> std::unique_ptr<S[]> random_numbers(int64_t count) {
  std::unique_ptr<S[]> numbers(new S[count]());
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < count; ++i) store(&numbers[i], normal(generator));
  return numbers;
}

void run(int64_t batch, int64_t height, int64_t width, int64_t heads, int64_t shift, int64_t threads) {
  const int64_t sizes[] = {batch, height, width, heads, shift};
  const int64_t cells = batch * height * width * heads * D, wide = m2f_wide_bias(heads), parts = m2f_parts();
  auto qkv = random_numbers<T>(3 * cells), padding = random_numbers<T>(3 * heads * D);
  auto bias = random_numbers<A>(heads * N * N), room = random_numbers<A>(wide);
  auto out = random_numbers<T>(cells);
  m2f_forward(qkv.get(), padding.get(), bias.get(), room.get(), out.get(), sizes, threads, nullptr);
  auto grad_qkv = random_numbers<T>(3 * cells);
  auto grad_padding = random_numbers<A>(parts * 3 * heads * D), grad_wide = random_numbers<A>(parts * wide);
  auto grad_bias = random_numbers<A>(heads * N * N);
  m2f_backward(out.get(), qkv.get(), padding.get(), bias.get(), room.get(), grad_qkv.get(), grad_padding.get(),
               grad_wide.get(), grad_bias.get(), sizes, threads, nullptr);
}

}  // namespace

int main() {
  for (int64_t height = 1; height <= 2 * WINDOW + 1; ++height)
    for (int64_t width = 1; width <= WINDOW + 1; ++width)
      for (int64_t shift = 0; shift < WINDOW; ++shift) run(1 + height % 2, height, width, 1 + width % 2, shift, 3);
}
