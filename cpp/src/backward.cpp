// Backward: computed from z_in, z_out and D. The batch is processed in chunks that fit the cache:
// whole images, or bands of rows of a large one. A chunk's inputs and outputs are copied to
// channels-last order, minus a value common to all. Then every thread takes tiles of the weights'
// gradient, and rows of the inputs' gradient. One thread computes each sum, so its order does not
// depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/table.h"
#include "src/packing.h"
#include "src/padded.h"
#include "src/parallel.h"
#include "src/shape.h"
#include "src/workspace.h"
#include "ttfs/layers.h"

namespace ttfs {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{3} << 20;

// Adjacent tiles of weights that one thread takes in turn. They make up whole cache lines: two
// threads that write to one line wait for each other.
constexpr std::int64_t kTilesPerTurn = 4;

/// Part of the batch: images, and of each the output rows [first, last). `halo` more rows above see
/// input rows whose gradient this chunk writes.
struct Chunk {
  std::int64_t image, images;
  std::int64_t first, last;
  std::int64_t halo;
};

template <class T>
class Backward {
 public:
  Backward(const ConvShape& shape, const Neuron& neuron, ConstView<T> in, const T* weight,
           ConstView<T> out, const T* slopes, ConstView<T> gradient, View<T> to_input, T* to_weight,
           T* to_bias, int thread_limit)
      : s(shape),
        k(kernels_of<T>(kernels())),
        input(in),
        output(out),
        bias_spike(static_cast<T>(neuron.origin())),
        slope(slopes),
        grad_output(gradient),
        grad_input(to_input),
        grad_weight(to_weight),
        grad_bias(to_bias),
        threads(std::max(thread_limit, 1)),
        channels(s.in_channels / s.groups),
        outputs(s.out_channels / s.groups),
        taps(s.kernel_height * s.kernel_width),
        inputs(channels * taps),
        padded_outputs(round_up(outputs, kBlockGrain)),
        weights(s, weight),
        columns(std::max(
            (s.out_width - 1) * s.stride_width + (s.kernel_width - 1) * s.dilation_width + 1,
            s.in_width + s.pad_left)) {
    choose_chunks();
    // With few tiles of weights, the pixels are divided as well. The number of parts depends on the
    // sizes only, and they are added in their order. A single part is the result itself.
    const std::int64_t tiles = ceil_div(inputs, kGradInputs) * ceil_div(outputs, kGradOutputs);
    parts = tiles < 64 ? 8 : 1;
    plan();
  }

  void run() {
    for (std::int64_t group = 0; group < s.groups; ++group) {
      if (grad_input.data && ahead) weights.pack_all(k, group, threads);
      for (const Chunk& chunk : chunks) {
        copy_chunk(group, chunk);
        if (grad_weight || grad_bias) add_weight_gradient(group, chunk);
        if (grad_input.data) write_input_gradient(group, chunk);
      }
      if ((grad_weight || grad_bias) && parts > 1) add_parts(group);
    }
  }

 private:
  struct Scratch {
    T* results;     // [image][column][kGradChannels]
    T* tile;        // [kGradInputs][kGradOutputs]
    T* gathered;    // [image][row][output]
    T* block;       // of weights, if they are not packed ahead
    T least, most;  // of this worker's outputs; of all its spike values
    const T **outputs, **gradients, **weights;
  };

  /// Gradients of one group's weights, [output][input], and behind them of its biases.
  std::int64_t part_size() const { return outputs * (inputs + 1); }

  std::int64_t input_rows(const Chunk& c) const {
    const std::int64_t seen =
        (c.last - c.first - 1) * s.stride_height + (s.kernel_height - 1) * s.dilation_height + 1;
    return std::max(seen, end_row(c) - top(c));
  }
  /// Input row of the first row of `x`.
  std::int64_t top(const Chunk& c) const { return c.first * s.stride_height - s.pad_top; }
  /// The input rows whose gradient the chunk writes.
  std::int64_t begin_row(const Chunk& c) const {
    return c.first == 0 ? 0 : std::clamp<std::int64_t>(top(c), 0, s.in_height);
  }
  std::int64_t end_row(const Chunk& c) const {
    return c.last == s.out_height
               ? s.in_height
               : std::clamp<std::int64_t>(c.last * s.stride_height - s.pad_top, 0, s.in_height);
  }
  std::int64_t output_rows(const Chunk& c) const { return c.last - c.first + c.halo; }

  std::int64_t bytes(const Chunk& c) const {
    return c.images * static_cast<std::int64_t>(sizeof(T)) *
           (input_rows(c) * columns * channels + 2 * output_rows(c) * s.out_width * padded_outputs);
  }

  void choose_chunks() {
    const std::int64_t reach = ceil_div((s.kernel_height - 1) * s.dilation_height, s.stride_height);
    Chunk whole{0, 1, 0, s.out_height, 0};
    const std::int64_t fit = kChunkBytes / std::max<std::int64_t>(bytes(whole), 1);
    if (fit >= 1 || s.out_height == 1) {
      // Chunks of about the same size.
      const std::int64_t images =
          ceil_div(s.batch, ceil_div(s.batch, std::clamp<std::int64_t>(fit, 1, s.batch)));
      for (std::int64_t n = 0; n < s.batch; n += images)
        chunks.push_back({n, std::min(images, s.batch - n), 0, s.out_height, 0});
      return;
    }
    std::int64_t rows = s.out_height;
    while (rows > 1 && bytes({0, 1, 0, rows, reach}) > kChunkBytes) rows = ceil_div(rows, 2);
    for (std::int64_t n = 0; n < s.batch; ++n)
      for (std::int64_t row = 0; row < s.out_height; row += rows)
        chunks.push_back({n, 1, row, std::min(row + rows, s.out_height), std::min(reach, row)});
  }

  void plan() {
    std::int64_t x_size = 0, y_size = 0;
    for (const Chunk& c : chunks) {
      x_size = std::max(x_size, c.images * input_rows(c) * columns * channels);
      y_size = std::max(y_size, c.images * output_rows(c) * s.out_width * padded_outputs);
    }
    // A single chunk reads each block of weights once: the thread that takes it packs it first, and
    // has it in its cache. Else weights are packed ahead, for all.
    const int team = team_size(threads, threads);
    ahead = chunks.size() > 1 || weights.layout().count() < 4 * team;
    const std::int64_t block = grad_input.data && !ahead ? weights.layout().block_size() : 0;
    const std::int64_t sum_size = (grad_weight || grad_bias) && parts > 1 ? parts * part_size() : 0;
    const std::int64_t rows = round_up(inputs, kGradInputs);
    const std::int64_t pointers = taps * kGradPixels;
    const std::int64_t results = across(chunks.front()) * s.in_width * kGradChannels;
    scratch.resize(static_cast<std::size_t>(team));
    workspace.allocate([&] {
      x = workspace.take<T>(x_size + kGradChannels);
      y = workspace.take<T>(y_size);
      g = workspace.take<T>(y_size);
      silent_y = workspace.take<T>(padded_outputs);
      silent_g = workspace.take<T>(padded_outputs);
      bias_time = workspace.take<T>(padded_outputs);
      if (grad_input.data && ahead) weights.take(workspace);
      sums = workspace.take<T>(sum_size);
      offsets = workspace.take<std::int64_t>(rows);
      for (Scratch& w : scratch) {
        w.results = workspace.take<T>(results);
        w.tile = workspace.take<T>(kGradInputs * kGradOutputs);
        w.gathered = workspace.take<T>(2 * s.out_width * padded_outputs);
        w.block = workspace.take<T>(block);
        w.outputs = workspace.take<const T*>(pointers);
        w.gradients = workspace.take<const T*>(pointers);
        w.weights = workspace.take<const T*>(taps);
      }
    });
    // The last pixel's vectors may reach past its channels.
    std::fill(x + x_size, x + x_size + kGradChannels, T{1});
    std::fill(silent_y, silent_y + padded_outputs, -std::numeric_limits<T>::infinity());
    std::fill(silent_g, silent_g + padded_outputs, T{0});
    describe_inputs();
  }

  /// Where input i of a receptive field lies in `x`, from the field's first. The padding of the
  /// last tile repeats the first input; its sums are not used.
  void describe_inputs() {
    std::fill(offsets, offsets + round_up(inputs, kGradInputs), 0);
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t ky = 0; ky < s.kernel_height; ++ky)
        for (std::int64_t kx = 0; kx < s.kernel_width; ++kx)
          offsets[(c * s.kernel_height + ky) * s.kernel_width + kx] =
              (ky * s.dilation_height * columns + kx * s.dilation_width) * channels + c;
  }

  void copy_chunk(std::int64_t group, const Chunk& c) {
    const std::int64_t in_rows = input_rows(c), out_rows = output_rows(c);
    constexpr T infinity = std::numeric_limits<T>::infinity();
    for (Scratch& w : scratch) w.least = infinity, w.most = 0;
    // A row at a time, inputs then outputs: enough items for any number of threads.
    parallel_for(c.images * (in_rows + out_rows), threads, [&](std::int64_t item, int worker) {
      const std::int64_t n = item / (in_rows + out_rows), row = item % (in_rows + out_rows);
      Scratch& w = scratch[static_cast<std::size_t>(worker)];
      if (row < in_rows) {
        const T* image =
            input.data + (c.image + n) * input.stride.n + group * channels * input.stride.c;
        T* to = x + (n * in_rows + row) * columns * channels;
        copy_grid(k, image, input.stride, s.in_height, s.in_width, channels,
                  {top(c) + row, -s.pad_left, 1, 1, 1, columns}, infinity, to);
        w.most = std::max(w.most, extent(to, columns * channels).most);
      } else {
        copy_output_row(group, c, n, row - in_rows, w);
      }
    });
    const T origin = common_value();
    bias_time[0] = bias_spike - origin;
    if (origin == 0) return;
    parallel_for(c.images * (in_rows + out_rows), threads, [&](std::int64_t item, int) {
      const std::int64_t inputs_end = c.images * in_rows;
      const bool of_inputs = item < inputs_end;
      const std::int64_t size = of_inputs ? columns * channels : s.out_width * padded_outputs;
      T* values = of_inputs ? x + item * size : y + (item - inputs_end) * size;
      for (std::int64_t i = 0; i < size; ++i) values[i] -= origin;
    });
  }

  Extent<T> extent(const T* values, std::int64_t n) const {
    return k.extent(values, n, std::numeric_limits<T>::infinity());
  }

  /// The value that is subtracted from all spike values of a chunk, to avoid cancellation: the
  /// earliest output, rounded down to a multiple of the unit in the last place of the latest value.
  /// Differences from it are exact, except for inputs of less than half of it, which stay earlier
  /// than all outputs. So no comparison changes.
  T common_value() const {
    T least = std::numeric_limits<T>::infinity(), most = 0;
    for (const Scratch& w : scratch) {
      least = std::min(least, w.least);
      most = std::max(most, w.most);
    }
    if (!(least > 0 && least <= most)) return 0;
    const T unit = std::nextafter(most, std::numeric_limits<T>::infinity()) - most;
    const T origin = std::floor(least / unit) * unit;
    return std::isfinite(origin) ? origin : 0;
  }

  void copy_output_row(std::int64_t group, const Chunk& c, std::int64_t n, std::int64_t row,
                       Scratch& w) {
    const std::int64_t out_row = c.first - c.halo + row, image = c.image + n;
    const Grid grid{out_row, 0, 1, 1, 1, s.out_width};
    T* values = w.gathered;
    T* gradients = w.gathered + s.out_width * padded_outputs;
    const auto gather = [&](const ConstView<T>& view, T* to) {
      copy_grid(k, view.data + image * view.stride.n + group * outputs * view.stride.c, view.stride,
                s.out_height, s.out_width, outputs, grid, T{0}, to);
    };
    gather(output, values);
    const Extent<T> found = extent(values, s.out_width * outputs);
    w.least = std::min(w.least, found.least);
    w.most = std::max(w.most, found.most);
    gather(grad_output, gradients);
    for (std::int64_t column = 0; column < s.out_width; ++column) {
      const std::int64_t at = ((n * output_rows(c) + row) * s.out_width + column) * padded_outputs;
      k.scale_gradient(
          values + column * outputs,
          slope + ((image * s.out_height + out_row) * s.out_width + column) * s.out_channels +
              group * outputs,
          gradients + column * outputs, outputs, y + at, g + at);
      std::fill(y + at + outputs, y + at + padded_outputs, T{0});
      std::fill(g + at + outputs, g + at + padded_outputs, T{0});
    }
  }

  void add_weight_gradient(std::int64_t group, const Chunk& c) {
    const std::int64_t tiles = grad_weight ? ceil_div(inputs, kGradInputs) : 0;
    const std::int64_t turns = ceil_div(tiles, kTilesPerTurn);
    const std::int64_t input_items = turns + (grad_bias ? 1 : 0);
    const std::int64_t output_tiles = ceil_div(outputs, kGradOutputs);
    parallel_for(parts * output_tiles * input_items, threads, [&](std::int64_t item, int worker) {
      const std::int64_t part = item / (output_tiles * input_items);
      const std::int64_t first = item / input_items % output_tiles * kGradOutputs;
      const std::int64_t turn = item % input_items;
      const Scratch& w = scratch[static_cast<std::size_t>(worker)];
      if (turn == turns)
        add_weight_tile(group, c, part, first, -1, w);
      else
        for (std::int64_t t = turn * kTilesPerTurn; t < std::min(tiles, (turn + 1) * kTilesPerTurn);
             ++t)
          add_weight_tile(group, c, part, first, t * kGradInputs, w);
    });
  }

  /// Adds a chunk's part of the gradient of the weights from kGradInputs inputs, or, where `tile`
  /// is -1, of the biases, to a tile of outputs.
  void add_weight_tile(std::int64_t group, const Chunk& c, std::int64_t part, std::int64_t first,
                       std::int64_t tile, const Scratch& w) const {
    const std::int64_t rows = c.last - c.first;
    const bool bias = tile < 0;
    WeightGradientTask<T> task;
    task.input_column = bias ? 0 : s.stride_width * channels;
    task.input_row = bias ? 0 : s.stride_height * columns * channels;
    task.input_image = bias ? 0 : input_rows(c) * columns * channels;
    task.output_column = padded_outputs;
    task.output_row = s.out_width * padded_outputs;
    task.output_image = output_rows(c) * s.out_width * padded_outputs;
    task.width = std::min(kGradOutputs, padded_outputs - first);
    task.offsets = bias ? no_offsets : offsets + tile;
    task.result = w.tile;
    T* to_weight = grad_weight ? grad_weight + group * outputs * inputs : nullptr;
    T* to_bias = grad_bias ? grad_bias + group * outputs : nullptr;
    if (parts > 1) {
      to_weight = sums + part * part_size();
      to_bias = to_weight + outputs * inputs;
    }
    const std::int64_t used = std::min(kGradOutputs, outputs - first);
    const auto add = [&](bool overwrite) {
      if (bias)
        add_tile(task.result, 1, used, to_bias + first, 1, overwrite);
      else
        add_tile(task.result, std::min<std::int64_t>(kGradInputs, inputs - tile), used,
                 to_weight + first * inputs + tile, inputs, overwrite);
    };
    const T* in = bias ? bias_time : x;
    const T* values = y + c.halo * task.output_row + first;
    const T* gradients = g + c.halo * task.output_row + first;
    // A part is a range of (image, row): a partial image, whole images, a partial image.
    std::int64_t at = c.images * rows * part / parts;
    const std::int64_t end = c.images * rows * (part + 1) / parts;
    bool overwrite = c.image == 0 && c.first == 0;
    if (at == end && overwrite) {
      std::fill_n(task.result, kGradInputs * kGradOutputs, T{0});
      add(true);
    }
    while (at < end) {
      const std::int64_t n = at / rows, row = at % rows;
      const bool whole = row == 0 && end - at >= rows;
      task.images = whole ? (end - at) / rows : 1;
      task.rows = whole ? rows : std::min(rows - row, end - at);
      task.columns = s.out_width;
      task.inputs = in + n * task.input_image + row * task.input_row;
      const std::int64_t out = n * task.output_image + row * task.output_row;
      task.outputs = values + out;
      task.gradients = gradients + out;
      at += task.images * task.rows;
      WeightGradientTask<T> flat = task;
      if (task.rows * task.columns == 1) {  // a fully connected layer: one loop, not three
        std::swap(flat.images, flat.columns);
        flat.input_column = task.input_image;
        flat.output_column = task.output_image;
      }
      k.weight_gradient(flat);
      add(overwrite);
      overwrite = false;
    }
  }

  /// to[j * stride + i] (+)= tile[i][j]
  void add_tile(const T* tile, std::int64_t tile_inputs, std::int64_t tile_outputs, T* to,
                std::int64_t stride, bool overwrite) const {
    if (overwrite) {
      k.transpose(tile, kGradOutputs, to, stride, tile_inputs, tile_outputs);
      return;
    }
    T turned[kGradOutputs * kGradInputs];
    k.transpose(tile, kGradOutputs, turned, kGradInputs, tile_inputs, tile_outputs);
    for (std::int64_t j = 0; j < tile_outputs; ++j)
      for (std::int64_t i = 0; i < tile_inputs; ++i)
        to[j * stride + i] += turned[j * kGradInputs + i];
  }

  void add_parts(std::int64_t group) {
    for (std::int64_t part = 1; part < parts; ++part)
      for (std::int64_t i = 0; i < part_size(); ++i) sums[i] += sums[part * part_size() + i];
    if (grad_weight) std::copy_n(sums, outputs * inputs, grad_weight + group * outputs * inputs);
    if (grad_bias) std::copy_n(sums + outputs * inputs, outputs, grad_bias + group * outputs);
  }

  /// Input pixels of one row of one or several images that the same taps reach.
  struct Pixels {
    int count = 0;
    std::int64_t image[kGradPixels], column[kGradPixels];
    T* results[kGradPixels];  // of kGradChannels channels each
  };

  /// Images whose rows one thread takes side by side. With enough images, the pixels that share
  /// their taps are at one place in several images; else they lie along a row, where taps that
  /// leave the image read a silent output.
  static std::int64_t across(const Chunk& c) { return c.images >= 3 ? kGradPixels : 1; }

  void write_input_gradient(std::int64_t group, const Chunk& c) {
    const std::int64_t first = begin_row(c), rows = end_row(c) - first;
    if (rows <= 0 || channels == 0) return;
    if (!ahead) {
      parallel_for(weights.layout().count(), threads, [&](std::int64_t b, int worker) {
        const Scratch& w = scratch[static_cast<std::size_t>(worker)];
        weights.pack(k, group, b, w.block);
        for (std::int64_t row = first; row < first + rows; ++row)
          for (std::int64_t image = 0; image < c.images; image += across(c))
            write_rows(group, c, b, w.block, row, image, w);
      });
      return;
    }
    // An item takes all images, and so reads its weights once, unless there are too few items.
    const std::int64_t lines = ceil_div(c.images, across(c)), blocks = weights.layout().count();
    const std::int64_t shares =
        std::clamp<std::int64_t>(ceil_div(8 * threads, blocks * rows), 1, lines);
    parallel_for(blocks * rows * shares, threads, [&](std::int64_t item, int worker) {
      const std::int64_t b = item / (rows * shares), row = first + item / shares % rows;
      const std::int64_t share = item % shares;
      for (std::int64_t line = lines * share / shares; line < lines * (share + 1) / shares; ++line)
        write_rows(group, c, b, weights.block(b), row, line * across(c),
                   scratch[static_cast<std::size_t>(worker)]);
    });
  }

  /// A row of across(c) images from this one on.
  void write_rows(std::int64_t group, const Chunk& c, std::int64_t b, const T* packed,
                  std::int64_t row, std::int64_t image, const Scratch& w) const {
    const std::int64_t images = std::min(across(c), c.images - image);
    Pixels pixels;
    // Columns that are whole strides apart have the same taps.
    for (std::int64_t first = 0; first < std::min(s.stride_width, s.in_width); ++first) {
      const std::int64_t phase = (first + s.pad_left) % s.stride_width;
      for (std::int64_t column = first; column < s.in_width; column += s.stride_width)
        for (std::int64_t n = 0; n < images; ++n) {
          pixels.image[pixels.count] = image + n;
          pixels.column[pixels.count] = column;
          pixels.results[pixels.count++] = w.results + (n * s.in_width + column) * kGradChannels;
          const bool last =
              n + 1 == images && (images > 1 || column + s.stride_width >= s.in_width);
          if (pixels.count == kGradPixels || last) {
            input_gradient(c, b, packed, row, phase, pixels, w);
            pixels.count = 0;
          }
        }
    }
    for (std::int64_t n = 0; n < images; ++n)
      write_row(group, b, c.image + image + n, row, w.results + n * s.in_width * kGradChannels);
  }

  /// Writes a row of the inputs' gradient, of one block of channels.
  void write_row(std::int64_t group, std::int64_t b, std::int64_t image, std::int64_t row,
                 const T* results) const {
    const std::int64_t first = weights.layout()[b].first, used = weights.layout()[b].used;
    const Strides4& stride = grad_input.stride;
    T* to =
        grad_input.data + image * stride.n + (group * channels + first) * stride.c + row * stride.h;
    if (stride.w == 1 && stride.c != 1) {
      k.transpose(results, kGradChannels, to, stride.c, s.in_width, used);
      return;
    }
    for (std::int64_t column = 0; column < s.in_width; ++column)
      for (std::int64_t ch = 0; ch < used; ++ch)
        to[column * stride.w + ch * stride.c] = results[column * kGradChannels + ch];
  }

  static std::int64_t floor_mod(std::int64_t a, std::int64_t n) { return (a % n + n) % n; }

  void input_gradient(const Chunk& c, std::int64_t b, const T* packed, std::int64_t row,
                      std::int64_t phase, const Pixels& pixels, const Scratch& w) const {
    InputGradientTask<T> task;
    const std::int64_t in_rows = input_rows(c), out_rows = output_rows(c);
    const T* in[kGradPixels];
    for (int p = 0; p < pixels.count; ++p)
      in[p] =
          x +
          ((pixels.image[p] * in_rows + row - top(c)) * columns + pixels.column[p] + s.pad_left) *
              channels +
          b * kGradChannels;
    task.pixels = pixels.count;
    task.taps = 0;
    task.width = weights.layout()[b].width;
    task.count = outputs;
    std::int64_t entry = 0;
    for (std::int64_t ky = 0; ky < s.kernel_height; ++ky) {
      const std::int64_t up = row + s.pad_top - ky * s.dilation_height;
      if (up < 0 || up % s.stride_height != 0 || up / s.stride_height >= s.out_height) continue;
      const std::int64_t out_row = up / s.stride_height - (c.first - c.halo);
      for (std::int64_t kx = 0; kx < s.kernel_width; ++kx) {
        if (floor_mod(phase - kx * s.dilation_width, s.stride_width) != 0) continue;
        bool reached = false;
        for (int p = 0; p < pixels.count; ++p) {
          const std::int64_t left = pixels.column[p] + s.pad_left - kx * s.dilation_width;
          const std::int64_t column = left / s.stride_width;
          const bool inside = left >= 0 && column < s.out_width;
          const std::int64_t at =
              ((pixels.image[p] * out_rows + out_row) * s.out_width + column) * padded_outputs;
          w.outputs[entry + p] = inside ? y + at : silent_y;
          w.gradients[entry + p] = inside ? g + at : silent_g;
          reached |= inside;
        }
        if (!reached) continue;
        w.weights[task.taps++] = packed + (ky * s.kernel_width + kx) * outputs * task.width;
        entry += pixels.count;
      }
    }
    task.inputs = in;
    task.outputs = w.outputs;
    task.gradients = w.gradients;
    task.weights = w.weights;
    task.results = pixels.results;
    k.input_gradient(task);
  }

  const ConvShape s;
  const Kernels<T>& k;
  const ConstView<T> input;
  const ConstView<T> output;
  const T bias_spike;  // the input of the bias
  const T* const slope;
  const ConstView<T> grad_output;
  const View<T> grad_input;
  T *const grad_weight, *const grad_bias;
  const int threads;
  const std::int64_t channels, outputs, taps, inputs, padded_outputs;
  ChannelWeights<T> weights;
  const std::int64_t columns;  // of a row of x, padding included
  std::int64_t parts = 1;
  bool ahead = true;  // weights are packed before all else
  std::vector<Chunk> chunks;
  Workspace workspace;
  T* x = nullptr;                // a chunk's inputs, [image][row][column][channel]
  T *y = nullptr, *g = nullptr;  // its outputs and grad / D, [image][row][column][output]
  T *silent_y = nullptr, *silent_g = nullptr, *bias_time = nullptr;
  T* sums = nullptr;
  std::int64_t* offsets = nullptr;
  static constexpr std::int64_t no_offsets[kGradInputs] = {};
  std::vector<Scratch> scratch;
};

}  // namespace

template <class T>
void spiking_conv2d_backward(const ConvShape& shape, ConstView<T> input, const T* weight,
                             ConstView<T> output, const T* slope, ConstView<T> grad_output,
                             View<T> grad_input, T* grad_weight, T* grad_bias, int threads,
                             const Neuron& neuron) {
  check(shape);
  if (shape.batch == 0 || shape.out_channels == 0 || shape.out_height == 0 ||
      shape.out_width == 0) {
    // There is no synapse: all gradients are 0.
    const std::int64_t weights = shape.out_channels * (shape.in_channels / shape.groups) *
                                 shape.kernel_height * shape.kernel_width;
    if (grad_weight) std::fill_n(grad_weight, weights, T{0});
    if (grad_bias) std::fill_n(grad_bias, shape.out_channels, T{0});
    const Strides4& stride = grad_input.stride;
    if (grad_input.data)
      for (std::int64_t n = 0; n < shape.batch; ++n)
        for (std::int64_t c = 0; c < shape.in_channels; ++c)
          for (std::int64_t h = 0; h < shape.in_height; ++h)
            for (std::int64_t w = 0; w < shape.in_width; ++w)
              grad_input.data[n * stride.n + c * stride.c + h * stride.h + w * stride.w] = 0;
    return;
  }
  Backward<T>(shape, neuron, input, weight, output, slope, grad_output, grad_input, grad_weight,
              grad_bias, threads)
      .run();
}

template void spiking_conv2d_backward(const ConvShape&, ConstView<float>, const float*,
                                      ConstView<float>, const float*, ConstView<float>, View<float>,
                                      float*, float*, int, const Neuron&);
template void spiking_conv2d_backward(const ConvShape&, ConstView<double>, const double*,
                                      ConstView<double>, const double*, ConstView<double>,
                                      View<double>, double*, double*, int, const Neuron&);

}  // namespace ttfs
