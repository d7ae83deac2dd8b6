// Sum, maximum and the maximum's index of an array: one read of memory and next to nothing else,
// so the time of a good one is the bandwidth's. Four ways, from what one writes first to what
// keeps memory busy:
//
//     naive        every thread adds its elements to the one result, atomically
//     shared       a block meets in shared memory and halves itself until one state is left
//     shuffle      a warp meets in registers; only warps meet in shared memory
//     vectorized   … and loads come 16 bytes at a time, several of them before the first is used
//
// All but the naive one leave a state per block, and a second launch, `finish`, combines those.
// The order of the additions hangs on nothing but the sizes of array and grid and, where loads are
// wide, on the array's address modulo 16: equal input, aligned alike, gives equal bits. Atomic
// additions come in any order.
//
// Compile by hand, from the root of the checkout, for one operation and one type of element:
//     nvcc -std=c++17 -arch=sm_90 -cubin -DOPERATION=Sum -DELEMENT=float kernels/reduction.cu
// reduction.py has NVRTC compile it, for sm_60 (Pascal) and later.
#include "vector.cuh"

// Loads that each thread has in flight. To keep memory busy it takes latency times bandwidth, some
// 20 KiB for each multiprocessor of an H100; 2048 threads with four loads have 128 KiB under way.
constexpr int LOADS = 4;
constexpr int TILE = LOADS * THREADS;  // packs that a block has in flight

// What the naive kernel does to the one result. The hardware adds atomically; any other change is
// tried until nobody else came between.
__device__ __forceinline__ void add_atomically(float* sum, float value) { atomicAdd(sum, value); }
__device__ __forceinline__ void add_atomically(double* sum, double value) { atomicAdd(sum, value); }
__device__ __forceinline__ void add_atomically(long long* sum, long long value) {
    // Two's complement: the sum of both signs is the one of none.
    atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(value));
}

template <typename To, typename From>
__device__ __forceinline__ To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits are neither lost nor made up");
    union {
        From from;
        To to;
    } both = {from};
    return both.to;
}

template <int BYTES>
struct WordOf;
template <>
struct WordOf<4> {
    using Type = unsigned int;
};
template <>
struct WordOf<8> {
    using Type = unsigned long long;
};

template <typename Result, typename Change>
__device__ __forceinline__ void change_atomically(Result* result, Change change) {
    using Word = typename WordOf<sizeof(Result)>::Type;
    Word* target = reinterpret_cast<Word*>(result);
    Word seen = atomicAdd(target, Word(0));  // a read that is atomic
    while (true) {
        const Word wanted = same_bits<Word>(change(same_bits<Result>(seen)));
        if (wanted == seen) {
            return;
        }
        const Word before = atomicCAS(target, seen, wanted);
        if (before == seen) {
            return;
        }
        seen = before;
    }
}

// An operation says for how many blocks at a time a multiprocessor has room, how a thread starts,
// how it takes in its next element, how states combine (of any elements; or, cheaper, of elements
// that follow the first state's, ``offset`` later than they say), and what comes out. 16-bit floats
// are widened to 32 bits for all of them, and integers are added up in 64.

__device__ __forceinline__ float to_accumulator(float value) { return value; }
__device__ __forceinline__ double to_accumulator(double value) { return value; }
__device__ __forceinline__ long long to_accumulator(int value) { return value; }

template <typename Element>
struct Sum {
    using State = decltype(to_accumulator(Wide<Element>{}));
    using Result = State;
    static constexpr int ROOM = BLOCKS;
    static __device__ State start() { return 0; }
    static __device__ State take(State state, Element element, long long /*index*/) {
        return state + to_accumulator(widen(element));
    }
    static __device__ State combine(State left, State right) { return left + right; }
    static __device__ State follow(State state, State later, long long /*offset*/) {
        return combine(state, later);
    }
    static __device__ Result result(State state) { return state; }
    static __device__ void take_atomically(Result* result, const Element* values, long long index) {
        add_atomically(result, to_accumulator(widen(values[index])));
    }
};

__device__ __forceinline__ void set_lowest(float& value) { value = __uint_as_float(0xff800000u); }
__device__ __forceinline__ void set_lowest(double& value) {
    value = __longlong_as_double(static_cast<long long>(0xfff0000000000000ull));
}
__device__ __forceinline__ void set_lowest(int& value) { value = -2147483647 - 1; }

template <typename Value>
__device__ __forceinline__ bool is_nan(Value value) {
    return value != value;
}

// The greatest element; one NaN makes the result NaN, as in NumPy and torch.
template <typename Element>
struct Max {
    using State = Wide<Element>;
    using Result = State;
    static constexpr int ROOM = BLOCKS;
    static __device__ State start() {
        State lowest;
        set_lowest(lowest);
        return lowest;
    }
    static __device__ State take(State state, Element element, long long /*index*/) {
        return combine(state, widen(element));
    }
    static __device__ State combine(State left, State right) {
        return right > left || is_nan(right) ? right : left;
    }
    static __device__ State follow(State state, State later, long long /*offset*/) {
        return combine(state, later);
    }
    static __device__ Result result(State state) { return state; }
    static __device__ void take_atomically(Result* result, const Element* values, long long index) {
        change_atomically(
            result, [=](Result seen) { return take(seen, values[index], index); });
    }
};

template <typename Value>
struct Indexed {
    Value value;
    long long index;
};

template <typename Value>
__device__ __forceinline__ Indexed<Value> from_lane_above(Indexed<Value> state, int distance) {
    return {from_lane_above(state.value, distance), from_lane_above(state.index, distance)};
}

// Where the greatest element is: the first of equal ones, or the first NaN, as in NumPy.
template <typename Element>
struct ArgMax {
    using State = Indexed<Wide<Element>>;
    using Result = long long;
    // A value, its index and four packs don't fit into the 32 registers that let 2048 threads in.
    // 1536 of them with four loads each keep memory as busy.
    static constexpr int ROOM = FEWER_BLOCKS;
    // Index 0 is right until something greater comes: if nothing does, all elements are equal.
    static __device__ State start() { return {Max<Element>::start(), 0}; }
    static __device__ State take(State state, Element element, long long index) {
        return follow(state, {widen(element), index}, 0);
    }
    // In order, the first of equal ones stays by itself.
    static __device__ State follow(State state, State later, long long offset) {
        const bool is_ahead = !(later.value <= state.value) && !is_nan(state.value);
        return is_ahead ? State{later.value, offset + later.index} : state;
    }
    static __device__ bool is_ahead(State left, State right) {
        const bool is_first = left.index < right.index;
        if (is_nan(left.value) || is_nan(right.value)) {
            return is_nan(left.value) && (is_first || !is_nan(right.value));
        }
        return left.value > right.value || (left.value == right.value && is_first);
    }
    static __device__ State combine(State left, State right) {
        return is_ahead(right, left) ? right : left;
    }
    static __device__ Result result(State state) { return state.index; }
    // Only the index lies in the result; the value that it stands for is read again.
    static __device__ void take_atomically(Result* result, const Element* values, long long index) {
        const State mine = {widen(values[index]), index};
        change_atomically(
            result, [=](Result seen) { return combine({widen(values[seen]), seen}, mine).index; });
    }
};

using Operation = OPERATION<ELEMENT>;
using State = Operation::State;
using Result = Operation::Result;

__device__ __forceinline__ long long first_index() {
    return static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
}
__device__ __forceinline__ long long stride() {
    return static_cast<long long>(gridDim.x) * THREADS;
}

// One thread's share of the array, walked through in strides of the whole grid: whatever the size
// of the array, neighbouring threads read neighbouring elements.
__device__ __forceinline__ State take_elements(const ELEMENT* values, long long count) {
    State state = Operation::start();
#pragma unroll 1
    for (long long i = first_index(); i < count; i += stride()) {
        state = Operation::take(state, values[i], i);
    }
    return state;
}

__device__ __forceinline__ long long index_of(const Pack<ELEMENT>* pack, const ELEMENT* values) {
    return reinterpret_cast<const ELEMENT*>(pack) - values;
}

// A pack on its own first, where indices are constants, and then all of it after what came before.
__device__ __forceinline__ State take_pack(State state, Pack<ELEMENT> pack, long long index) {
    State of_pack = Operation::start();
#pragma unroll
    for (int i = 0; i < Pack<ELEMENT>::SIZE; ++i) {
        of_pack = Operation::take(of_pack, pack.elements[i], i);
    }
    return Operation::follow(state, of_pack, index);
}

// The same in packs. 16-byte loads need 16-byte addresses, so what lies before the first such
// address, and behind the last whole pack, is read one by one: fewer than 16 elements each.
__device__ __forceinline__ State take_packs(const ELEMENT* values, long long count) {
    const long long ahead = (16 - reinterpret_cast<size_t>(values) % 16) % 16 / sizeof(ELEMENT);
    const long long head = ahead < count ? ahead : count;
    const Pack<ELEMENT>* next = reinterpret_cast<const Pack<ELEMENT>*>(values + head);
    const Pack<ELEMENT>* end = next + (count - head) / Pack<ELEMENT>::SIZE;

    State state = Operation::start();
    if (first_index() < head) {
        state = Operation::take(state, values[first_index()], first_index());
    }
    // A block takes tiles of LOADS packs for each of its threads, so that one address serves a
    // thread for all of its loads. They come before the first use: none waits for another.
    next += static_cast<long long>(blockIdx.x) * TILE + threadIdx.x;
#pragma unroll 1
    for (; end - next > TILE - THREADS; next += static_cast<long long>(gridDim.x) * TILE) {
        Pack<ELEMENT> loaded[LOADS];
#pragma unroll
        for (int load = 0; load < LOADS; ++load) {
            loaded[load] = next[load * THREADS];
        }
#pragma unroll
        for (int load = 0; load < LOADS; ++load) {
            state = take_pack(state, loaded[load], index_of(next + load * THREADS, values));
        }
    }
    // Only the array's last tile can be cut short.
#pragma unroll 1
    for (; next < end; next += THREADS) {
        state = take_pack(state, *next, index_of(next, values));
    }
    const long long last = index_of(end, values) + first_index();
    if (last < count) {
        state = Operation::take(state, values[last], last);
    }
    return state;
}

// Halve a block in shared memory until one state is left, which thread 0 holds.
__device__ __forceinline__ State combine_in_shared_memory(State state) {
    __shared__ State of_thread[THREADS];
    of_thread[threadIdx.x] = state;
    for (unsigned int distance = THREADS / 2; distance > 0; distance /= 2) {
        __syncthreads();
        if (threadIdx.x < distance) {
            of_thread[threadIdx.x] =
                Operation::combine(of_thread[threadIdx.x], of_thread[threadIdx.x + distance]);
        }
    }
    return of_thread[threadIdx.x];  // the first one is thread 0's alone to read
}

// Thread by thread straight into the result, which the host has set to what the operation starts at.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    naive(const ELEMENT* __restrict__ values, long long count, Result* result) {
    for (long long i = first_index(); i < count; i += stride()) {
        Operation::take_atomically(result, values, i);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    shared(const ELEMENT* __restrict__ values, long long count, State* __restrict__ states) {
    const State state = combine_in_shared_memory(take_elements(values, count));
    if (threadIdx.x == 0) {
        states[blockIdx.x] = state;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    shuffle(const ELEMENT* __restrict__ values, long long count, State* __restrict__ states) {
    const State state = combine_block<Operation>(take_elements(values, count));
    if (threadIdx.x == 0) {
        states[blockIdx.x] = state;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, Operation::ROOM)
    vectorized(const ELEMENT* __restrict__ values, long long count, State* __restrict__ states) {
    const State state = combine_block<Operation>(take_packs(values, count));
    if (threadIdx.x == 0) {
        states[blockIdx.x] = state;
    }
}

// The second pass: one block combines the states that the first one's blocks left.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    finish(const State* __restrict__ states, long long count, Result* __restrict__ result) {
    State state = Operation::start();
#pragma unroll 1
    for (long long i = threadIdx.x; i < count; i += THREADS) {
        state = Operation::combine(state, states[i]);
    }
    state = combine_block<Operation>(state);
    if (threadIdx.x == 0) {
        *result = Operation::result(state);
    }
}
