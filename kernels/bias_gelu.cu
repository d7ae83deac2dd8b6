// gelu(x + bias) in one pass: y = z/2 · (1 + erf(z/√2)) with z = x + bias, for rows of ``columns``
// elements that share one bias row. Two separate operations would write z and read it back.
//
// A thread keeps its columns and walks down the rows, so it reads its part of the bias once.
// Computed in 32 bits and rounded once.
//
//     nvcc -std=c++17 -arch=sm_90 -cubin -DELEMENT=float kernels/bias_gelu.cu
#include "vector.cuh"

__device__ __forceinline__ float gelu(float value) {
    return 0.5f * value * (1.0f + erff(value * 0.70710678118654752f));
}

template <typename Elements>
__device__ __forceinline__ void bias_gelu_of_columns(
    const Elements* __restrict__ input, const Elements* __restrict__ bias,
    Elements* __restrict__ output, long long rows, long long columns) {
    const long long first = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    const long long stride = static_cast<long long>(gridDim.x) * THREADS;
    for (long long column = first; column < columns; column += stride) {
        const Elements shift = bias[column];
        const Elements* from = input + blockIdx.y * columns + column;
        Elements* to = output + blockIdx.y * columns + column;
        for (long long row = blockIdx.y; row < rows; row += gridDim.y) {
            Elements pack = *from;
#pragma unroll
            for (int i = 0; i < Elements::SIZE; ++i) {
                pack.elements[i] =
                    narrow<ELEMENT>(gelu(widen(pack.elements[i]) + widen(shift.elements[i])));
            }
            *to = pack;
            from += gridDim.y * columns;
            to += gridDim.y * columns;
        }
    }
}

// Any grid gives the same: blocks take turns at columns along x, and at rows along y. Rows that
// don't begin at 16-byte addresses go element by element. erf's coefficients need registers.
extern "C" __global__ void __launch_bounds__(THREADS, FEWER_BLOCKS)
    bias_gelu(const ELEMENT* __restrict__ input, const ELEMENT* __restrict__ bias,
              ELEMENT* __restrict__ output, long long rows, long long columns) {
    using Whole = Pack<ELEMENT>;
    using Single = Pack<ELEMENT, 1>;
    if (columns % Whole::SIZE == 0 && is_aligned(input) && is_aligned(bias) &&
        is_aligned(output)) {
        bias_gelu_of_columns(
            reinterpret_cast<const Whole*>(input), reinterpret_cast<const Whole*>(bias),
            reinterpret_cast<Whole*>(output), rows, columns / Whole::SIZE);
    } else {
        bias_gelu_of_columns(
            reinterpret_cast<const Single*>(input), reinterpret_cast<const Single*>(bias),
            reinterpret_cast<Single*>(output), rows, columns);
    }
}
