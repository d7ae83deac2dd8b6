// Softmax of each row, exp(x - max) / sum(exp(x - max)), computed in 32 bits and rounded once.
//
// One block per row, which it reads twice: first for the row's maximum and sum together (Milakov
// and Gimelshein 2018, "Online normalizer calculation for softmax"), then to write the results.
// The second time the row comes from a cache, so memory moves each element in once and out once.
//
// As in torch, a row with a NaN or a positive infinity becomes NaN, and so does one of negative
// infinities alone.
//
//     nvcc -std=c++17 -arch=sm_90 -cubin -DELEMENT=float kernels/softmax.cu
#include "vector.cuh"

// The sum of exp(x - maximum) over some of a row's elements.
struct Exponentials {
    float maximum;
    float sum;
};

__device__ __forceinline__ Exponentials from_lane_above(Exponentials state, int distance) {
    return {from_lane_above(state.maximum, distance), from_lane_above(state.sum, distance)};
}

struct Normalizer {
    // The lowest finite number, not negative infinity: differences with it stay defined.
    static __device__ Exponentials start() { return {__uint_as_float(0xff7fffffu), 0.0f}; }
    static __device__ Exponentials combine(Exponentials left, Exponentials right) {
        const float maximum = right.maximum > left.maximum ? right.maximum : left.maximum;
        return {maximum, left.sum * expf(left.maximum - maximum) +
                             right.sum * expf(right.maximum - maximum)};
    }
};

// The pack's maximum first, so that the sum so far is rescaled once for all of its elements.
template <typename Elements>
__device__ __forceinline__ Exponentials take(Exponentials state, Elements pack) {
    float maximum = state.maximum;
#pragma unroll
    for (int i = 0; i < Elements::SIZE; ++i) {
        const float value = widen(pack.elements[i]);
        maximum = value > maximum ? value : maximum;
    }
    float sum = state.sum * expf(state.maximum - maximum);
#pragma unroll
    for (int i = 0; i < Elements::SIZE; ++i) {
        sum += expf(widen(pack.elements[i]) - maximum);
    }
    return {maximum, sum};
}

template <typename Elements>
__device__ __forceinline__ void softmax_of_row(
    const Elements* input, Elements* output, long long packs) {
    Exponentials state = Normalizer::start();
    for (long long i = threadIdx.x; i < packs; i += THREADS) {
        state = take(state, input[i]);
    }
    state = combine_block<Normalizer>(state);
    __shared__ Exponentials of_row;
    if (threadIdx.x == 0) {
        of_row = state;
    }
    __syncthreads();
    const float maximum = of_row.maximum;
    const float scale = 1.0f / of_row.sum;
    for (long long i = threadIdx.x; i < packs; i += THREADS) {
        Elements pack = input[i];
#pragma unroll
        for (int j = 0; j < Elements::SIZE; ++j) {
            pack.elements[j] =
                narrow<ELEMENT>(expf(widen(pack.elements[j]) - maximum) * scale);
        }
        output[i] = pack;
    }
}

// Row blockIdx.x of ``columns`` elements. Rows that don't begin at 16-byte addresses go element by
// element.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    softmax(const ELEMENT* __restrict__ input, ELEMENT* __restrict__ output, long long columns) {
    using Whole = Pack<ELEMENT>;
    using Single = Pack<ELEMENT, 1>;
    input += blockIdx.x * columns;
    output += blockIdx.x * columns;
    if (columns % Whole::SIZE == 0 && is_aligned(input) && is_aligned(output)) {
        softmax_of_row(reinterpret_cast<const Whole*>(input), reinterpret_cast<Whole*>(output),
                       columns / Whole::SIZE);
    } else {
        softmax_of_row(reinterpret_cast<const Single*>(input), reinterpret_cast<Single*>(output),
                       columns);
    }
}
