// Sum of an array: one read of memory and next to nothing else, so its time is the bandwidth's.
//
// Compile by hand, from the root of the checkout:
//     nvcc -std=c++17 -arch=sm_90 -cubin -o reduction.cubin kernels/reduction.cu
// reduction.py compiles it with NVRTC, for sm_60 (Pascal) and later. It includes no header, so
// NVRTC needs no CUDA toolkit beside it.
//
// A sum takes two launches of the same kernel: the first leaves one sum per block, the second,
// of a single block, adds those up. The order of the additions hangs on nothing but the sizes of
// array and grid, so equal input gives equal bits; atomic additions would come in any order.

constexpr int THREADS = 256;  // in a block; reduction.py launches as many …
constexpr int BLOCKS = 4;     // … and as many blocks on each multiprocessor, all there at once
constexpr int WARP = 32;
constexpr unsigned int ALL_LANES = 0xffffffff;
// Loads that each thread has in flight. To keep memory busy it takes latency times bandwidth,
// some 20 KiB for each multiprocessor of an H100; four blocks with four 16-byte loads a thread
// have 64 KiB under way.
constexpr int LOADS = 4;

// Storage formats without arithmetic of their own here. Their headers would give more, but NVRTC
// does not always find them.
struct Half {
    unsigned short bits;
};
struct BFloat16 {
    unsigned short bits;
};

// What a value is added up in at first: floats in float or wider, small integers in int.
__device__ __forceinline__ float widen(Half value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}
__device__ __forceinline__ float widen(BFloat16 value) {
    return __uint_as_float(static_cast<unsigned int>(value.bits) << 16);  // FP32's upper half
}
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ int widen(signed char value) { return value; }
__device__ __forceinline__ long long widen(long long value) { return value; }

// The elements within 16 bytes, the most that one load instruction can bring.
template <typename Element>
struct Pack {
    static constexpr int SIZE = sizeof(uint4) / sizeof(Element);
    union {
        uint4 bytes;
        Element elements[SIZE];
    };
};

template <typename Element>
__device__ __forceinline__ auto sum_of_pack(uint4 bytes) {
    Pack<Element> pack;
    pack.bytes = bytes;
    auto sum = widen(pack.elements[0]);
#pragma unroll
    for (int i = 1; i < Pack<Element>::SIZE; ++i) {
        sum += widen(pack.elements[i]);
    }
    return sum;
}

// One thread's share of the array, which it walks through in strides of the whole grid: whatever
// the size of the array, neighbouring threads read neighbouring packs.
template <typename Sum, typename Element>
__device__ __forceinline__ Sum sum_of_thread(const Element* values, long long count) {
    const long long thread = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    const long long threads = static_cast<long long>(gridDim.x) * THREADS;

    // 16-byte loads need 16-byte addresses. What lies before the first such address and behind
    // the last whole pack, fewer than 16 elements each, is read one by one.
    const long long ahead = (16 - reinterpret_cast<size_t>(values) % 16) % 16 / sizeof(Element);
    const long long head = ahead < count ? ahead : count;
    const long long packs = (count - head) / Pack<Element>::SIZE;
    const long long tail = head + packs * Pack<Element>::SIZE;
    Sum sum = 0;
    if (thread < head) {
        sum += widen(values[thread]);
    }
    if (thread < count - tail) {
        sum += widen(values[tail + thread]);
    }

    // The loads come first, then the additions: they go out without waiting for one another.
    const uint4* body = reinterpret_cast<const uint4*>(values + head);
    Sum sums[LOADS] = {};
    long long pack = thread;
    for (; pack + (LOADS - 1) * threads < packs; pack += LOADS * threads) {
        uint4 loaded[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            loaded[i] = body[pack + i * threads];
        }
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            sums[i] += sum_of_pack<Element>(loaded[i]);
        }
    }
    for (; pack < packs; pack += threads) {
        sum += sum_of_pack<Element>(body[pack]);
    }
#pragma unroll
    for (int i = 0; i < LOADS; ++i) {
        sum += sums[i];
    }
    return sum;
}

// Halve the number of sums five times, from register to register.
template <typename Sum>
__device__ __forceinline__ Sum sum_of_warp(Sum sum) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        sum += __shfl_down_sync(ALL_LANES, sum, distance);
    }
    return sum;  // right in lane 0
}

// Warps can't see each other's registers: each leaves its sum in shared memory, and the first
// warp adds them up.
template <typename Sum>
__device__ __forceinline__ Sum sum_of_block(Sum sum) {
    constexpr int WARPS = THREADS / WARP;
    __shared__ Sum shared[WARPS];
    const int lane = threadIdx.x % WARP;
    const int warp = threadIdx.x / WARP;
    sum = sum_of_warp(sum);
    if (lane == 0) {
        shared[warp] = sum;
    }
    __syncthreads();
    if (warp == 0) {
        sum = sum_of_warp(lane < WARPS ? shared[lane] : Sum(0));
    }
    return sum;  // right in thread 0
}

// ``sums`` has one element for each block of the grid. The bound on blocks tells the compiler that
// registers are no concern, or it saves some by waiting for two loads before the other two.
#define DEFINE_SUM(name, Element, Sum)                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                           \
        name(const Element* __restrict__ values, long long count, Sum* __restrict__ sums) { \
        const Sum sum = sum_of_block(sum_of_thread<Sum>(values, count));                    \
        if (threadIdx.x == 0) {                                                             \
            sums[blockIdx.x] = sum;                                                         \
        }                                                                                   \
    }

DEFINE_SUM(sum_fp16, Half, float)
DEFINE_SUM(sum_bf16, BFloat16, float)
DEFINE_SUM(sum_fp32, float, float)
DEFINE_SUM(sum_fp64, double, double)
DEFINE_SUM(sum_int8, signed char, long long)
DEFINE_SUM(sum_int64, long long, long long)
