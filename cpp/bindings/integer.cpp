// Integer networks in Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/arrays.h"
#include "bindings/interrupt.h"
#include "bindings/module.h"
#include "ttfs/integer.h"

namespace ttfs::bindings {
namespace {

using integer::Network;
using integer::Neurons;
using integer::Size;
using py::literals::operator""_a;
using Codes = Array<std::uint16_t>;

std::vector<std::int64_t> with_batch(std::int64_t batch, const Size& s) {
  return {batch, s.channels, s.height, s.width};
}

py::tuple triple(const Size& s) { return py::make_tuple(s.channels, s.height, s.width); }

Network make(int time_bits, std::array<std::int64_t, 3> image, double unit, const Codes& encoders) {
  const std::int64_t count = encoders.ndim() == 2 ? encoders.shape(0) : 0;
  require_dense(encoders, {count, 256}, "encoders");
  std::vector<integer::Encoder> tables(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tables.size(); ++i)
    std::copy_n(encoders.data() + 256 * i, tables[i].size(), tables[i].begin());
  return Network(time_bits, {image[0], image[1], image[2]}, unit, tables);
}

Codes encoders(const Network& network) {
  Codes out({static_cast<py::ssize_t>(network.encoders().size()), py::ssize_t{256}});
  std::uint16_t* to = out.mutable_data();
  for (const integer::Encoder& encoder : network.encoders())
    to = std::copy(encoder.begin(), encoder.end(), to);
  return out;
}

void add_neurons(Network& network, const Array<std::int8_t>& codes, int bits,
                 const Array<std::int32_t>& theta, const std::optional<Array<std::int32_t>>& bias,
                 std::uint16_t bias_code, std::uint32_t ratio, std::uint16_t latest, Pair stride,
                 Pair padding, Pair dilation, std::int64_t groups, Pair output,
                 std::uint16_t reference_code, const std::optional<Array<std::int32_t>>& slope) {
  if (codes.ndim() != 4) throw std::invalid_argument("codes must have 4 dimensions");
  if (groups < 1)
    throw std::invalid_argument("groups must be at least 1; got " + std::to_string(groups));
  const Size in = network.output();
  Neurons n;
  n.shape = {window({codes.shape(2), codes.shape(3)}, stride, padding, dilation)};
  n.shape.in_channels = in.channels;
  n.shape.in_height = in.height;
  n.shape.in_width = in.width;
  n.shape.out_channels = codes.shape(0);
  n.shape.out_height = output[0];
  n.shape.out_width = output[1];
  n.shape.groups = groups;
  require_dense(codes, {codes.shape(0), in.channels / groups, codes.shape(2), codes.shape(3)},
                "codes");
  require_dense(theta, {codes.shape(0)}, "theta");
  if (bias) require_dense(*bias, {codes.shape(0)}, "bias");
  if (slope) require_dense(*slope, {codes.shape(0)}, "slope");
  n.bits = bits;
  n.ratio = ratio;
  n.latest = latest;
  n.bias_code = bias_code;
  n.theta.assign(theta.data(), theta.data() + theta.size());
  if (bias) n.bias.assign(bias->data(), bias->data() + bias->size());
  n.reference_code = reference_code;
  if (slope) n.slope.assign(slope->data(), slope->data() + slope->size());
  py::gil_scoped_release release;
  network.add(n, codes.data());
}

void add_pooling(Network& network, Pair kernel, Pair stride, Pair padding, Pair dilation,
                 Pair output) {
  const Size in = network.output();
  PoolShape s{window(kernel, stride, padding, dilation)};
  s.channels = in.channels;
  s.in_height = in.height;
  s.in_width = in.width;
  s.out_height = output[0];
  s.out_width = output[1];
  network.add(s);
}

/// A layer's description: the arguments that create it.
py::dict describe(const Network& network, std::int64_t layer) {
  py::dict out;
  out["output_size"] = triple(network.output(layer));
  const auto put_window = [&](const Window& w) {
    out["kernel"] = py::make_tuple(w.kernel_height, w.kernel_width);
    out["stride"] = py::make_tuple(w.stride_height, w.stride_width);
    out["padding"] = py::make_tuple(w.pad_top, w.pad_left);
    out["dilation"] = py::make_tuple(w.dilation_height, w.dilation_width);
  };
  if (const PoolShape* pooling = network.pooling(layer)) {
    out["kind"] = "pooling";
    put_window(*pooling);
    return out;
  }
  const Neurons& n = *network.neurons(layer);
  out["kind"] = "neurons";
  put_window(n.shape);
  out["groups"] = n.shape.groups;
  out["bits"] = n.bits;
  out["ratio"] = n.ratio;
  out["latest"] = n.latest;
  out["bias_code"] = n.bias_code;
  out["reference_code"] = n.reference_code;
  const auto put = [&out](const char* name, const std::vector<std::int32_t>& values) {
    if (values.empty())
      out[name] = py::none();
    else
      out[name] = Array<std::int32_t>(static_cast<py::ssize_t>(values.size()), values.data());
  };
  put("theta", n.theta);
  put("bias", n.bias);
  put("slope", n.slope);
  return out;
}

Array<std::int8_t> weight_codes(const Network& network, std::int64_t layer) {
  const Neurons* n = network.neurons(layer);
  if (!n) throw std::invalid_argument("layer " + std::to_string(layer) + " has no weights");
  const ConvShape& s = n->shape;
  Array<std::int8_t> out(
      {s.out_channels, s.in_channels / s.groups, s.kernel_height, s.kernel_width});
  const std::vector<std::int8_t> codes = network.weight_codes(layer);
  std::copy(codes.begin(), codes.end(), out.mutable_data());
  return out;
}

template <class In>
std::vector<Codes> run(const Network& network, const Array<In>& input, bool all_layers,
                       int threads) {
  const std::int64_t batch = input.ndim() == 4 ? input.shape(0) : 0;
  constexpr bool pixels = std::is_same_v<In, std::uint8_t>;
  require_dense(input, with_batch(batch, pixels ? network.image() : network.input()), "input");
  std::vector<Codes> arrays;
  std::vector<std::uint16_t*> outputs;
  for (std::int64_t l = 0; l < network.layer_count(); ++l) {
    outputs.push_back(nullptr);
    if (!all_layers && l + 1 < network.layer_count()) continue;
    arrays.emplace_back(with_batch(batch, network.output(l)));
    outputs.back() = arrays.back().mutable_data();
  }
  const In* data = input.data();
  without_lock([&] { network.run(data, batch, outputs, threads); });
  return arrays;
}

/// One layer by the reference; `codes` are its input.
Codes reference(const Network& network, std::int64_t layer, const Codes& codes) {
  const Size in = layer == 0 ? network.input() : network.output(layer - 1);
  const std::int64_t batch = codes.ndim() == 4 ? codes.shape(0) : 0;
  require_dense(codes, with_batch(batch, in), "codes");
  Codes out(with_batch(batch, network.output(layer)));
  std::uint16_t* to = out.mutable_data();
  const std::uint16_t* data = codes.data();
  without_lock([&] {
    if (const PoolShape* pooling = network.pooling(layer))
      integer::reference::pooling(*pooling, network.time_bits(), batch, data, to);
    else
      integer::reference::neurons(*network.neurons(layer), network.weight_codes(layer).data(),
                                  network.time_bits(), batch, data, to);
  });
  return out;
}

}  // namespace

void define_integer(py::module_& m) {
  // Module-local, so that two builds of the module can be loaded into one process and compared.
  py::class_<Network>(m, "IntegerNetwork", py::module_local())
      .def(py::init(&make), "time_bits"_a, "image_size"_a, "unit"_a, "encoders"_a.noconvert())
      .def("add_neurons", &add_neurons, "codes"_a.noconvert(), "bits"_a, "theta"_a.noconvert(),
           "bias"_a.noconvert(), "bias_code"_a, "ratio"_a, "latest"_a, "stride"_a, "padding"_a,
           "dilation"_a, "groups"_a, "output"_a, "reference_code"_a = 0,
           "slope"_a.noconvert() = py::none())
      .def("add_pooling", &add_pooling, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a,
           "output"_a)
      .def_static("load", &Network::load, "path"_a, py::call_guard<py::gil_scoped_release>())
      .def_static(
          "parse",
          [](const py::bytes& content) {
            const std::string_view bytes = content;
            return Network::parse(reinterpret_cast<const std::uint8_t*>(bytes.data()),
                                  bytes.size());
          },
          "content"_a)
      .def("serialize",
           [](const Network& network) {
             const std::vector<std::uint8_t> bytes = network.serialize();
             return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
           })
      .def_property_readonly("time_bits", &Network::time_bits)
      .def_property_readonly("silent", &Network::silent)
      .def_property_readonly("unit", &Network::unit)
      .def_property_readonly("image_size", [](const Network& n) { return triple(n.image()); })
      .def_property_readonly("input_size", [](const Network& n) { return triple(n.input()); })
      .def_property_readonly("output_size", [](const Network& n) { return triple(n.output()); })
      .def_property_readonly("encoders", &encoders)
      .def_property_readonly("classes", &Network::classes)
      .def("set_classes", &Network::set_classes, "names"_a)
      .def_property_readonly("layer_count", &Network::layer_count)
      .def_property_readonly("weight_bytes", &Network::weight_bytes)
      .def("layer", &describe, "layer"_a)
      .def("weight_codes", &weight_codes, "layer"_a)
      .def("run_pixels", &run<std::uint8_t>, "input"_a.noconvert(), "all_layers"_a, "threads"_a)
      .def("run_codes", &run<std::uint16_t>, "input"_a.noconvert(), "all_layers"_a, "threads"_a)
      .def("reference", &reference, "layer"_a, "codes"_a.noconvert());
}

}  // namespace ttfs::bindings
