// The kernels as TensorFlow ops for the CPU.

#include <vector>

#include "normals.h"
#include "sums.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/util/work_sharder.h"
#include "vector.h"

namespace keras_dpvit {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Divides `units` among the processors; `cost` is what one takes, in cycles.
template <typename Work>
void Divide(OpKernelContext* context, int64_t units, int64_t cost, Work work) {
  auto workers = context->device()->tensorflow_cpu_worker_threads();
  tensorflow::Shard(workers->num_threads, workers->workers, units, cost, work);
}

// Makes the output `index`; false, with the context's status set, if it cannot be had.
template <typename Number>
bool Allocate(OpKernelContext* context, int index, const TensorShape& shape, Number** data) {
  Tensor* output = nullptr;
  const auto status = context->allocate_output(index, shape, &output);
  context->SetStatus(status);
  if (status.ok()) *data = output->flat<Number>().data();
  return status.ok();
}

// What ops on inputs (records, tokens, in) and output gradients (records, tokens, out) share.
absl::Status TokenShapes(InferenceContext* context, ShapeHandle* inputs, ShapeHandle* gradients,
                         DimensionHandle* records) {
  DimensionHandle tokens;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 3, inputs));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 3, gradients));
  TF_RETURN_IF_ERROR(
      context->Merge(context->Dim(*inputs, 0), context->Dim(*gradients, 0), records));
  return context->Merge(context->Dim(*inputs, 1), context->Dim(*gradients, 1), &tokens);
}

struct Tokens {
  int64_t records, tokens, in, out;
  const float *inputs, *gradients;

  const float* InputsOf(int64_t record) const { return inputs + record * tokens * in; }
  const float* GradientsOf(int64_t record) const { return gradients + record * tokens * out; }
};

absl::Status ReadTokens(OpKernelContext* context, Tokens* found) {
  const Tensor &x = context->input(0), &g = context->input(1);
  if (x.dims() != 3 || g.dims() != 3 || x.dim_size(0) != g.dim_size(0) ||
      x.dim_size(1) != g.dim_size(1)) {
    return InvalidArgument("inputs and gradients must be (records, tokens, width), got ",
                           x.shape().DebugString(), " and ", g.shape().DebugString());
  }
  *found = {x.dim_size(0), x.dim_size(1),           x.dim_size(2),
            g.dim_size(2), x.flat<float>().data(), g.flat<float>().data()};
  return absl::OkStatus();
}

// Inputs (records, tokens, in) and output gradients (records, tokens, out) of a matrix and a bias
// -> each record's gradients (records, in, out) and (records, out), their squared norms (records,).
REGISTER_OP("KerasDpvitRecordProducts")
    .Input("inputs: float")
    .Input("gradients: float")
    .Output("products: float")
    .Output("sums: float")
    .Output("product_norms: double")
    .Output("sum_norms: double")
    .SetShapeFn([](InferenceContext* context) {
      ShapeHandle inputs, gradients;
      DimensionHandle records;
      TF_RETURN_IF_ERROR(TokenShapes(context, &inputs, &gradients, &records));
      const DimensionHandle in = context->Dim(inputs, 2), out = context->Dim(gradients, 2);
      context->set_output(0, context->MakeShape({records, in, out}));
      context->set_output(1, context->Matrix(records, out));
      context->set_output(2, context->Vector(records));
      context->set_output(3, context->Vector(records));
      return absl::OkStatus();
    });

class RecordProductsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    Tokens all;
    OP_REQUIRES_OK(context, ReadTokens(context, &all));
    float *product, *sum;
    double *product_norm, *sum_norm;
    if (!Allocate(context, 0, TensorShape({all.records, all.in, all.out}), &product) ||
        !Allocate(context, 1, TensorShape({all.records, all.out}), &sum) ||
        !Allocate(context, 2, TensorShape({all.records}), &product_norm) ||
        !Allocate(context, 3, TensorShape({all.records}), &sum_norm)) {
      return;
    }
    const int64_t cycles = all.tokens * all.in * all.out / kLanes + 1;
    Divide(context, all.records, cycles, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        product_norm[i] = RecordProduct(all.InputsOf(i), all.GradientsOf(i), all.tokens, all.in,
                                        all.out, product + i * all.in * all.out);
        sum_norm[i] = RecordSum(all.GradientsOf(i), all.tokens, all.out, sum + i * all.out);
      }
      FinishWrites();
    });
  }
};

REGISTER_KERNEL_BUILDER(Name("KerasDpvitRecordProducts").Device(tensorflow::DEVICE_CPU),
                        RecordProductsOp);

// Images (records, height, width, channels) and output gradients (records, places, out) of a
// convolution -> as above, with a row of what the kernel sees at each place for each token.
REGISTER_OP("KerasDpvitRecordConvolutions")
    .Input("images: float")
    .Input("gradients: float")
    .Output("products: float")
    .Output("sums: float")
    .Output("product_norms: double")
    .Output("sum_norms: double")
    .Attr("sizes: list(int) >= 2")
    .Attr("strides: list(int) >= 2")
    .Attr("rates: list(int) >= 2")
    .Attr("before: list(int) >= 2")
    .Attr("places: list(int) >= 2")
    .SetShapeFn([](InferenceContext* context) {
      ShapeHandle images, gradients;
      DimensionHandle records, width;
      std::vector<int64_t> sizes;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &images));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 3, &gradients));
      TF_RETURN_IF_ERROR(
          context->Merge(context->Dim(images, 0), context->Dim(gradients, 0), &records));
      TF_RETURN_IF_ERROR(context->GetAttr("sizes", &sizes));
      TF_RETURN_IF_ERROR(context->Multiply(context->Dim(images, 3), sizes[0] * sizes[1], &width));
      const DimensionHandle out = context->Dim(gradients, 2);
      context->set_output(0, context->MakeShape({records, width, out}));
      context->set_output(1, context->Matrix(records, out));
      context->set_output(2, context->Vector(records));
      context->set_output(3, context->Vector(records));
      return absl::OkStatus();
    });

class RecordConvolutionsOp : public OpKernel {
 public:
  explicit RecordConvolutionsOp(OpKernelConstruction* context) : OpKernel(context) {
    Read(context, "sizes", places_.sizes);
    Read(context, "strides", places_.strides);
    Read(context, "rates", places_.rates);
    Read(context, "before", places_.before);
    Read(context, "places", places_.number);
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &x = context->input(0), &g = context->input(1);
    OP_REQUIRES(context,
                x.dims() == 4 && g.dims() == 3 && x.dim_size(0) == g.dim_size(0) &&
                    g.dim_size(1) == places_.Tokens(),
                InvalidArgument("images must be (records, height, width, channels) and gradients "
                                "(records, places, width), got ",
                                x.shape().DebugString(), " and ", g.shape().DebugString()));
    Places places = places_;
    places.sides[0] = x.dim_size(1);
    places.sides[1] = x.dim_size(2);
    places.channels = x.dim_size(3);
    const int64_t records = x.dim_size(0), tokens = places.Tokens(), in = places.Width();
    const int64_t out = g.dim_size(2), size = x.dim_size(1) * x.dim_size(2) * x.dim_size(3);
    const float *images = x.flat<float>().data(), *gradients = g.flat<float>().data();
    float *product, *sum;
    double *product_norm, *sum_norm;
    if (!Allocate(context, 0, TensorShape({records, in, out}), &product) ||
        !Allocate(context, 1, TensorShape({records, out}), &sum) ||
        !Allocate(context, 2, TensorShape({records}), &product_norm) ||
        !Allocate(context, 3, TensorShape({records}), &sum_norm)) {
      return;
    }
    const int64_t cycles = tokens * in * (out / kLanes + 1) + 1;
    Divide(context, records, cycles, [=](int64_t begin, int64_t end) {
      std::vector<float> rows(tokens * in);  // of one record: it stays in the caches
      for (int64_t i = begin; i < end; ++i) {
        WindowRows(images + i * size, places, rows.data());
        const float* gradient = gradients + i * tokens * out;
        product_norm[i] =
            RecordProduct(rows.data(), gradient, tokens, in, out, product + i * in * out);
        sum_norm[i] = RecordSum(gradient, tokens, out, sum + i * out);
      }
      FinishWrites();
    });
  }

 private:
  void Read(OpKernelConstruction* context, const char* name, int64_t* to) {
    std::vector<int64_t> found;
    OP_REQUIRES_OK(context, context->GetAttr(name, &found));
    OP_REQUIRES(context, found.size() == 2, InvalidArgument(name, " must be 2 numbers"));
    to[0] = found[0];
    to[1] = found[1];
  }

  Places places_ = {};
};

REGISTER_KERNEL_BUILDER(Name("KerasDpvitRecordConvolutions").Device(tensorflow::DEVICE_CPU),
                        RecordConvolutionsOp);

// Upper bounds of the `product_norms` of `KerasDpvitRecordProducts` alone.
REGISTER_OP("KerasDpvitGramNorms")
    .Input("inputs: float")
    .Input("gradients: float")
    .Output("squared_norms: double")
    .SetShapeFn([](InferenceContext* context) {
      ShapeHandle inputs, gradients;
      DimensionHandle records;
      TF_RETURN_IF_ERROR(TokenShapes(context, &inputs, &gradients, &records));
      context->set_output(0, context->Vector(records));
      return absl::OkStatus();
    });

class GramNormsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    Tokens all;
    OP_REQUIRES_OK(context, ReadTokens(context, &all));
    double* norm;
    if (!Allocate(context, 0, TensorShape({all.records}), &norm)) return;
    const int64_t cycles = all.tokens * all.tokens * ((all.in + all.out) / kLanes + 6) / 2 + 1;
    Divide(context, all.records, cycles, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        norm[i] = GramNorm(all.InputsOf(i), all.GradientsOf(i), all.tokens, all.in, all.out);
      }
    });
  }
};

REGISTER_KERNEL_BUILDER(Name("KerasDpvitGramNorms").Device(tensorflow::DEVICE_CPU), GramNormsOp);

// Rows (records, numbers) -> their squared norms (records,).
REGISTER_OP("KerasDpvitSquaredNorms")
    .Input("rows: float")
    .Output("squared_norms: double")
    .SetShapeFn([](InferenceContext* context) {
      ShapeHandle rows;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 2, &rows));
      context->set_output(0, context->Vector(context->Dim(rows, 0)));
      return absl::OkStatus();
    });

class SquaredNormsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& rows = context->input(0);
    OP_REQUIRES(context, rows.dims() == 2,
                InvalidArgument("rows must be (records, numbers), got ",
                                rows.shape().DebugString()));
    const int64_t records = rows.dim_size(0), count = rows.dim_size(1);
    const float* from = rows.flat<float>().data();
    double* norm;
    if (!Allocate(context, 0, TensorShape({records}), &norm)) return;
    Divide(context, records, count / kLanes + 1, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) norm[i] = SquaredNorm(from + i * count, count);
    });
  }
};

REGISTER_KERNEL_BUILDER(Name("KerasDpvitSquaredNorms").Device(tensorflow::DEVICE_CPU),
                        SquaredNormsOp);

// Key and counter as `StatelessRandomGetKeyCounter` makes them -> (2 * pairs,).
REGISTER_OP("KerasDpvitStandardNormals")
    .Input("key: uint64")
    .Input("counter: uint64")
    .Output("normals: float")
    .Attr("pairs: int >= 1")
    .SetShapeFn([](InferenceContext* context) {
      int64_t pairs;
      TF_RETURN_IF_ERROR(context->GetAttr("pairs", &pairs));
      context->set_output(0, context->Vector(2 * pairs));
      return absl::OkStatus();
    });

class StandardNormalsOp : public OpKernel {
 public:
  explicit StandardNormalsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("pairs", &pairs_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &keys = context->input(0), &counters = context->input(1);
    OP_REQUIRES(context, keys.NumElements() == 1 && counters.NumElements() == 2,
                InvalidArgument("key must be (1,) and counter (2,), got ",
                                keys.shape().DebugString(), " and ",
                                counters.shape().DebugString()));
    const uint64_t key = keys.flat<tensorflow::uint64>()(0);
    const uint64_t low = counters.flat<tensorflow::uint64>()(0);
    const uint64_t high = counters.flat<tensorflow::uint64>()(1);
    const int64_t pairs = pairs_;
    float* to;
    if (!Allocate(context, 0, TensorShape({2 * pairs}), &to)) return;
    Divide(context, pairs, 30, [=](int64_t begin, int64_t end) {
      StandardNormals(key, low, high, pairs, begin, end, to + begin, to + pairs + begin);
    });
  }

 private:
  int64_t pairs_;
};

REGISTER_KERNEL_BUILDER(Name("KerasDpvitStandardNormals").Device(tensorflow::DEVICE_CPU),
                        StandardNormalsOp);

}  // namespace keras_dpvit
