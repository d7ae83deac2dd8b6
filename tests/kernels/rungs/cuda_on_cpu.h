// CUDA C++ for a host compiler: include this first, and g++ or clang takes a .cu file as it is.
//
// Each CUDA thread is a fiber, all on one operating-system thread; cuda_on_cpu.cpp switches
// between them, in an order of the caller's choice, where they wait for each other. Enough of CUDA
// for the kernels of this project, and strict where a card is lenient: a barrier that some threads
// never reach, a shuffle that leaves a lane out, or a mask that its lanes disagree about is an
// error. Blocks run one after another.
#pragma once
#define CUDA_ON_CPU

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block at a time, so one copy is enough. The caller has each block begin with all such
// variables filled with POISON; it finds them in the symbol table, where only they are static.
#define __shared__ static

namespace cuda_on_cpu {

// As a float, double or integer it is huge, as a 16-bit float it is a NaN: it spoils any result.
constexpr unsigned char POISON = 0x7f;

struct Index {
    unsigned int x, y, z;
};
struct Position {
    Index thread, block;
};

extern Position* position;  // of the thread that runs now
extern Index block_size, grid_size;

void wait_for_block(int line);
// Give those who can go on, too, their turn first.
void let_others_run();
// What lane ``source`` of the warp brings, once all lanes of ``mask`` have brought theirs.
std::uint64_t exchange(unsigned int mask, std::uint64_t bits, int source, int line);
int lane();

template <typename Value>
Value shuffle(unsigned int mask, Value value, int source, int line) {
    static_assert(sizeof(Value) == 4 || sizeof(Value) == 8, "as on a card");
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(mask, bits, source, line);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename To, typename From>
To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "no bit is lost");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace cuda_on_cpu

#define threadIdx (cuda_on_cpu::position->thread)
#define blockIdx (cuda_on_cpu::position->block)
#define blockDim cuda_on_cpu::block_size
#define gridDim cuda_on_cpu::grid_size

#define __syncthreads() cuda_on_cpu::wait_for_block(__LINE__)
#define __shfl_down_sync(mask, value, distance) \
    cuda_on_cpu::shuffle(mask, value, cuda_on_cpu::lane() + (distance), __LINE__)
#define __shfl_up_sync(mask, value, distance) \
    cuda_on_cpu::shuffle(mask, value, cuda_on_cpu::lane() - (distance), __LINE__)
#define __shfl_xor_sync(mask, value, other) \
    cuda_on_cpu::shuffle(mask, value, cuda_on_cpu::lane() ^ (other), __LINE__)
#define __shfl_sync(mask, value, source) \
    cuda_on_cpu::shuffle(mask, value, (source) % 32, __LINE__)

// Atomics are the compiler's own, relaxed as on a card, so that a sanitizer knows them for atomic.
template <typename Word>
inline Word exchange_if_equal(Word* at, Word expected, Word wanted) {
    __atomic_compare_exchange_n(at, &expected, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
// Whoever compares has read before, and on a card others come between: here they do every time.
inline unsigned int atomicCAS(unsigned int* at, unsigned int expected, unsigned int wanted) {
    cuda_on_cpu::let_others_run();
    return exchange_if_equal(at, expected, wanted);
}
inline unsigned long long atomicCAS(
    unsigned long long* at, unsigned long long expected, unsigned long long wanted) {
    cuda_on_cpu::let_others_run();
    return exchange_if_equal(at, expected, wanted);
}
inline unsigned int atomicAdd(unsigned int* at, unsigned int value) {
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
template <typename Word, typename Value>
inline Value add_by_exchange(Value* at, Value value) {
    Word* word = reinterpret_cast<Word*>(at);
    Word seen = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (true) {
        const Value sum = cuda_on_cpu::bits_as<Value>(seen) + value;
        const Word before = exchange_if_equal(word, seen, cuda_on_cpu::bits_as<Word>(sum));
        if (before == seen) {
            return cuda_on_cpu::bits_as<Value>(seen);
        }
        seen = before;
    }
}
inline float atomicAdd(float* at, float value) {
    return add_by_exchange<unsigned int>(at, value);
}
inline double atomicAdd(double* at, double value) {
    return add_by_exchange<unsigned long long>(at, value);
}

inline float __uint_as_float(unsigned int bits) { return cuda_on_cpu::bits_as<float>(bits); }
inline unsigned int __float_as_uint(float value) {
    return cuda_on_cpu::bits_as<unsigned int>(value);
}
inline double __longlong_as_double(long long bits) { return cuda_on_cpu::bits_as<double>(bits); }

// vector.cuh's two instructions: both convert by IEEE 754's rules as well.
inline float half_to_float(unsigned short bits) {
    return static_cast<float>(cuda_on_cpu::bits_as<_Float16>(bits));
}
inline unsigned short float_to_half(float value) {
    return cuda_on_cpu::bits_as<unsigned short>(static_cast<_Float16>(value));
}
