// Backward: the derivative of equation (4). It needs no sort, only z_in < z_out. Included inside
// the namespace of an instruction set.

template <class T>
void scale_gradient(const T* values, const T* slopes, const T* gradients, std::int64_t n,
                    T* values_out, T* out) {
  for (std::int64_t i = 0; i < n; ++i) {
    const T value = values[i];
    const bool silent = value == static_cast<T>(__builtin_inf());
    const T gradient = gradients[i] / slopes[i];
    values_out[i] = silent ? 0 : value;
    out[i] = silent ? 0 : value != value ? value : gradient;
  }
}

/// P pixels and R vectors of channels from `first`, all taps and outputs.
template <class T, int P, int R>
void input_gradient_tile(const InputGradientTask<T>& task, int pixel, std::int64_t first) {
  using V = Vec<T>;
  typename V::Reg sum[P][R], input[P][R];
  for (int p = 0; p < P; ++p)
    for (int r = 0; r < R; ++r) {
      sum[p][r] = V::set(0);
      input[p][r] = V::load(task.inputs[pixel + p] + first + r * V::lanes);
    }
  for (std::int64_t tap = 0; tap < task.taps; ++tap) {
    const T* const* outputs = task.outputs + tap * task.pixels + pixel;
    const T* const* gradients = task.gradients + tap * task.pixels + pixel;
    const T* weights = task.weights[tap] + first;
    for (std::int64_t j = 0; j < task.count; ++j, weights += task.width) {
      typename V::Reg weight[R];
      for (int r = 0; r < R; ++r) weight[r] = V::load(weights + r * V::lanes);
      for (int p = 0; p < P; ++p) {
        const auto output = V::set(outputs[p][j]);
        const auto gradient = V::set(gradients[p][j]);
        for (int r = 0; r < R; ++r)
          sum[p][r] = V::fma_where(V::not_ge(input[p][r], output), gradient, weight[r], sum[p][r]);
      }
    }
  }
  for (int p = 0; p < P; ++p)
    for (int r = 0; r < R; ++r) V::store(task.results[pixel + p] + first + r * V::lanes, sum[p][r]);
}

template <class T, int P, int R>
void input_gradient_pixels(const InputGradientTask<T>& task, std::int64_t first) {
  int pixel = 0;
  for (; pixel + P <= task.pixels; pixel += P) input_gradient_tile<T, P, R>(task, pixel, first);
  if constexpr (P % 2 == 0)
    for (; pixel + P / 2 <= task.pixels; pixel += P / 2)
      input_gradient_tile<T, P / 2, R>(task, pixel, first);
  if constexpr (P > 1)
    for (; pixel < task.pixels; ++pixel) input_gradient_tile<T, 1, R>(task, pixel, first);
}

template <class T>
void input_gradient(const InputGradientTask<T>& task) {
  constexpr int lanes = Vec<T>::lanes;
  std::int64_t first = 0;
  if constexpr (Vec<T>::registers == 32) {
    for (; first + 4 * lanes <= task.width; first += 4 * lanes)
      input_gradient_pixels<T, 3, 4>(task, first);
    for (; first + 2 * lanes <= task.width; first += 2 * lanes)
      input_gradient_pixels<T, 6, 2>(task, first);
    for (; first < task.width; first += lanes) input_gradient_pixels<T, 6, 1>(task, first);
  } else {
    for (; first < task.width; first += 2 * lanes) input_gradient_pixels<T, 2, 2>(task, first);
  }
}

/// I inputs from `input` and R vectors of outputs from `first`, all pixels. -max(y - z, 0) is
/// min(z, y) - y. The sum of g y is common to all inputs, so each input needs only a minimum and a
/// multiply-add. An input after all outputs gets exactly 0, because both sums are then equal.
template <class T, int I, int R>
void weight_gradient_tile(const WeightGradientTask<T>& task, int input, std::int64_t first) {
  using V = Vec<T>;
  typename V::Reg sum[I][R], total[R];
  std::int64_t offset[I];
  for (int r = 0; r < R; ++r) total[r] = V::set(0);
  for (int i = 0; i < I; ++i) {
    offset[i] = task.offsets[input + i];
    for (int r = 0; r < R; ++r) sum[i][r] = V::set(0);
  }
  for (std::int64_t image = 0; image < task.images; ++image)
    for (std::int64_t row = 0; row < task.rows; ++row) {
      const T* inputs = task.inputs + image * task.input_image + row * task.input_row;
      const std::int64_t at = image * task.output_image + row * task.output_row + first;
      const T* outputs = task.outputs + at;
      const T* gradients = task.gradients + at;
      for (std::int64_t column = 0; column < task.columns; ++column) {
        typename V::Reg output[R], gradient[R];
        for (int r = 0; r < R; ++r) {
          output[r] = V::load(outputs + r * V::lanes);
          gradient[r] = V::load(gradients + r * V::lanes);
          total[r] = V::fma(gradient[r], output[r], total[r]);
        }
        for (int i = 0; i < I; ++i) {
          const auto time = V::set(inputs[offset[i]]);
          for (int r = 0; r < R; ++r)
            sum[i][r] = V::fma(gradient[r], V::min(time, output[r]), sum[i][r]);
        }
        inputs += task.input_column;
        outputs += task.output_column;
        gradients += task.output_column;
      }
    }
  for (int i = 0; i < I; ++i)
    for (int r = 0; r < R; ++r)
      V::store(task.result + (input + i) * kGradOutputs + first + r * V::lanes,
               V::sub(sum[i][r], total[r]));
}

template <class T>
void weight_gradient(const WeightGradientTask<T>& task) {
  constexpr int lanes = Vec<T>::lanes;
  constexpr int tile = Vec<T>::registers == 32 ? 12 : 4;
  static_assert(kGradInputs % tile == 0);
  std::int64_t first = 0;
  for (; first + 2 * lanes <= task.width; first += 2 * lanes)
    for (int i = 0; i < kGradInputs; i += tile) weight_gradient_tile<T, tile, 2>(task, i, first);
  for (; first < task.width; first += lanes)
    for (int i = 0; i < kGradInputs; i += tile) weight_gradient_tile<T, tile, 1>(task, i, first);
}
