// What the kernels of this folder share: 16-bit floats, 16-byte loads, and a block's agreement.
//
// Nothing is included from the CUDA toolkit, so NVRTC needs no toolkit beside it. gpubench.program
// puts this file's text where a kernel includes it; nvcc and g++ find it by themselves.

constexpr int THREADS = 256;  // in each block, of every kernel here; program.py launches as many
constexpr int WARP = 32;
constexpr unsigned int ALL_LANES = 0xffffffff;

// As many blocks as fill a multiprocessor with threads. Said at each kernel, it makes the compiler
// keep to the registers that leave room for all of them; more would leave the memory waiting.
#if __CUDA_ARCH__ == 750
constexpr int BLOCKS = 1024 / THREADS;  // Turing
#elif __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ == 1200
constexpr int BLOCKS = 1536 / THREADS;  // GeForce and workstation cards since Ampere
#else
constexpr int BLOCKS = 2048 / THREADS;
#endif
// The same for kernels that 32 registers are too few for: 40 leave room for six.
constexpr int FEWER_BLOCKS = BLOCKS < 6 ? BLOCKS : 6;

// Floats that are stored in 16 bits and computed with in 32.
struct Half {
    unsigned short bits;
};
struct BFloat16 {
    unsigned short bits;
};

// The one place that isn't C++: these two conversions are an instruction each. A host that has no
// such instructions brings functions of its own.
#ifndef CUDA_ON_CPU
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(bits));
    return wide;
}
__device__ __forceinline__ unsigned short float_to_half(float wide) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(wide));
    return bits;
}
#endif

// From the type that lies in memory to the one that is computed with …
__device__ __forceinline__ float widen(Half value) { return half_to_float(value.bits); }
__device__ __forceinline__ float widen(BFloat16 value) {
    return __uint_as_float(static_cast<unsigned int>(value.bits) << 16);  // FP32's upper half
}
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ int widen(int value) { return value; }

template <typename Element>
using Wide = decltype(widen(Element{}));

// … and back, to the nearest, and to the even one of two that are equally near.
template <typename Element>
__device__ __forceinline__ Element narrow(Wide<Element> value) {
    return value;
}
template <>
__device__ __forceinline__ Half narrow<Half>(float value) {
    return {float_to_half(value)};
}
template <>
__device__ __forceinline__ BFloat16 narrow<BFloat16>(float value) {
    const unsigned int bits = __float_as_uint(value);
    if (value != value) {
        return {0x7fff};  // rounding could carry a NaN over into infinity
    }
    return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16) % 2) >> 16)};
}

// Elements that one instruction loads or stores: as a rule 16 bytes of them, the most there is.
// The alignment is what allows that; without it the compiler has to move them one by one.
template <typename Element, int COUNT = 16 / sizeof(Element)>
struct alignas(COUNT * sizeof(Element)) Pack {
    static constexpr int SIZE = COUNT;
    Element elements[SIZE];
};

template <typename Element>
__device__ __forceinline__ bool is_aligned(const Element* address) {
    return reinterpret_cast<size_t>(address) % 16 == 0;
}

__device__ __forceinline__ float from_lane_above(float value, int distance) {
    return __shfl_down_sync(ALL_LANES, value, distance);
}
__device__ __forceinline__ double from_lane_above(double value, int distance) {
    return __shfl_down_sync(ALL_LANES, value, distance);
}
__device__ __forceinline__ int from_lane_above(int value, int distance) {
    return __shfl_down_sync(ALL_LANES, value, distance);
}
__device__ __forceinline__ long long from_lane_above(long long value, int distance) {
    return __shfl_down_sync(ALL_LANES, value, distance);
}

// Halve the number of states five times, from register to register; lane 0 holds the result.
template <typename Operation, typename State>
__device__ __forceinline__ State combine_warp(State state) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        state = Operation::combine(state, from_lane_above(state, distance));
    }
    return state;
}

// Warps can't see each other's registers: each leaves its state in shared memory, and the first
// warp combines those. Thread 0 holds the result.
template <typename Operation, typename State>
__device__ __forceinline__ State combine_block(State state) {
    constexpr int WARPS = THREADS / WARP;
    __shared__ State of_warp[WARPS];
    const int lane = threadIdx.x % WARP;
    const int warp = threadIdx.x / WARP;
    state = combine_warp<Operation>(state);
    if (lane == 0) {
        of_warp[warp] = state;
    }
    __syncthreads();
    if (warp == 0) {
        state = combine_warp<Operation>(lane < WARPS ? of_warp[lane] : Operation::start());
    }
    return state;
}
